"""Dense, sparse and reference stacks of one case, measured in one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ..dit import DiT
from ..pixart import PixArt
from ..schedule import PruningSchedule
from ..tokens import Grid
from .case import BenchCase, CaseModels, build_models
from .comfyui import ComfyUI, CorePixArt, difference
from .stack import BareStack, PlainStack
from .timing import Progress, Run, interleaved

DENSE, BARE, PLAIN, CORE = "dense", "bare", "plain", "core"


@dataclass(frozen=True)
class Measurement:
    """Median seconds of one evaluation by variant, with what the case counts.

    ``seconds``      every value by variant: ``dense``, of a DiT the ``bare`` and ``plain`` stacks (bench/stack.py),
                     of a PixArt ``core`` (ComfyUI's own, bench/comfyui.py) where there is one, and one variant
                     ``"HxW"`` for each sparse grid
    ``grids``        share of the schedule's evaluations by grid; ``macs`` executed MACs by grid
    ``dense_macs``   executed MACs of the dense model, core's among them
    ``core``         ComfyUI's version and how far its float32 output was from ours
    """

    case: BenchCase
    seconds: dict[str, list[float]]
    grids: dict[Grid, float]
    macs: dict[Grid, int]
    dense_macs: int
    core: tuple[str, float] | None = None

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

    def times(self, reference: str, variant: str | None = None) -> float | None:
        """Seconds of a reference over those of a variant (``None``: the sparse model); ``None`` if not measured."""
        if reference not in self.seconds:
            return None
        return self.median(reference) / (self.sparse_seconds if variant is None else self.median(variant))

    @property
    def macs_ratio(self) -> float:
        """Dense MACs over sparse MACs: the speed-up if time were MACs."""
        return self.dense_macs / self.sparse_macs

    @property
    def reached(self) -> float:
        """Speed-up over MAC ratio."""
        return self.speed_up / self.macs_ratio

    @property
    def reached_over_core(self) -> float | None:
        """The same with the speed-up over core ComfyUI's dense model; ``None`` where it was not measured."""
        speed_up = self.times(CORE)
        return None if speed_up is None else speed_up / self.macs_ratio

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
            "caption_tokens": case.captions,
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
            "dense_over_bare": inverse(self.times(BARE, DENSE)),
            "dense_over_plain": inverse(self.times(PLAIN, DENSE)),
            "core": None if self.core is None else self._core_json(*self.core),
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

    def _core_json(self, version: str, apart: float) -> dict[str, Any]:
        return {
            "comfyui": version,
            "output_difference": apart,
            "seconds": self.median(CORE),
            "core_over_dense": self.times(CORE, DENSE),
            "speed_up": self.times(CORE),
            "speed_up_over_macs_ratio": self.reached_over_core,
        }


def inverse(ratio: float | None) -> float | None:
    """1 / ratio, where there is one."""
    return None if ratio is None else 1 / ratio


def grid_name(grid: Grid) -> str:
    """The name of a sparse variant: "8x8"."""
    return f"{grid[0]}x{grid[1]}"


def measure_case(
    case: BenchCase, repeats: int, progress: Progress = lambda _: None, comfyui: ComfyUI | None = None
) -> Measurement:
    """Build the models and measure every variant ``repeats`` times; ``progress`` hears of each.

    With a ``comfyui`` core's dense PixArt is measured among them, after its output has been compared with ours.
    """
    return measure_schedules(case, [case.schedule], repeats, progress, comfyui)[0]


def measure_schedules(
    case: BenchCase,
    schedules: Sequence[PruningSchedule],
    repeats: int,
    progress: Progress = lambda _: None,
    comfyui: ComfyUI | None = None,
) -> list[Measurement]:
    """The case under each of the schedules, measured together: every grid and the dense models once."""
    cases = [replace(case, schedule=schedule) for schedule in schedules]
    grids = every_grid(case, schedules)
    with torch.no_grad(), compiler_room(case):
        models = build_models(case)
        beside = rivals(models, comfyui)
        core = (comfyui.version, _agreement(case, models, comfyui)) if comfyui is not None and beside else None
        seconds = interleaved(
            variants(case, models, grids, beside),
            repeats,
            device=torch.device(case.device),
            warm_up=1 if case.mode == "eager" else 3,
            progress=progress,
        )
    counts = {grid: case.macs(grid) for grid in grids}
    return [Measurement(one, seconds, one.grids(), counts, case.macs(), core) for one in cases]


def every_grid(case: BenchCase, schedules: Sequence[PruningSchedule]) -> list[Grid]:
    """The grids of all schedules, each once."""
    return list(dict.fromkeys(grid for one in schedules for grid in replace(case, schedule=one).grids()))


def rivals(models: CaseModels, comfyui: ComfyUI | None) -> dict[str, nn.Module]:
    """Core ComfyUI's PixArt with the weights of ours; nothing without a ComfyUI or for another family."""
    if comfyui is None or not isinstance(models.dense, PixArt):
        return {}
    return {CORE: CorePixArt(models.dense, comfyui)}


def _agreement(case: BenchCase, models: CaseModels, comfyui: ComfyUI) -> float:
    """How far core's float32 output is from ours."""
    if case.dtype != torch.float32:
        models = build_models(replace(case, dtype=torch.float32, batch=1, guidance=False))
    assert isinstance(models.dense, PixArt)  # the caller has seen it
    return difference(CorePixArt(models.dense, comfyui), models.dense, models.inputs)


def variants(
    case: BenchCase, models: CaseModels, grids: list[Grid], beside: Mapping[str, nn.Module] = MappingProxyType({})
) -> dict[str, Run]:
    """The functions to time, by name; the models ``beside`` ours run on the same inputs."""
    dense: dict[str, nn.Module] = dict(beside)
    if isinstance(models.dense, DiT):
        dense |= {BARE: BareStack(models.dense), PLAIN: PlainStack(models.dense)}
    dense[DENSE] = models.dense
    runs: dict[str, Run] = {name: partial(prepared(model, case), *models.inputs) for name, model in dense.items()}
    sparse = prepared(models.sparse, case)
    return runs | {grid_name(grid): partial(sparse, *models.inputs, sparse_grid=grid) for grid in grids}


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
