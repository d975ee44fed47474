"""The moving token count in training: all times together are uniform, and every batch has the one grid of its times."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsedit_core.diffusion import diffusion_time
from sparsedit_core.diffusion.model_time import Prediction
from sparsedit_core.schedule import PruningSchedule
from sparsedit_core.train.times import draw_times, slot_buckets, time_buckets

UNEVEN = PruningSchedule(rate_noise=0.96, rate_clean=0.1, hold_fraction=0.55, levels=4)
"""Its four buckets have very different widths."""

RATES = st.floats(0.0, 0.98)
SCHEDULES = st.builds(
    lambda rates, hold_fraction, hold, curve, levels, window: PruningSchedule(
        max(rates), min(rates), hold_fraction, hold, curve, levels, start=window[0] * 0.4, end=0.6 + window[1] * 0.4
    ),
    st.tuples(RATES, RATES),
    st.floats(0.0, 0.9),
    st.sampled_from(["noise", "clean"]),
    st.sampled_from(["linear", "cosine", "steps"]),
    st.sampled_from([None, 2, 3, 6]),
    st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)),
)


def distance(values: Tensor, steps: int | None = None) -> float:
    """Kolmogorov-Smirnov distance of values from the uniform distribution on [0, 1), or on 0 .. steps - 1.

    Times sqrt(n) it stays below 1.95 in 999 of 1000 sets of independent values.
    """
    ordered = values.double().sort().values
    n = len(ordered)
    above = torch.arange(1, n + 1, dtype=torch.float64) / n
    if steps is None:
        return float(torch.maximum(above - ordered, ordered - (above - 1 / n)).max())
    counts = torch.bincount(values, minlength=steps).double().cumsum(0) / n
    return float((counts - torch.arange(1, steps + 1) / steps).abs().max())


def drawn(prediction: Prediction, slots: int, n: int = 4000, seed: int = 0) -> Tensor:
    """n times, one of each micro-batch, so that they are independent but for their slots."""
    generator = torch.Generator().manual_seed(seed)
    dense = (16, 16)
    found = [
        draw_times(1, UNEVEN, dense, generator, prediction=prediction, slot=number % slots, slots=slots)[0]
        for number in range(n)
    ]
    return torch.cat(found)


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_flow_times_are_uniform(slots: int) -> None:
    assert distance(drawn("flow", slots)) * math.sqrt(4000) < 1.95


@pytest.mark.parametrize("slots", [1, 3])
def test_timesteps_are_uniform(slots: int) -> None:
    steps = drawn("eps", slots)
    assert steps.dtype == torch.int64
    assert distance(steps, 1000) * math.sqrt(4000) < 1.95
    assert (int(steps.min()), int(steps.max())) <= (5, 999)


def test_the_bound_catches_buckets_drawn_without_their_width(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.multinomial

    def evenly(widths: Tensor, *rest: object, **keywords: torch.Generator) -> Tensor:
        return original(torch.ones_like(widths), 1, **keywords)

    monkeypatch.setattr(torch, "multinomial", evenly)
    assert distance(drawn("flow", 1)) * math.sqrt(4000) > 5
    assert distance(drawn("eps", 1), 1000) * math.sqrt(4000) > 5


def test_every_timestep_has_the_same_probability() -> None:
    """Exactly: over the slots, the shares of all pieces of [t/1000, (t+1)/1000) sum to 1/1000."""
    for slots in (1, 3, 7):
        total = torch.zeros(1000, dtype=torch.float64)
        edges = torch.arange(1001, dtype=torch.float64) / 1000
        for slot in range(slots):
            pieces = slot_buckets(time_buckets(UNEVEN, (16, 16), "eps"), slot, slots)
            width = sum(end - start for start, end, _ in pieces)
            for start, end, _ in pieces:
                inside = (edges[1:].clamp(max=end) - edges[:-1].clamp(min=start)).clamp(min=0)
                total += inside / width / slots
        torch.testing.assert_close(total, torch.full_like(total, 1e-3), rtol=1e-9, atol=0)


@given(
    SCHEDULES,
    st.tuples(st.integers(1, 32), st.integers(1, 32)),
    st.integers(1, 9),
    st.sampled_from(["flow", "eps"]),
    st.integers(0, 2**20),
)
@settings(max_examples=150)
def test_every_batch_has_the_grid_of_all_its_times(
    schedule: PruningSchedule, dense: tuple[int, int], slots: int, prediction: Prediction, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    for slot in range(slots):
        times, grid = draw_times(6, schedule, dense, generator, prediction=prediction, slot=slot, slots=slots)
        to_time: Callable[[float], float] = (lambda t: t) if prediction == "flow" else diffusion_time
        assert {schedule.grid(to_time(t), dense) for t in times.tolist()} == {grid}
        low, high = (bound / slots * (1000 if prediction == "eps" else 1) for bound in (slot, slot + 1))
        assert all(math.floor(low) <= t <= high for t in times.tolist())


def test_a_dense_model_draws_over_all_times_in_every_slot() -> None:
    generator = torch.Generator().manual_seed(0)
    for slot in range(2):
        times, grid = draw_times(4000, None, (4, 4), generator, slot=slot, slots=2)
        assert grid is None
        assert distance(times) * math.sqrt(4000) < 1.95
    with pytest.raises(ValueError, match="slot 2 is none of the 2"):
        draw_times(1, None, (4, 4), generator, slot=2, slots=2)
