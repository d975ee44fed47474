"""Dense, sparse and reference stacks of one case, measured in one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ..tokens import Grid
from .case import BenchCase, CaseModels, build_models
from .stack import BareStack, PlainStack
from .timing import Progress, Run, interleaved

DENSE, BARE, PLAIN = "dense", "bare", "plain"


@dataclass(frozen=True)
class Measurement:
    """Median seconds of one evaluation by variant, with what the case counts.

    ``seconds``      every value by variant: ``dense``, the ``bare`` and ``plain`` stacks (bench/stack.py), and
                     one variant ``"HxW"`` for each sparse grid
    ``grids``        share of the schedule's evaluations by grid; ``macs`` executed MACs by grid
    ``dense_macs``   executed MACs of the dense model
    """

    case: BenchCase
    seconds: dict[str, list[float]]
    grids: dict[Grid, float]
    macs: dict[Grid, int]
    dense_macs: int

    def median(self, variant: str) -> float:
        """Median seconds of one evaluation of the whole batch."""
        return statistics.median(self.seconds[variant])

    @property
    def sparse_seconds(self) -> float:
        """Mean over the schedule of the grids' median seconds."""
        return sum(share * self.median(grid_name(grid)) for grid, share in self.grids.items())

    @property
    def sparse_macs(self) -> float:
        """Mean executed MACs over the schedule."""
        return sum(share * self.macs[grid] for grid, share in self.grids.items())

    @property
    def speed_up(self) -> float:
        """Dense seconds over sparse seconds."""
        return self.median(DENSE) / self.sparse_seconds

    @property
    def macs_ratio(self) -> float:
        """Dense MACs over sparse MACs: the speed-up if time were MACs."""
        return self.dense_macs / self.sparse_macs

    @property
    def reached(self) -> float:
        """Speed-up over MAC ratio."""
        return self.speed_up / self.macs_ratio

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``seconds_of_every_repetition`` holds what the medians were taken of."""
        case = self.case
        return {
            "model": case.name,
            "size": case.size,
            "layout": str(case.layout),
            "schedule": case.schedule.to_json(),
            "evaluations": case.steps,
            "batch": case.batch,
            "guidance": case.guidance,
            "device": case.device,
            "dtype": str(case.dtype).removeprefix("torch."),
            "mode": case.mode,
            "dense_seconds": self.median(DENSE),
            "sparse_seconds": self.sparse_seconds,
            "speed_up": self.speed_up,
            "dense_macs": self.dense_macs,
            "dense_flops": 2 * self.dense_macs,
            "sparse_macs": self.sparse_macs,
            "sparse_flops": 2 * self.sparse_macs,
            "macs_ratio": self.macs_ratio,
            "speed_up_over_macs_ratio": self.reached,
            "dense_over_bare": self.median(DENSE) / self.median(BARE),
            "dense_over_plain": self.median(DENSE) / self.median(PLAIN),
            "grids": [
                {
                    "sparse_grid": list(grid),
                    "share": share,
                    "seconds": self.median(grid_name(grid)),
                    "macs": self.macs[grid],
                    "flops": 2 * self.macs[grid],
                }
                for grid, share in self.grids.items()
            ],
            "seconds_of_every_repetition": self.seconds,
        }


def grid_name(grid: Grid) -> str:
    """The name of a sparse variant: "8x8"."""
    return f"{grid[0]}x{grid[1]}"


def measure_case(case: BenchCase, repeats: int, progress: Progress = lambda _: None) -> Measurement:
    """Build the models and measure every variant ``repeats`` times; ``progress`` hears of each."""
    grids = case.grids()
    with torch.no_grad(), compiler_room(case):
        models = build_models(case)
        seconds = interleaved(
            variants(case, models, list(grids)),
            repeats,
            device=torch.device(case.device),
            warm_up=1 if case.mode == "eager" else 3,
            progress=progress,
        )
    return Measurement(case, seconds, grids, {grid: case.macs(grid) for grid in grids}, case.macs())


def variants(case: BenchCase, models: CaseModels, grids: list[Grid]) -> dict[str, Run]:
    """The functions to time, by name."""
    inputs = models.inputs
    runs: dict[str, Run] = {
        BARE: partial(prepared(BareStack(models.dense), case), *inputs),
        PLAIN: partial(prepared(PlainStack(models.dense), case), *inputs),
        DENSE: partial(prepared(models.dense, case), *inputs),
    }
    sparse = prepared(models.sparse, case)
    return runs | {grid_name(grid): partial(sparse, *inputs, sparse_grid=grid) for grid in grids}


def prepared(model: nn.Module, case: BenchCase) -> Callable[..., object]:
    """The model as the case's mode runs it."""
    if case.mode == "eager":
        return model
    graphs = case.mode == "cuda-graphs"
    compiled = torch.compile(model, dynamic=False, mode="reduce-overhead" if graphs else "default")
    if not graphs:
        return compiled

    def replay(*args: Any, **keywords: Any) -> object:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # the last output may be overwritten
        return compiled(*args, **keywords)

    return replay


@contextmanager
def compiler_room(case: BenchCase) -> Iterator[None]:
    """Room for one graph per grid on top of those of the stacks, and none left behind."""
    if case.mode == "eager":
        yield
        return
    import torch._dynamo as dynamo  # seconds to import, not needed by eager runs

    dynamo.reset()
    with dynamo.config.patch(recompile_limit=64):
        yield
    dynamo.reset()
