"""What ``train`` and ``finetune`` share: options, the bar, the loss log, what the file remembers."""

from __future__ import annotations

import argparse
import time
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..checkpoint import load_checkpoint
from ..dit import DiT
from ..schedule import PruningSchedule
from ..train.loop import TrainOptions, train
from . import options
from .files import command_line, versions, write_bytes
from .pictures import check_fits

HELP = {
    "pictures": "pictures seen in all",
    "batch": "pictures in one step",
    "learning_rate": "peak learning rate of AdamW",
    "warmup": "steps of linear warm-up",
    "decay": "fraction of the run, at its end, over which the rate falls to zero",
    "label_drop": "fraction of labels replaced by the null class",
    "ema": "decay of the averaged weights per step; they are what is saved",
    "seed": "seed of the data, the noise and the initial weights",
    "first": "number of the first picture",
    "save_every": "pictures between two saves",
    "distill": "with --teacher: weight of its prediction as the target, the pictures' has the rest",
    "bfloat16": "compute in bfloat16 with float32 weights; faster where the processor has bfloat16 products",
}
_LOG_EVERY = 50  # steps between two lines of the loss log


def add_training(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of ``TrainOptions``."""
    group = parser.add_argument_group("training")
    for item in fields(TrainOptions):
        default = item.default
        if default is MISSING or not isinstance(default, (int, float, str)):
            continue
        words = f"{HELP.get(item.name, item.name.replace('_', ' '))} (default {default})"
        flag = "--" + item.name.replace("_", "-")
        if isinstance(default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=words)
        else:
            group.add_argument(flag, type=type(default), default=default, metavar="N", help=words)
    group.add_argument("--teacher", metavar="FILE", help="learn the predictions of this dense model (distillation)")


def training_options(args: argparse.Namespace) -> TrainOptions:
    """What ``add_training`` reads."""
    return TrainOptions(
        **{item.name: getattr(args, item.name) for item in fields(TrainOptions) if hasattr(args, item.name)}
    )


def run_training(
    model: DiT, args: argparse.Namespace, schedule: PruningSchedule | None, facts: dict[str, Any] | None = None
) -> None:
    """Train with a bar and a loss log, and store how the file came about."""
    settings = training_options(args)
    teacher = None
    if args.teacher is not None:
        loaded = load_checkpoint(options.model_path(args.teacher), dtype=torch.float32)
        check_fits(loaded, args.teacher)
        teacher = loaded.model.requires_grad_(False)
    metadata = {"command": command_line(args.argv), "steps": settings.steps, "versions": versions(), **(facts or {})}
    log = LossLog(args.out.with_suffix(".loss.csv"), settings)
    with tqdm(total=settings.steps * settings.batch, unit=" pictures", dynamic_ncols=True, delay=0.5) as bar:

        def progress(seen: int, total: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update(seen - bar.n)
            log.add(seen, total, loss)

        train(model, args.out, settings, schedule=schedule, teacher=teacher, metadata=metadata, progress=progress)
    print(f"{args.out}: {settings.steps * settings.batch} pictures seen; losses in {log.path}")


class LossLog:
    """A table of the loss; the file is rewritten whenever the model is saved, so that both tell of the same run."""

    def __init__(self, path: Path, settings: TrainOptions) -> None:
        self.path, self.settings = path, settings
        self.lines = ["pictures,loss,seconds"]
        self.start = time.perf_counter()

    def add(self, seen: int, total: int, loss: float) -> None:
        """Note the smoothed loss after ``seen`` of ``total`` pictures."""
        batch, last = self.settings.batch, seen >= total
        if last or seen // batch % _LOG_EVERY == 0:
            self.lines.append(f"{seen},{loss:.6f},{time.perf_counter() - self.start:.1f}")
        if last or seen % self.settings.save_every < batch:
            write_bytes(self.path, ("\n".join(self.lines) + "\n").encode())
