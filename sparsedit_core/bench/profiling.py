"""Which operation takes the time: torch's profiler over the dense and the sparse model of a case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from .case import BenchCase, build_models
from .comfyui import ComfyUI
from .measure import DENSE, compiler_room, grid_name, rivals, variants


@dataclass(frozen=True)
class OpTime:
    """Self time of one operation in one evaluation; on an accelerator that of its kernels."""

    name: str
    calls: float
    seconds: float


def profile_case(
    case: BenchCase, calls: int = 3, top: int = 12, comfyui: ComfyUI | None = None
) -> dict[str, list[OpTime]]:
    """The ``top`` operations of the dense model, of core ComfyUI's if it is given and the case is a PixArt, and of the
    schedule's commonest grid, the slowest first.

    The profiler itself costs time on small operations: compare shares, and take seconds from the benchmark.
    """
    grids = case.grids()
    commonest = max(grids, key=lambda grid: grids[grid])
    with torch.no_grad(), compiler_room(case):
        models = build_models(case)
        beside = rivals(models, comfyui)
        runs = variants(case, models, [commonest], beside)
        names = [*beside, DENSE, grid_name(commonest)]
        return {name: _profiled(runs[name], case, calls)[:top] for name in names}


def _profiled(run: Callable[[], object], case: BenchCase, calls: int) -> list[OpTime]:
    on_cpu = torch.device(case.device).type == "cpu"
    activities = [ProfilerActivity.CPU] if on_cpu else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    for _ in range(3):
        run()  # compiled and allocated before the profile starts
    with profile(activities=activities) as recorded:
        for _ in range(calls):
            run()
        if not on_cpu:
            torch.accelerator.synchronize()
    times = [
        OpTime(
            event.key,
            event.count / calls,
            (event.self_cpu_time_total if on_cpu else event.self_device_time_total) / 1e6 / calls,
        )
        for event in recorded.key_averages()
        if on_cpu or str(event.device_type).endswith("CUDA")
    ]
    return sorted((entry for entry in times if entry.seconds > 0), key=lambda entry: -entry.seconds)
