"""``evaluate``: class accuracy and Frechet distance of models of the procedural pictures."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Loaded
from ..sampling import grid_counts, initial_noise
from ..train.judge import Judge, judge_samples, real_floor, reference_features
from ..train.pictures import CLASS_NAMES
from ..train.train_judge import load_judge
from . import options, text
from .files import check_ending, command_line, to_json, versions, write_json
from .pictures import check_fits
from .progress import bar, sample_with_bar

SUMMARY = "judge models of the procedural pictures: class accuracy and Frechet distance, same noise and labels for all"
EXAMPLE = "sparsedit evaluate bundled:dense bundled:sparsedit --samples 2000 --steps 20 --seeds 0 1 2"


def arguments(parser: argparse.ArgumentParser) -> None:
    """FILEs, samples, seeds, sampling, schedule."""
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help=f"{options.MODEL_HELP}; the first is what others are relative to"
    )
    parser.add_argument("--samples", type=options.positive, default=2000, help="pictures of every seed (default 2000)")
    parser.add_argument(
        "--references",
        type=options.positive,
        metavar="N",
        help="held-out pictures compared with (default: as many as samples)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the noise (default 0 1 2)")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="another classifier than the bundled one")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the numbers as JSON")
    options.add_sampling(parser, steps=20, cfg=1.0, batch=100)
    options.add_schedule(parser)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Judge every file with every seed."""
    if args.out is not None:
        check_ending(args.out, ".json")
    if args.samples < 2 or (args.references or 2) < 2:
        raise ValueError("a Frechet distance needs at least 2 samples and 2 references")
    options.set_threads(args)
    judge, _ = load_judge(args.judge)
    models = [(name, options.open_model(name, args)) for name in args.files]
    for name, loaded in models:
        check_fits(loaded, name)
    if options.schedule_from(args) is not None and all(loaded.layout is None for _, loaded in models):
        raise ValueError(
            "a pruning schedule was given but every model is dense; convert one first: sparsedit convert --help"
        )
    references = args.references or args.samples
    with bar(2 * references + args.samples, "real pictures", "pictures") as progress:
        reference = reference_features(judge, references, progress=progress)
        floor = real_floor(judge, args.samples, references, progress=progress)
    rows = [evaluate(name, loaded, args, judge, reference) for name, loaded in models]
    for row in rows:
        row["macs_ratio"] = row["mean_macs"] / rows[0]["mean_macs"]
        row["frechet_ratio"] = row["frechet"]["mean"] / rows[0]["frechet"]["mean"]
    report = {
        "command": command_line(args.argv),
        "versions": versions(),
        "samples": args.samples,
        "references": references,
        "steps": args.steps,
        "cfg": args.cfg,
        "frechet_floor": floor,
        "models": rows,
    }
    if args.out is not None:
        write_json(args.out, report)
    print(to_json(report) if args.json else _text(report))


def evaluate(name: str, loaded: Loaded, args: argparse.Namespace, judge: Judge, reference: Tensor) -> dict[str, Any]:
    """The verdicts of one model."""
    schedule = None if loaded.layout is None else options.schedule_from(args, loaded.schedule)
    settings = options.sample_options(args, schedule)
    labels = torch.arange(args.samples) % len(CLASS_NAMES)
    seeds, samples = [], None
    for seed in args.seeds:
        noise = initial_noise(loaded, args.samples, seed=seed)
        samples = sample_with_bar(loaded, noise, labels, settings, f"{Path(name).stem}, seed {seed}", seed=seed)
        verdict = judge_samples(judge, samples.images, labels, reference)
        seeds.append(
            {"seed": seed, "accuracy": verdict.accuracy, "frechet": verdict.frechet, "seconds": samples.seconds}
        )
    assert samples is not None  # argparse gives at least one seed
    return {
        "file": Path(name).name,
        "layout": None if loaded.layout is None else str(loaded.layout),
        "seeds": seeds,
        "accuracy": spread([seed["accuracy"] for seed in seeds]),
        "frechet": spread([seed["frechet"] for seed in seeds]),
        "mean_macs": samples.macs / len(samples.evaluations),
        "mean_flops": 2 * samples.macs / len(samples.evaluations),
        "sparse_grids": grid_counts(samples),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation over the seeds (0 for one)."""
    return {"mean": statistics.fmean(values), "deviation": statistics.stdev(values) if len(values) > 1 else 0.0}


def _text(report: dict[str, Any]) -> str:
    models = report["models"]
    seeds = [*(f"seed {seed['seed']}" for seed in models[0]["seeds"]), "mean", "+-"]
    accuracy = [
        [row["file"], *(f"{100 * s['accuracy']:.2f} %" for s in row["seeds"]), *_mean(row["accuracy"], 100, 2, " %")]
        for row in models
    ]
    frechet = [
        [row["file"], *(f"{s['frechet']:.4f}" for s in row["seeds"]), *_mean(row["frechet"], 1, 4, "")]
        for row in models
    ]
    cost = [
        [
            row["file"],
            text.macs_text(row["mean_macs"]),
            f"{100 * row['macs_ratio']:.1f} %",
            f"{row['frechet_ratio']:.3f}x",
        ]
        for row in models
    ]
    count, real = report["samples"], report["references"]
    parts = [
        text.table(["class accuracy", *seeds], accuracy),
        text.table(["Frechet distance", *seeds], frechet)
        + f"\nfloor {report['frechet_floor']:.4f}: {count} real pictures against {real} others",
        text.table(["cost", "executed, mean evaluation of a picture", "of the first", "Frechet distance"], cost),
        f"{count} samples a seed, {report['steps']} steps, guidance {report['cfg']:g}; same noise and labels for all",
    ]
    return "\n\n".join(parts)


def _mean(values: dict[str, float], scale: float, digits: int, unit: str) -> list[str]:
    return [f"{scale * values['mean']:.{digits}f}{unit}", f"{scale * values['deviation']:.{digits}f}"]
