"""What a whole sampling costs when a schedule moves the sparse grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .config import BackboneConfig
from .cost import Convention, macs, model_config, token_grid
from .layout import SegmentLayout
from .schedule import PruningSchedule
from .tokens import Grid


@dataclass(frozen=True)
class ScheduleCost:
    """MACs of one image over the evaluations of a sampling, in their order (guidance doubles every one).

    ``times``  diffusion time of each evaluation; ``grids`` its sparse grid; ``macs`` its MACs
    ``dense``  MACs of one evaluation of the dense model
    """

    times: tuple[float, ...]
    grids: tuple[Grid, ...]
    macs: tuple[int, ...]
    dense: int
    convention: Convention
    dense_grid: Grid

    @property
    def total(self) -> int:
        """MACs of all evaluations."""
        return sum(self.macs)

    @property
    def flops(self) -> int:
        """Floating-point operations of all evaluations, two per MAC."""
        return 2 * self.total

    @property
    def mean(self) -> float:
        """Mean MACs of an evaluation."""
        return self.total / len(self.macs)

    @property
    def ratio(self) -> float:
        """Share of the dense model's MACs."""
        return self.mean / self.dense

    def __int__(self) -> int:
        return self.total

    def to_json(self) -> dict[str, Any]:
        """Plain values: totals and means in MACs and FLOPs, the share of dense, and every evaluation."""
        return {
            "convention": self.convention,
            "dense_grid": list(self.dense_grid),
            "evaluations": len(self.macs),
            "macs": self.total,
            "flops": self.flops,
            "mean_macs": self.mean,
            "mean_flops": 2 * self.mean,
            "dense_macs": self.dense,
            "dense_flops": 2 * self.dense,
            "ratio_to_dense": self.ratio,
            "per_evaluation": [
                {"time": time, "sparse_grid": list(grid), "macs": count, "flops": 2 * count}
                for time, grid, count in zip(self.times, self.grids, self.macs, strict=True)
            ],
        }


def even_times(steps: int) -> tuple[float, ...]:
    """``steps`` diffusion times evenly from 1 to 0; those of a sampler: ``sampling.evaluation_times``."""
    if steps < 1:
        raise ValueError(f"a sampling of {steps} steps is empty; give at least 1")
    return tuple(1.0 - i / max(steps - 1, 1) for i in range(steps))


def schedule_macs(
    model: str | BackboneConfig,
    schedule: PruningSchedule,
    steps: int | Sequence[float] = 250,
    image_size: int | tuple[int, int] | None = None,
    layout: SegmentLayout | str | None = None,
    convention: Convention = "executed",
    *,
    factor: int | None = None,
    caption_tokens: int | None = None,
) -> ScheduleCost:
    """The cost of one image over a sampling under ``schedule``.

    ``steps`` is the number of evaluations, evenly from noise to image, or their times (1 noise, 0 image).
    The other arguments are those of :func:`sparsedit_core.cost.macs`. ``ValueError`` when there is no layout.
    """
    config = model_config(model, layout)
    if config.layout is None:
        raise ValueError(
            'a schedule needs a sparse model, this one is dense; give a layout like "2+4x[1,3,1,1]+2"'
        )
    times = even_times(steps) if isinstance(steps, int) else tuple(float(time) for time in steps)
    if not times:
        raise ValueError("a sampling without evaluations has no cost; give at least one time")
    dense_grid = token_grid(config, image_size, factor=factor)
    grids = tuple(schedule.grid(time, dense_grid) for time in times)
    size = dense_grid[0] * config.patch_size, dense_grid[1] * config.patch_size

    def count(wanted: BackboneConfig, grid: Grid | None) -> int:
        keywords: dict[str, Any] = {"convention": convention, "factor": 1, "caption_tokens": caption_tokens}
        return macs(wanted, size, sparse_grid=grid, **keywords).total

    by_grid = {grid: count(config, grid) for grid in set(grids)}
    dense = count(replace(config, layout=None), None)
    return ScheduleCost(times, grids, tuple(by_grid[grid] for grid in grids), dense, convention, dense_grid)
