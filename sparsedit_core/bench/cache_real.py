"""What a token cache costs and saves at real sizes: seconds of an evaluation at every level, beside its MACs.

Weights are random: seconds do not depend on them. Models may be cut to fewer blocks, which are all alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ..cache.costs import Costs, sublayer_costs
from ..cache.plan import FULL, NONE, CachePlan
from ..cache.runtime import TokenCache
from ..cache.visit import Visit
from ..cost import model_config, token_grid
from ..layout import SegmentLayout
from ..schedule import PRESETS
from .case import BenchCase, build_models
from .timing import Progress, interleaved

OWN = {"PixArt-XL/2@512": ("PixArt-XL/2", 512, 4), "DiT-XL/2@512": ("DiT-XL/2", 512, 4)}
"""Shapes of this package's models: model, picture side, blocks of it that are measured on a CPU."""
MOVES = ("aten::index_select", "aten::gather", "aten::index_copy_", "aten::scatter_")
"""What selecting, gathering and putting back tokens runs; nothing else of an evaluation of note runs them."""
HALF, QUARTER = 2, 1
DENSE = "full"


@dataclass(frozen=True)
class Subject:
    """A model to measure: its costs, how much of it there is, and a call of it under a visit."""

    name: str
    family: str
    costs: Costs
    tokens: int
    blocks: str
    evaluate: Callable[[Visit], object]
    device: str = "cpu"


@dataclass(frozen=True)
class Level:
    """An evaluation at some level: MACs as a share of full, seconds of every repetition, and the share of its time
    that selecting, gathering and putting back tokens takes."""

    name: str
    macs: float
    seconds: tuple[float, ...]
    moving: float

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class ShapeCosts:
    """What was found of a subject: full first."""

    name: str
    blocks: str
    tokens: int
    macs: int
    device: str
    levels: tuple[Level, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        full = self.levels[0].median
        return {
            "name": self.name, "blocks": self.blocks, "tokens": self.tokens, "macs": self.macs, "device": self.device,
            "levels": [
                {"level": each.name, "macs": each.macs, "seconds": each.median, "share": each.median / full,
                 "moving": each.moving, "seconds_of_every_repetition": list(each.seconds)}
                for each in self.levels
            ],
        }  # fmt: skip


def rows_of(costs: Costs) -> dict[str, tuple[int, ...]]:
    """The levels that are measured: all tokens, a part of them, whole sub-layers of as many MACs, nothing."""
    count = len(costs.sublayers)
    part = {".5 of tokens": (HALF,) * count, ".25 of tokens": (QUARTER,) * count}
    whole = {name.replace("tokens", "MACs, whole"): whole_row(costs, row) for name, row in part.items()}
    return {DENSE: (FULL,) * count, **part, **whole, "reuse all": (NONE,) * count}


def whole_row(costs: Costs, like: Sequence[int]) -> tuple[int, ...]:
    """Whole sub-layers, the costliest first, of at most the MACs of the row ``like``."""
    room = costs.at(like) - costs.outside
    row = [NONE] * len(like)
    for index in sorted(range(len(like)), key=lambda index: -costs.macs[index][FULL]):
        if costs.macs[index][FULL] <= room:
            row[index] = FULL
            room -= costs.macs[index][FULL]
    return tuple(row)


def measure_levels(subject: Subject, repeats: int, progress: Progress = lambda _: None) -> ShapeCosts:
    """Every level ``repeats`` times, interleaved, and once under torch's profiler."""
    rows, costs = rows_of(subject.costs), subject.costs
    times = [1 - number / len(rows) for number in range(len(rows))]
    cache = TokenCache(CachePlan(subject.family, tuple(times), costs.sublayers, tuple(rows.values())))
    device = torch.device(subject.device)

    def run(time: float) -> Callable[[], object]:
        return lambda: subject.evaluate(cache.evaluation(time))

    runs = dict(zip(rows, map(run, times), strict=True))
    with torch.no_grad():
        seconds = interleaved(runs, repeats, device=device, progress=lambda name: progress(f"{subject.name}, {name}"))
        moving = {name: moving_share(one, device) for name, one in runs.items()}
    levels = tuple(
        Level(name, costs.at(row) / costs.dense, tuple(seconds[name]), moving[name]) for name, row in rows.items()
    )
    return ShapeCosts(subject.name, subject.blocks, subject.tokens, costs.dense, subject.device, levels)


def moving_share(run: Callable[[], object], device: torch.device) -> float:
    """Share of the time of a call that :data:`MOVES` take, of the device's where it is not the processor."""
    on_cpu = device.type == "cpu"
    with profile(activities=[ProfilerActivity.CPU] + ([] if on_cpu else [ProfilerActivity.CUDA])) as recorded:
        run()
        if not on_cpu:
            torch.accelerator.synchronize()
    took = {
        event.key: event.self_cpu_time_total if on_cpu else event.self_device_time_total
        for event in recorded.key_averages()
        if event.key.startswith("aten::")
    }
    moved = sum(float(took.get(name, 0.0)) for name in MOVES)
    return moved / max(float(sum(took.values())), 1e-9)


def own_subject(name: str, blocks: int | None, device: str = "cpu") -> Subject:
    """One of :data:`OWN`; ``blocks`` ``None`` for all of them."""
    model, side, _ = OWN[name]
    whole = model_config(model)
    config = replace(whole, depth=min(blocks or whole.depth, whole.depth))
    case = BenchCase(config, side, SegmentLayout(0, (), config.depth), PRESETS["512 fast"], device=device)
    with torch.no_grad():
        models = build_models(case)
    grid = token_grid(config, side)
    return Subject(
        name, config.family, sublayer_costs(case.dense_config, grid, None, case.captions), grid[0] * grid[1],
        f"{config.depth} of {whole.depth} blocks", lambda visit: models.dense(*models.inputs, cache=visit), device,
    )  # fmt: skip
