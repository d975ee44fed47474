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

from ..conditions import Captions, Conditions, check_conditions, with_classes
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

    ``images``  (B, C, H, W) samples in model space; ``noise``  like them; ``conditions``  labels (B,) or captions,
    some of them replaced by the null class or caption; ``times``  (B,) as :func:`times.draw_times` gives them;
    ``grid``  None if dense.
    """

    images: Tensor
    conditions: Conditions
    times: Tensor
    noise: Tensor
    grid: Grid | None

    def to(self, device: torch.device, dtype: torch.dtype) -> MicroBatch:
        """On a device, pictures and noise in ``dtype``; so are float64 times, which some devices do not have."""
        times = self.times.to(dtype) if self.times.is_floating_point() and device.type != "cpu" else self.times
        return replace(
            self,
            images=self.images.to(device, dtype, non_blocking=True),
            conditions=self.conditions.to(device, non_blocking=True),
            times=times.to(device, non_blocking=True),
            noise=self.noise.to(device, dtype, non_blocking=True),
        )


@dataclass(frozen=True)
class MicroBatches:
    """The micro-batches of a run; a step has ``slots`` of them, number n is slot n % slots of step n // slots.

    ``null_caption``  (l, C), what takes the place of dropped captions; of labels it is the config's null class.
    """

    source: Source
    config: BackboneConfig
    schedule: PruningSchedule | None
    prediction: Prediction
    options: TrainOptions
    slots: int = 1
    null_caption: Tensor | None = None

    def __call__(self, number: int) -> MicroBatch:
        """Micro-batch ``number``; ``ValueError`` for a label or caption that the model cannot take."""
        size = self.options.part(self.slots)
        images, conditions = self.source.batch(self.options.first + number * size, size)
        check_conditions(self.config, conditions)
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
        conditions = self._without(conditions, dropped)
        return MicroBatch(images, conditions, times, torch.randn(images.shape, generator=generator), grid)

    def _without(self, conditions: Conditions, dropped: Tensor) -> Conditions:
        if not isinstance(conditions, Captions):
            return torch.where(dropped, with_classes(self.config).num_classes, conditions)
        if self.null_caption is None:  # check_run has seen that nothing is to be dropped
            return conditions
        return conditions.without_text(self.null_caption, dropped)


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
