"""Samples per second of the training loop beside a bare forward, backward and optimiser step of the same model.

What lies between the two is what the loop adds: making batches, clipping, averaging the weights, checking the loss,
telling the watchers. Both run the same micro-batches (and so the same token grids), a stretch of one after a stretch
of the other, so that a machine's moods reach both alike.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Latent, Loaded
from ..conditions import Captions, Conditions, call_model, null_caption, with_classes
from ..config import BackboneConfig, PixArtConfig
from ..cost import caption_length
from ..device import wait
from ..train.autocast import fast_attention, mixed_precision
from ..train.batches import MicroBatch, MicroBatches
from ..train.engine import train
from ..train.objective import Objective, objective_name
from ..train.optim import optimizer_of
from ..train.options import TrainOptions
from ..train.progress import Progress, Watcher
from ..train.source import Source

_WARM_UP = 3  # steps of a stretch before the clock starts: memory is allocated, the first batch is made


class RandomSource:
    """One batch of noise, given again and again: a source that costs nothing, for models without data at hand."""

    class_names = None
    count = None
    fingerprint = "noise"

    def __init__(self, config: BackboneConfig, latent: Latent, size: int) -> None:
        self.latent, self.input_size = latent, config.input_size
        generator = torch.Generator().manual_seed(0)
        self._images = torch.randn(size, latent.channels, *config.input_size, generator=generator)
        self.num_classes, self.caption_tokens = 0, caption_length(config)
        self.caption_channels: int | None = None
        self._conditions: Conditions
        if isinstance(config, PixArtConfig):
            self.caption_channels = config.caption_channels
            shape = size, self.caption_tokens, config.caption_channels
            self._conditions = Captions(torch.randn(shape, generator=generator), torch.ones(shape[:2]).bool())
        else:
            self.num_classes = with_classes(config).num_classes
            self._conditions = torch.randint(self.num_classes, (size,), generator=generator)

    def batch(self, first: int, size: int) -> tuple[Tensor, Conditions]:  # noqa: ARG002 (every batch is the same)
        """See :class:`..train.source.Source`."""
        return self._images[:size], self._conditions[:size]


@dataclass(frozen=True)
class TrainCase:
    """What is measured: ``loaded`` trained on ``source`` as ``options`` say, ``steps`` steps a stretch.

    ``name``  for people; ``device``  "cpu", or the accelerator that accelerate finds
    """

    name: str
    loaded: Loaded
    source: Source
    options: TrainOptions
    steps: int = 20
    device: str = "cpu"


@dataclass(frozen=True)
class Stretch:
    """Seconds of a stretch by the wall clock, and by the processor over all its cores."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Throughput:
    """The stretches of every repetition, ``loop[i]`` and ``bare[i]`` measured side by side."""

    case: TrainCase
    loop: list[Stretch]
    bare: list[Stretch]

    def rate(self, stretches: list[Stretch]) -> float:
        """Median samples per second."""
        samples = self.case.steps * self.case.options.batch
        return statistics.median(samples / stretch.seconds for stretch in stretches)

    @property
    def share(self) -> float:
        """The loop's samples per second over the bare step's: the median of the repetitions."""
        pairs = zip(self.loop, self.bare, strict=True)
        return statistics.median(bare.seconds / loop.seconds for loop, bare in pairs)

    @property
    def cpu_share(self) -> float | None:
        """The same by the processor's time, which other programs on the machine do not move; ``None`` off the CPU.

        It counts the making of batches in full, where the wall clock leaves out what another core does meanwhile.
        """
        if torch.device(self.case.device).type != "cpu":
            return None
        pairs = zip(self.loop, self.bare, strict=True)
        return statistics.median(bare.cpu_seconds / loop.cpu_seconds for loop, bare in pairs)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        layout = self.case.loaded.layout
        return {
            "model": self.case.name,
            "layout": None if layout is None else str(layout),
            "device": self.case.device,
            "precision": self.case.options.precision,
            "batch": self.case.options.batch,
            "steps": self.case.steps,
            "loop_samples_per_second": self.rate(self.loop),
            "bare_samples_per_second": self.rate(self.bare),
            "loop_over_bare": self.share,
            "loop_over_bare_by_cpu_time": self.cpu_share,
            "seconds_of_every_repetition": {"loop": rows(self.loop), "bare": rows(self.bare)},
        }


def rows(stretches: list[Stretch]) -> list[dict[str, float]]:
    """Plain values."""
    return [{"seconds": stretch.seconds, "cpu_seconds": stretch.cpu_seconds} for stretch in stretches]


def measure_training(case: TrainCase, repeats: int, progress: Callable[[str], object] = lambda _: None) -> Throughput:
    """``repeats`` stretches of both, each on a model of its own; ``progress`` hears of every stretch."""
    count = _WARM_UP + case.steps
    options = replace(case.options, pictures=max(case.options.pictures, (count + 1) * case.options.batch))
    loaded = case.loaded
    null = null_caption(loaded.model)
    batches = MicroBatches(
        case.source, loaded.config, loaded.schedule, loaded.prediction, options, null_caption=null
    )
    ready = [batches(number) for number in range(count)]
    runs: dict[str, Callable[[Loaded], Stretch]] = {
        "loop": lambda model: _loop_stretch(case, options, model),
        "bare": lambda model: _bare_stretch(case, options, model, ready),
    }
    found: dict[str, list[Stretch]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name in reversed(runs) if repeat % 2 else runs:
            found[name].append(runs[name](replace(loaded, model=copy.deepcopy(loaded.model))))
            progress(name)
    return Throughput(case, found["loop"], found["bare"])


class _Enough(Exception):
    """The stretch is over: the run ends before it writes anything."""


class _Clock:
    """Both clocks of a stretch, the device waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        wait(device)
        self.start = time.perf_counter(), time.process_time()

    def read(self) -> Stretch:
        """Since it was made."""
        wait(self.device)
        return Stretch(time.perf_counter() - self.start[0], time.process_time() - self.start[1])


class _Timer(Watcher):
    """A watcher that times the steps after the warm-up and then ends the run."""

    def __init__(self, case: TrainCase) -> None:
        self.device, self.steps = torch.device(case.device), case.steps
        self.clock: _Clock | None = None
        self.stretch: Stretch | None = None

    def step(self, progress: Progress, _: object) -> None:
        """See :class:`..train.progress.Watcher`."""
        if progress.step == _WARM_UP:
            self.clock = _Clock(self.device)
        elif progress.step == _WARM_UP + self.steps and self.clock is not None:
            self.stretch = self.clock.read()
            raise _Enough


def _loop_stretch(case: TrainCase, options: TrainOptions, loaded: Loaded) -> Stretch:
    """A stretch of the real loop; the one place that knows how a run is started."""
    timer = _Timer(case)
    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        out = Path(folder) / "bench.safetensors"
        train(loaded, out, case.source, options, watchers=[timer], cpu=timer.device.type == "cpu")
    assert timer.stretch is not None  # the run has more steps than the stretch
    return timer.stretch


def _bare_stretch(case: TrainCase, options: TrainOptions, loaded: Loaded, ready: list[MicroBatch]) -> Stretch:
    """As many forward passes, backward passes and optimiser steps, written out by hand."""
    device = torch.device(case.device)
    model = loaded.model.to(device).train()
    objective = Objective(objective_name(options.objective, loaded.prediction, loaded.config))
    optimizer = optimizer_of(model, options)
    parts = [batch.to(device, torch.float32) for batch in ready]
    clock = _Clock(device)
    with ExitStack() as stack:
        stack.enter_context(fast_attention([model], device.type == "cpu" and options.precision == "bf16"))
        for number, batch in enumerate(parts):
            if number == _WARM_UP:
                clock = _Clock(device)

            def predict(x: Tensor, t: Tensor, batch: MicroBatch = batch) -> Tensor:
                with mixed_precision(device.type, options.precision):
                    output = call_model(model, x, t, batch.conditions, sparse_grid=batch.grid)
                return output.float()

            loss = objective.losses(predict, batch)["loss"].mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    return clock.read()
