"""Arguments that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from ..bundled import BUNDLED, bundled_path
from ..cache.plan import CachePlan, read_plan
from ..checkpoint import Loaded, load_checkpoint
from ..conditions import with_classes
from ..sampling import SAMPLERS, SampleOptions
from ..schedule import PRESETS, PruningSchedule

MODEL_HELP = f"checkpoint file, or {' or '.join('bundled:' + name for name in BUNDLED)}"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SCHEDULE_FIELDS = ("rate_noise", "rate_clean", "hold", "hold_fraction", "curve", "levels")


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json: facts as JSON instead of text."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_device(parser: argparse.ArgumentParser) -> None:
    """--threads, --device, --dtype."""
    add_threads(parser)
    parser.add_argument("--device", default="cpu", help='where the model runs, e.g. "cuda" (default cpu)')
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="what the model computes in (default float32)"
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """--threads."""
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: torch's own choice)")


def set_threads(args: argparse.Namespace) -> None:
    """Use as many CPU threads as were asked for."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)


def add_facts(parser: argparse.ArgumentParser) -> None:
    """What official checkpoints do not say about themselves."""
    group = parser.add_argument_group("what a file may not say about itself")
    group.add_argument("--num-heads", type=positive, metavar="N", help="attention heads")
    group.add_argument("--sparse-side", type=positive, metavar="N", help="side of the sparse grid (semantic_size)")
    group.add_argument("--num-classes", type=positive, metavar="N", help="classes, the null class not counted")
    group.add_argument("--base-size", type=positive, metavar="N", help="token side of the position table")
    group.add_argument("--position-scale", type=float, metavar="S", help="a PixArt's position interpolation: 0.5, 1, 2")
    group.add_argument(
        "--semantics", choices=("original", "diffusers"), help="diffusers: for weights that were trained in diffusers"
    )


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords of ``load_checkpoint`` that ``add_facts`` reads."""
    names = ("num_heads", "sparse_side", "num_classes", "base_size", "position_scale", "semantics")
    return {name: getattr(args, name) for name in names}


def model_path(name: str) -> Path:
    """A checkpoint's file; ``bundled:NAME`` is one that comes with the package."""
    return bundled_path(name.removeprefix("bundled:")) if name.startswith("bundled:") else Path(name)


def open_model(name: str, args: argparse.Namespace, **keywords: Any) -> Loaded:
    """Load a model for running: dtype and device as asked for."""
    if args.device.startswith("meta"):
        raise ValueError("the device 'meta' computes nothing; use --device cpu")
    loaded = load_checkpoint(model_path(name), dtype=DTYPES[args.dtype], **keywords)
    try:
        loaded.model.to(args.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {args.device!r} cannot be used ({reason}); use --device cpu") from error
    return loaded


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """A pruning schedule: a preset, a JSON file or single values."""
    group = parser.add_argument_group("pruning schedule (rate = share of tokens dropped)")
    group.add_argument("--preset", choices=PRESETS, help="a row of the paper, by picture size in pixels")
    group.add_argument("--schedule", type=Path, metavar="JSON", help="a schedule saved as JSON")
    group.add_argument("--rate-noise", type=float, metavar="R", help="rate at pure noise, the higher one, e.g. 0.86")
    group.add_argument("--rate-clean", type=float, metavar="R", help="rate at the clean image, e.g. 0.61")
    group.add_argument("--hold", choices=("noise", "clean"), help="which end stands still (default noise)")
    group.add_argument(
        "--hold-fraction", type=float, metavar="F", help="part of the time it stands still (default 0.25)"
    )
    group.add_argument("--curve", choices=("linear", "cosine", "steps"), help="shape between the ends (default linear)")
    group.add_argument("--levels", type=levels, metavar="N", help='distinct token sides, or "exact" (default 6)')


def schedule_from(args: argparse.Namespace, stored: PruningSchedule | None = None) -> PruningSchedule | None:
    """The schedule the arguments describe: single values change a preset, a JSON file or ``stored``; None if none."""
    given = {name: getattr(args, name) for name in _SCHEDULE_FIELDS if getattr(args, name) is not None}
    if given.get("levels") == 0:
        given["levels"] = None
    if args.preset is not None and args.schedule is not None:
        raise ValueError("--preset and --schedule exclude each other; give one of them")
    base = stored
    if args.preset is not None:
        base = PRESETS[args.preset]
    elif args.schedule is not None:
        base = read_schedule(args.schedule)
    if not given:
        return base
    values = {} if base is None else base.to_json()
    if "curve" in given:
        values.pop("points", None)  # those of a custom curve
    if base is None and not {"rate_noise", "rate_clean"} <= set(given):
        raise ValueError("a schedule needs both --rate-noise and --rate-clean, or a --preset")
    return PruningSchedule.from_json({"version": 1, **values, **given})


def read_schedule(path: Path) -> PruningSchedule:
    """A schedule from a JSON file."""
    try:
        return PruningSchedule.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} holds no pruning schedule: {error}") from error


def add_cache(parser: argparse.ArgumentParser) -> None:
    """A plan of a token cache."""
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="PLAN",
        help="JSON plan of what each step recomputes: sparsedit plan, calibrate and learn make them",
    )


def cache_from(args: argparse.Namespace) -> CachePlan | None:
    """The plan that ``add_cache`` reads."""
    return None if args.cache is None else read_plan(args.cache)


def budget(text: str) -> float:
    """A share of the dense MACs: "0.5" or "50%"."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of the dense MACs; give 0.5 or 50%")
    return value


def add_sampling(parser: argparse.ArgumentParser, *, steps: int, cfg: float, batch: int = 50) -> None:
    """Steps, sampler, guidance and batch."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--steps", type=positive, default=steps, help=f"sampler steps (default {steps})")
    every = [name for names in SAMPLERS.values() for name in names]
    group.add_argument("--sampler", choices=every, help="ddim, ddpm: noise-predicting models; euler, heun: flow models")
    group.add_argument(
        "--cfg", type=float, default=cfg, metavar="S", help=f"guidance scale, 1 is none (default {cfg:g})"
    )
    group.add_argument(
        "--cfg-channels",
        choices=("3", "all"),
        help="channels guided (default: 3 of a DiT as the official code, all of a PixArt as its samplers)",
    )
    group.add_argument("--batch", type=positive, default=batch, help=f"pictures at a time (default {batch})")


def sample_options(args: argparse.Namespace, loaded: Loaded, schedule: PruningSchedule | None) -> SampleOptions:
    """What ``add_sampling`` reads, for a model."""
    channels = {"3": 3, "all": loaded.config.in_channels}.get(args.cfg_channels)  # None: what fits the family
    return SampleOptions(args.steps, args.sampler, args.cfg, channels, schedule, args.batch)


def classes_from(words: list[str], loaded: Loaded) -> list[int]:
    """Class numbers from numbers, ranges like 0-9, names and "all"; ``ValueError`` names the first unknown one."""
    count = with_classes(loaded.config).num_classes
    names = {name.lower(): index for index, name in enumerate(loaded.class_names or ())}
    result: list[int] = []
    for word in words:
        low, dash, high = word.partition("-")
        if word.lower() in names:
            result.append(names[word.lower()])
        elif word == "all":
            result.extend(range(count))
        elif low.isdecimal() and (high.isdecimal() if dash else True):
            first, last = int(low), int(high or low)
            if not first <= last < count:  # before a range of billions is written out
                raise ValueError(f"class {word} is outside 0 .. {count - 1}, the classes of this model")
            result.extend(range(first, last + 1))
        else:
            known = f" or one of {', '.join(list(names)[:12])}" if names else ""
            raise ValueError(f"unknown class {word!r}; give a number from 0 to {count - 1}, a range like 0-3{known}")
    return result


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def levels(text: str) -> int:
    """A whole number of 2 or more; 0 stands for "exact"."""
    if text == "exact":
        return 0
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f'{text!r} is neither a whole number of 2 or more nor "exact"')
    return int(text)


def size(text: str) -> tuple[int, int]:
    """(height, width) in pixels of "512" or of "WIDTHxHEIGHT"."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 0 < int(part) <= 16384 for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no picture size; write 512 or WIDTHxHEIGHT, at most 16384 a side"
        )
    return int(parts[-1]), int(parts[0])
