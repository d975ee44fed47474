"""What ``train`` and ``finetune`` share: flags, data, teacher, what is watched, what the file remembers."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from contextlib import ExitStack
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import torch

from ..backbone import Backbone
from ..checkpoint import Loaded, load_checkpoint
from ..config import Family
from ..train.checks import check_source
from ..train.data import PROCEDURAL, open_source
from ..train.engine import train
from ..train.options import ObjectiveName, OptimizerName, Precision, TrainOptions
from ..train.progress import RunLog, Watcher
from ..train.signals import Interrupted
from ..train.source import Source
from ..train.state import state_folder
from . import options
from .files import command_line, versions
from .watching import Bar, Curves, Sheets, TensorBoard

HELP = {
    "pictures": "pictures seen in all",
    "batch": "pictures in one step, over all processes",
    "accumulate": "parts of a process's share of a batch, computed one after the other: less memory",
    "learning_rate": "peak learning rate",
    "warmup": "steps of linear warm-up",
    "decay": "fraction of the run, at its end, over which the rate falls to zero",
    "weight_decay": "weight decay",
    "beta2": "AdamW's decay of squared gradients",
    "clip": "largest norm of a gradient, 0 for no limit",
    "label_drop": "fraction of labels or captions replaced by the null class or caption",
    "ema": "decay of the averaged weights per step; they are what is saved",
    "seed": "seed of the data, the noise and the initial weights",
    "first": "number of the first picture",
    "save_every": "pictures between two saves of the model and of the run's state",
    "keep": "states that are kept for --resume",
    "optimizer": "adamw; muon: for the matrices of the blocks, with AdamW for the rest",
    "objective": "flow: rectified flow; dit: DiT's loss with learned variance; min_snr: SparseDiT's weighting of it; "
    "auto: flow or dit, after what the model predicts",
    "distill": "with --teacher: weight of its prediction as the target, the pictures' has the rest",
    "distill_features": "with --teacher: weight of the distance to its tokens at the ends of segments",
    "precision": "what blocks compute in; weights stay float32",
    "checkpointing": "compute every block again in the backward pass: less memory, a third more time",
    "compile": "run the blocks through torch.compile: a minute of compiling, then faster steps",
}
CHOICES = {
    "optimizer": get_args(OptimizerName),
    "objective": get_args(ObjectiveName),
    "precision": get_args(Precision),
}


def add_training(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of ``TrainOptions``, and those about files."""
    group = parser.add_argument_group("training")
    for item in fields(TrainOptions):
        default = item.default
        if default is MISSING or not isinstance(default, (int, float, str)):
            continue
        words = f"{HELP.get(item.name, item.name.replace('_', ' '))} (default {default})"
        flag = "--" + item.name.replace("_", "-")
        if isinstance(default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=words)
        elif item.name in CHOICES:
            group.add_argument(flag, choices=CHOICES[item.name], default=default, help=words)
        else:
            group.add_argument(flag, type=type(default), default=default, metavar="N", help=words)
    group.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="the same as --precision bf16; faster where the processor has bfloat16 products",
    )
    group.add_argument("--teacher", metavar="FILE", help="learn the predictions of this dense model (distillation)")
    group.add_argument("--cpu", action="store_true", help="compute on the CPU even where there is a faster device")
    files = parser.add_argument_group("data, states and what can be seen of a run")
    files.add_argument(
        "--data",
        default=PROCEDURAL,
        metavar="FOLDER",
        help="shards made by `sparsedit encode`, or features of fast-DiT (default: the project's own pictures)",
    )
    files.add_argument(
        "--resume", action="store_true", help="go on from the newest state beside OUT, if there is one"
    )
    files.add_argument(
        "--sheet-every", type=options.positive, metavar="N", help="a sheet of samples every N steps, in OUT.sheets"
    )
    files.add_argument("--tensorboard", type=Path, metavar="DIR", help="write the curves for TensorBoard, too")


def training_options(args: argparse.Namespace) -> TrainOptions:
    """What ``add_training`` reads."""
    values = {item.name: getattr(args, item.name) for item in fields(TrainOptions)}
    if args.bfloat16:
        if args.precision == "fp16":
            raise ValueError("--bfloat16 and --precision fp16 exclude each other; give one of them")
        values["precision"] = "bf16"
    return TrainOptions(**values)


def source_from(args: argparse.Namespace, family: Family) -> Source:
    """The data that ``--data`` names, in the order of ``--seed``, with what models of the family are conditioned on."""
    return open_source(args.data, seed=args.seed, captions=family == "pixart")


def run_training(loaded: Loaded, args: argparse.Namespace, source: Source, facts: dict[str, Any] | None = None) -> None:
    """Train with a bar, logs and curves, and store how the file came about."""
    settings = training_options(args)
    made = {"command": command_line(args.argv), "steps": settings.steps, "versions": all_versions()}
    with ExitStack() as stack:
        log = RunLog(args.out)
        watchers: list[Watcher] = [log, Curves(args.out.with_suffix(".curves.png"), log)]
        if args.sheet_every is not None:
            watchers.append(Sheets(args.out.with_suffix(".sheets"), loaded, source, args.sheet_every, args.seed))
        if args.tensorboard is not None:
            watchers.append(stack.enter_context(TensorBoard(args.tensorboard)))
        watchers.append(stack.enter_context(Bar(settings)))
        try:
            train(
                loaded,
                args.out,
                source,
                settings,
                teacher=teacher_from(args, loaded, source),
                metadata={**made, **(facts or {})},
                watchers=watchers,
                resume=args.resume,
                cpu=args.cpu,
            )
        except Interrupted as end:
            stack.close()
            if log.lead:  # of several processes the main one speaks
                sys.stderr.write(f"sparsedit {args.command}: {end}\n")
            raise SystemExit(end.code) from end
        finally:
            _leave_group()
    if log.lead:
        seen = settings.steps * settings.batch
        print(f"{args.out}: {seen} pictures seen; losses in {log.table_path}, states in {state_folder(args.out)}")


def all_versions() -> dict[str, str]:
    """Of everything that decides numbers."""
    try:
        return {**versions(), "accelerate": importlib.metadata.version("accelerate")}
    except importlib.metadata.PackageNotFoundError:
        return versions()


def owned(loaded: Loaded) -> Loaded:
    """The model with weights of its own: those of a loaded one are its file, mapped."""
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.data = parameter.data.clone()
    return loaded


def teacher_from(args: argparse.Namespace, student: Loaded, source: Source) -> Backbone | None:
    """The model that ``--teacher`` names; ``ValueError`` unless it predicts the same thing of the same data."""
    if args.teacher is None:
        return None
    teacher = load_checkpoint(options.model_path(args.teacher), dtype=torch.float32)
    if teacher.prediction != student.prediction:
        raise ValueError(f"the teacher predicts {teacher.prediction!r} and the model {student.prediction!r}")
    check_source(teacher, source)
    return teacher.model.requires_grad_(False)


def _leave_group() -> None:
    """Leave the group of processes that torchrun or accelerate launched."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
