"""The moving token count in training: every micro-batch has one token grid, and all times together are uniform.

A schedule cuts the time axis into buckets of one grid each (PAPERS 1.2, 1.6). An optimiser step consists of ``slots``
micro-batches, one for each process and accumulated part; slot k owns the times from k/slots to (k+1)/slots. It draws
one of the buckets that reach into its share, with probability equal to the width of what is inside, and then its
times uniformly in there: over steps each slot is uniform in its share, and all slots are uniform over all times. A
single slot owns the whole axis and draws buckets by their width.

Noise-predicting models have 1000 timesteps; timestep t owns [t/1000, (t+1)/1000) of the axis and has the grid of the
diffusion time t/999 that samplers ask for (diffusion/model_time.py).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from ..diffusion import diffusion_time
from ..diffusion.betas import BASE_STEPS
from ..diffusion.model_time import Prediction
from ..schedule import PruningSchedule
from ..tokens import Grid

Bucket = tuple[float, float, Grid]

_NARROWEST = 1e-12
_BORDER = 1e-14  # how far inside a bucket times stay: its borders are bisected to about 1e-15


@lru_cache(maxsize=64)
def time_buckets(schedule: PruningSchedule, dense: Grid, prediction: Prediction) -> tuple[Bucket, ...]:
    """``(from, to, grid)`` ascending over [0, 1], the grid of ``dense`` = (rows, columns) at the times in between."""
    if prediction == "flow":
        return tuple(schedule.buckets(dense))
    grids = [schedule.grid(diffusion_time(step, "eps"), dense) for step in range(BASE_STEPS)]
    found, start = [], 0
    for grid, members in groupby(grids):
        end = start + len(list(members))
        found.append((start / BASE_STEPS, end / BASE_STEPS, grid))
        start = end
    return tuple(found)


def slot_buckets(buckets: tuple[Bucket, ...], slot: int, slots: int) -> list[Bucket]:
    """What of the buckets lies in the share of a slot."""
    low, high = slot / slots, (slot + 1) / slots
    inside = [(max(start, low), min(end, high), grid) for start, end, grid in buckets]
    return [(start, end, grid) for start, end, grid in inside if end - start > _NARROWEST]


def draw_times(
    count: int,
    schedule: PruningSchedule | None,
    dense: Grid,
    generator: torch.Generator,
    *,
    prediction: Prediction = "flow",
    slot: int = 0,
    slots: int = 1,
) -> tuple[Tensor, Grid | None]:
    """Times of one micro-batch and its token grid; all random numbers come from ``generator``.

    Times are (count,) float64 in [0, 1) for flow models, int64 timesteps in 0 .. 999 for noise-predicting ones.
    Without a schedule every slot draws over the whole axis, and there is no grid.
    """
    if not 0 <= slot < slots:
        raise ValueError(f"slot {slot} is none of the {slots} micro-batches of a step")
    unit = torch.rand(count, generator=generator, dtype=torch.float64)
    start, end, grid = 0.0, 1.0, None
    if schedule is not None:
        buckets = slot_buckets(time_buckets(schedule, dense, prediction), slot, slots)
        widths = torch.tensor([end - start for start, end, _ in buckets], dtype=torch.float64)
        start, end, grid = buckets[int(torch.multinomial(widths, 1, generator=generator))]
    times = (start + (end - start) * unit).clamp(start + _BORDER, end - _BORDER)
    return (times, grid) if prediction == "flow" else ((times * BASE_STEPS).long(), grid)
