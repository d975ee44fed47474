"""``analyze``: how attention spreads, what it is worth, and which layout that suggests."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..analysis.analysis import Analysis, analyze, check_request
from ..analysis.moments import DEFAULT_TIMES, Moment, noised, trajectory
from ..analysis.suggest import check_budget
from ..checkpoint import Loaded
from ..conditions import Conditions
from ..layout import SegmentLayout
from ..schedule import PruningSchedule
from ..train.pictures import attributes, pictures
from . import options
from .analyze_text import as_text, attention_picture, role_picture, toy_picture
from .asking import spread_conditions
from .files import check_folder, command_line, to_json, versions, write_json, write_png
from .pictures import conditions_of, draws_pictures
from .progress import bar

SUMMARY = "look into attention by block and time, and suggest a layout for a dense model under a MAC budget"
EXAMPLE = "sparsedit analyze bundled:dense --budget 0.6 --out analysis"

DEFAULT_BUDGET = 0.6
DEFAULT_SCHEDULE = PruningSchedule(rate_noise=0.86, rate_clean=0.61)
"""What a layout is suggested for if no schedule is given: the faster rows of the paper at 256 pixels."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, times, samples, data, budget, output."""
    parser.add_argument("file", metavar="FILE", help=options.MODEL_HELP)
    parser.add_argument(
        "--times",
        type=float,
        nargs="+",
        default=list(DEFAULT_TIMES),
        metavar="T",
        help=f"diffusion times from 1 (noise) to 0 (image), default {' '.join(map(str, DEFAULT_TIMES))}",
    )
    parser.add_argument("--samples", type=options.positive, default=8, help="samples at each time (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="real samples with noise: a data set as for finetune (default: held-out pictures for a model of the "
        "project's own pictures; what the model meets while it samples for any other)",
    )
    parser.add_argument("--steps", type=options.positive, default=20, help="steps of that sampling (default 20)")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="F",
        help=f"suggest a layout that costs at most this share of the dense model (default {DEFAULT_BUDGET})",
    )
    parser.add_argument(
        "--against", nargs="+", default=[], metavar="LAYOUT", help="measure these layouts beside the suggested one"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the pictures and analysis.json into this folder")
    options.add_schedule(parser)
    options.add_facts(parser)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Load, look, write, print."""
    if args.out is not None:
        check_folder(args.out)
    if args.budget is not None:
        check_budget(args.budget)
    against = [SegmentLayout.parse(words) for words in args.against]
    options.set_threads(args)
    loaded = options.open_model(args.file, args, **options.facts(args))
    sparse = loaded.layout is not None
    schedule = options.schedule_from(args, loaded.schedule if sparse else DEFAULT_SCHEDULE)
    budget = args.budget if sparse or args.budget is not None else DEFAULT_BUDGET
    check_request(loaded, schedule, budget, against)  # before the model is sampled
    inputs, moments = samples(loaded, args, schedule if sparse else None)
    analysis = analyze(loaded, moments, schedule, budget, against=against, stage=bar)
    report = {
        "command": command_line(args.argv),
        "versions": versions(),
        "file": Path(args.file).name,
        "layout": None if loaded.layout is None else str(loaded.layout),
        "inputs": inputs,
        "schedule": None if schedule is None else schedule.to_json(),
        **analysis.to_json(),
    }
    words = None
    if analysis.suggestion is not None and schedule is not None:
        words = finetune_words(args, str(analysis.suggestion.layout), schedule)
        report["finetune"] = command_line(words)
    if args.out is not None:
        files = write(args.out, report, analysis)
    if args.json:
        print(to_json(report))
        return
    print(as_text(report, analysis, shlex.join(["sparsedit", *words]) if words else None))
    if args.out is not None:
        print(f"\nwritten: {', '.join(map(str, files))}")


def samples(loaded: Loaded, args: argparse.Namespace, schedule: PruningSchedule | None) -> tuple[str, list[Moment]]:
    """What the model is looked at with, in words and as moments."""
    if args.data is not None:
        images, conditions = real_samples(loaded, args)
        return f"{Path(args.data).name} with noise", noised(loaded, images, conditions, args.times, seed=args.seed)
    latent = loaded.latent
    if draws_pictures(loaded):
        images, _ = pictures(0, args.samples, split="heldout")
        given = conditions_of(loaded, attributes(0, args.samples, split="heldout"))
        return "held-out pictures with noise", noised(loaded, latent.scale * images, given, args.times, seed=args.seed)
    asked = spread_conditions(loaded, args.samples)
    with bar(args.samples * args.steps, "sampling", "evaluations") as progress:
        moments = trajectory(
            loaded, asked, args.times, steps=args.steps, schedule=schedule, seed=args.seed, progress=progress
        )
    return f"what the model meets in its own sampling of {args.steps} steps", moments


def real_samples(loaded: Loaded, args: argparse.Namespace) -> tuple[Tensor, Conditions]:
    """The first samples of a data set in the model's scale; ``ValueError`` where they are of another space."""
    from ..train.data import open_source  # with its data formats, which no other use of this command needs

    source, own = open_source(args.data, captions=loaded.family == "pixart"), loaded.latent
    if replace(source.latent, scale=own.scale) != own:
        raise ValueError(
            f"{args.data} holds {source.latent} but the model works in {own}; give data that was encoded for this model"
        )
    if source.count is not None and source.count < args.samples:
        raise ValueError(f"{args.data} holds {source.count} samples, fewer than --samples {args.samples}; give less")
    images, conditions = source.batch(0, args.samples)
    return images * (own.scale / source.latent.scale), conditions


def finetune_words(args: argparse.Namespace, layout: str, schedule: PruningSchedule) -> list[str]:
    """The command that makes the suggested model, on the data and under the schedule of this analysis."""
    words = ["finetune", args.file, "sparse.safetensors", "--layout", layout]
    # finetune's --sparse-side is that of the conversion, not a fact about the dense file
    known = {"data": args.data, **options.facts(args), "sparse_side": None}
    for name, value in known.items():
        if value is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    if args.preset is not None:
        words += ["--preset", args.preset]
    elif args.schedule is not None:
        words += ["--schedule", str(args.schedule)]
    else:
        words += ["--rate-noise", f"{schedule.rate_noise:g}", "--rate-clean", f"{schedule.rate_clean:g}"]
    for name in ("rate_noise", "rate_clean", "hold", "hold_fraction", "curve", "levels"):
        value, flag = getattr(args, name), "--" + name.replace("_", "-")
        if value is not None and flag not in words:
            words += [flag, "exact" if name == "levels" and value == 0 else str(value)]
    return words


def write(folder: Path, report: dict[str, Any], analysis: Analysis) -> list[Path]:
    """The pictures and the numbers."""
    name = report["file"]
    files = [
        write_png(folder / "attention.png", attention_picture(name, analysis)),
        write_png(folder / "toy.png", toy_picture(name, analysis)),
    ]
    if analysis.suggestion is not None:
        files.append(write_png(folder / "roles.png", role_picture(name, analysis, analysis.suggestion)))
    return [*files, write_json(folder / "analysis.json", report)]
