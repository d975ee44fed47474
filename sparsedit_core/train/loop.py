"""The training loop: pictures in, a rectified-flow DiT or SparseDiT out, on one device.

A sparse model is trained under a schedule (PAPERS 1.2, 1.6): its time axis is cut into buckets of one token grid
each, a micro-batch draws one bucket with probability equal to its width and then its times inside it, so that the
times of a run are uniform while every batch has one grid.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..checkpoint import Latent, save_checkpoint
from ..diffusion import flow_losses
from ..dit import DiT
from ..schedule import PruningSchedule
from ..tokens import Grid
from .autocast import autocast
from .pictures import CLASS_NAMES, pictures

logger = logging.getLogger("sparsedit")

PIXELS = Latent(channels=3, scale=1.0, factor=1, kind="pixel")
Progress = Callable[[int, int, float], None]  # pictures seen, pictures in all, smoothed loss


@dataclass(frozen=True)
class TrainOptions:
    """How a run is trained.

    ``pictures``    how many training pictures it sees; picture ``first`` + i is the i-th
    ``decay``       fraction of the run, at its end, over which the learning rate falls linearly to zero
    ``label_drop``  fraction of labels replaced by the null class (classifier-free guidance)
    ``ema``         decay of the averaged weights per step; they are what is saved
    ``distill``     weight of the teacher's prediction as the target, against the pictures'; acts with a teacher
    ``bfloat16``    blocks compute in bfloat16 (autocast); weights, optimiser and loss stay float32
    """

    pictures: int = 100_000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.3
    label_drop: float = 0.1
    ema: float = 0.999
    seed: int = 0
    first: int = 0
    save_every: int = 16_000
    distill: float = 1.0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.pictures or self.save_every < 1:
            raise ValueError(
                f"pictures={self.pictures}, batch={self.batch}, save_every={self.save_every}: all must be 1 or more, "
                "and a run needs at least one batch of pictures"
            )
        shares = {"decay": self.decay, "label_drop": self.label_drop, "ema": self.ema, "distill": self.distill}
        wrong = [f"{name}={value}" for name, value in shares.items() if not 0 <= value <= 1]
        if wrong or self.ema == 1 or not 0 < self.learning_rate < math.inf:
            found = ", ".join(wrong) or f"ema={self.ema}, learning_rate={self.learning_rate}"
            raise ValueError(
                "decay, label_drop, distill and ema must lie in 0..1 (ema below 1) and the learning rate be a number "
                f"above 0; found {found}"
            )

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.pictures // self.batch

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, linear decay."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup), left)


def draw_times(
    count: int, schedule: PruningSchedule | None, dense: Grid, generator: torch.Generator
) -> tuple[Tensor, Grid | None]:
    """Times (count,) for one batch and its token grid (``None`` without a schedule); over batches they are uniform."""
    unit = torch.rand(count, generator=generator)
    if schedule is None:
        return unit, None
    buckets = schedule.buckets(dense)
    widths = torch.tensor([end - start for start, end, _ in buckets])
    start, end, grid = buckets[int(torch.multinomial(widths, 1, generator=generator))]
    return start + (end - start) * unit, grid


def train(
    model: DiT,
    out: str | os.PathLike[str],
    options: TrainOptions,
    *,
    schedule: PruningSchedule | None = None,
    teacher: DiT | None = None,
    metadata: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> DiT:
    """Train ``model`` in place on the procedural pictures and save the averaged weights to ``out``.

    Returns the averaged model. ``schedule`` is needed for a sparse model and refused for a dense one. ``teacher`` is a
    dense model of the same pictures whose prediction is the target in place of the pictures', which scatter around it:
    the same loss with less noise in its gradient.

    The file is rewritten every ``save_every`` pictures, so that an interrupted run leaves its newest state.
    """
    _check(model, schedule, options, teacher)
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], options.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(options.ema))  # type: ignore[no-untyped-call]
    averaged = cast(DiT, average.module)
    trained = metadata or {}
    smoothed = 0.0
    model.train()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate(step)
        loss = batch_loss(model, step, options, schedule, generator, teacher)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        # averaging from step 0 would remember the random start for 1/(1-ema) steps
        if step < 1 / (1 - options.ema) / 2:
            average.n_averaged.zero_()
        average.update_parameters(model)
        smoothed += (loss.item() - smoothed) * max(0.01, 1 / (step + 1))
        if not smoothed < 1e4:
            raise FloatingPointError(f"the loss is {smoothed} at step {step}; lower the learning rate ({options})")
        seen = (step + 1) * options.batch
        if progress is not None:
            progress(seen, options.steps * options.batch, smoothed)
        if seen % options.save_every < options.batch or step + 1 == options.steps:
            record = {"train": asdict(options) | {"seen": seen, "loss": smoothed}, **trained}
            save(averaged, out, schedule, record)
    return averaged.eval()


def batch_loss(
    model: DiT,
    step: int,
    options: TrainOptions,
    schedule: PruningSchedule | None,
    generator: torch.Generator,
    teacher: DiT | None = None,
) -> Tensor:
    """Mean rectified-flow loss of one micro-batch of pictures; all its random draws come from ``generator``.

    With a ``teacher``, ``options.distill`` of it is the squared distance to the teacher's prediction.
    """
    images, labels = pictures(options.first + step * options.batch, options.batch, seed=options.seed)
    dense = model.token_grid(*images.shape[-2:])
    times, grid = draw_times(options.batch, schedule, dense, generator)
    noise = torch.randn(images.shape, generator=generator)
    dropped = torch.rand(options.batch, generator=generator) < options.label_drop
    labels = torch.where(dropped, model.config.num_classes, labels)

    distances: list[Tensor] = []

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        with autocast(model, options.bfloat16):
            predicted: Tensor = model(x, t, labels, sparse_grid=grid).float()
        if teacher is not None:
            with torch.no_grad(), autocast(teacher, options.bfloat16):
                taught = teacher(x, t, labels).float()
            distances.append(F.mse_loss(predicted, taught))
        return predicted

    loss = flow_losses(velocity, images, times, noise)["loss"].mean()
    return torch.lerp(loss, distances[0], options.distill) if distances else loss


def save(model: DiT, out: str | os.PathLike[str], schedule: PruningSchedule | None, metadata: dict[str, Any]) -> None:
    """Write a model of procedural pictures with what is needed to sample it."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        out,
        model,
        schedule=schedule,
        prediction="flow",
        latent=PIXELS,
        class_names=CLASS_NAMES,
        metadata=metadata,
    )


def _check(model: DiT, schedule: PruningSchedule | None, options: TrainOptions, teacher: DiT | None) -> None:
    if teacher is not None and teacher.layout is not None:
        raise ValueError(f"the teacher is a SparseDiT (layout {teacher.layout}); give a dense model")
    if model.layout is not None and schedule is None:
        raise ValueError(
            f"the model is a SparseDiT (layout {model.layout}) but no schedule was given; a schedule says which token "
            "grid each time is trained with, e.g. PruningSchedule(rate_noise=0.86, rate_clean=0.61)"
        )
    if model.layout is None and schedule is not None:
        raise ValueError("a schedule was given but the model is dense; convert it first: convert_dense(model, layout)")
    if options.label_drop and not model.config.null_class:
        raise ValueError("label_drop needs a null class, which this label table has no row for; use label_drop=0")
