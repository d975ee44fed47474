"""Median seconds of several functions, measured in turn so that a machine's moods reach all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from ..device import wait

Run = Callable[[], object]
Progress = Callable[[str], object]


def interleaved(
    runs: Mapping[str, Run],
    repeats: int,
    *,
    device: torch.device,
    warm_up: int = 1,
    least_seconds: float = 0.05,
    progress: Progress = lambda _: None,
) -> dict[str, list[float]]:
    """Seconds of one call of every function, ``repeats`` values each.

    Warm-up calls (compilation, allocation; at least one) are not counted. A repetition calls each function once,
    forwards and backwards in turn; one value is the mean of as many calls as last ``least_seconds``, the device waited
    for.
    """
    calls = {}
    for name, run in runs.items():
        took = [_timed(run, 1, device) for _ in range(warm_up)][-1]
        if took < 10 * least_seconds:  # else one call is long enough, however much of this one was warming up
            took = _timed(run, 1, device)
        calls[name] = max(1, round(least_seconds / max(took, 1e-6)))
        progress(name)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for repeat in range(repeats):
        for name in reversed(order) if repeat % 2 else order:
            seconds[name].append(_timed(runs[name], calls[name], device))
            progress(name)
    return seconds


def _timed(run: Run, calls: int, device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait(device)
    return (time.perf_counter() - start) / calls
