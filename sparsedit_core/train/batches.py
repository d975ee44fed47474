"""Micro-batches by number: what is random in one depends on the seed and its number, on nothing that came before.

Therefore a resumed run goes on with the numbers it would have had, and the number of processes changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from ..config import BackboneConfig
from ..diffusion.model_time import Prediction
from ..schedule import PruningSchedule
from ..tokens import Grid
from .options import TrainOptions
from .source import Source
from .times import draw_times

T = TypeVar("T")


@dataclass(frozen=True)
class MicroBatch:
    """What one forward and backward pass works on.

    ``images``  (B, C, H, W) samples in model space; ``noise``  like them; ``labels``  (B,) int64, some of them
    replaced by the null class; ``times``  (B,) as :func:`times.draw_times` gives them; ``grid``  None if dense.
    """

    images: Tensor
    labels: Tensor
    times: Tensor
    noise: Tensor
    grid: Grid | None

    def to(self, device: torch.device, dtype: torch.dtype) -> MicroBatch:
        """On a device, pictures and noise in ``dtype``; so are float64 times, which some devices do not have."""
        times = self.times.to(dtype) if self.times.is_floating_point() and device.type != "cpu" else self.times
        return replace(
            self,
            images=self.images.to(device, dtype, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            times=times.to(device, non_blocking=True),
            noise=self.noise.to(device, dtype, non_blocking=True),
        )


@dataclass(frozen=True)
class MicroBatches:
    """The micro-batches of a run; a step has ``slots`` of them, number n is slot n % slots of step n // slots."""

    source: Source
    config: BackboneConfig
    schedule: PruningSchedule | None
    prediction: Prediction
    options: TrainOptions
    slots: int = 1

    def __call__(self, number: int) -> MicroBatch:
        """Micro-batch ``number``; ``ValueError`` for a label that the model's table has no row for."""
        size = self.options.part(self.slots)
        images, labels = self.source.batch(self.options.first + number * size, size)
        self._check_labels(labels)
        generator = torch.Generator().manual_seed(_mixed(self.options.seed, number))
        rows, columns = (side // self.config.patch_size for side in images.shape[-2:])
        times, grid = draw_times(
            size,
            self.schedule,
            (rows, columns),
            generator,
            prediction=self.prediction,
            slot=number % self.slots,
            slots=self.slots,
        )
        dropped = torch.rand(size, generator=generator) < self.options.label_drop
        labels = torch.where(dropped, self.config.num_classes, labels)
        return MicroBatch(images, labels, times, torch.randn(images.shape, generator=generator), grid)

    def _check_labels(self, labels: Tensor) -> None:
        wrong = labels[(labels < 0) | (labels >= self.config.num_classes)]
        if len(wrong):
            raise ValueError(
                f"the data have label {int(wrong[0])}, but the model's label table has the classes 0 .. "
                f"{self.config.num_classes - 1}; train on data of these classes, or a model with more of them"
            )


def ahead(make: Callable[[int], T], numbers: Iterable[int]) -> Generator[T, None, None]:
    """``make(number)`` for every number, each made in a second thread while the one before is worked on.

    The thread ends with the numbers, or when the generator is closed.
    """
    with ThreadPoolExecutor(1, "sparsedit-data") as pool:
        pending = None
        for number in numbers:
            following = pool.submit(make, number)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()


def _mixed(seed: int, number: int) -> int:
    """A generator's seed: a hash, because neighbouring (seed, number) pairs must not share streams."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=8).digest(), "little") >> 1
