"""``demo``: from nothing to pictures and a report, with the bundled models."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..checkpoint import Loaded
from ..conditions import with_classes
from ..plots import draw_schedules
from ..sampling import SampleOptions, initial_noise
from ..schedule import PruningSchedule
from ..sheets import Row, row_sheet, to_pictures
from ..train.judge import accuracy
from ..train.train_judge import load_judge
from . import options, text
from .asking import Asked, described
from .compare import measure
from .comparing import UNITS, Entry, decibel, header
from .files import check_folder, command_line, to_json, versions, write_json, write_png
from .pictures import check_fits

SUMMARY = "sample the bundled dense and sparse models under several schedules: a sheet of pictures and a report"
EXAMPLE = "sparsedit demo --out sparsedit-demo"

SPARSER, DENSER = 0.6, 1.6
"""How many tokens the two other schedules keep, as a factor of the trained one's."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Output folder and how many pictures."""
    parser.add_argument(
        "--out", type=Path, default=Path("sparsedit-demo"), help="folder to write (default ./sparsedit-demo)"
    )
    parser.add_argument("--pictures", type=options.positive, default=100, help="pictures of every run (default 100)")
    parser.add_argument("--steps", type=options.positive, default=20, help="sampler steps (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    options.add_threads(parser)
    options.add_json(parser)
    parser.set_defaults(device="cpu", dtype="float32")


def run(args: argparse.Namespace) -> None:
    """Sample everything, judge it, draw it."""
    options.set_threads(args)
    check_folder(args.out)
    dense, sparse = (options.open_model(f"bundled:{name}", args) for name in ("dense", "sparsedit"))
    for name, loaded in (("dense", dense), ("sparsedit", sparse)):
        check_fits(loaded, name)
    schedules = variants(sparse)
    labels = torch.arange(args.pictures) % with_classes(sparse.config).num_classes
    asked = Asked(labels, described(sparse, labels))
    noise = initial_noise(sparse, args.pictures, seed=args.seed)
    runs = [("dense", dense, SampleOptions(args.steps))]
    runs += [(name, sparse, SampleOptions(args.steps, schedule=schedule)) for name, schedule in schedules.items()]
    entries = judged(measure(runs, noise, asked, 1, args.seed), labels)
    drawing = draw_schedules(schedules, sparse.config.grid, title="The schedules of the demo")
    report = _report(args, entries, schedules)
    files = [
        write_png(args.out / "pictures.png", sheet(entries, sparse, labels, args)),
        write_png(args.out / "schedules.png", drawing),
        write_json(args.out / "report.json", report),
    ]
    print(to_json(report) if args.json else _text(entries, files, args.pictures))


def variants(sparse: Loaded) -> dict[str, PruningSchedule]:
    """The trained schedule, a sparser and a denser one."""
    trained = sparse.schedule
    if trained is None:
        raise ValueError("the bundled SparseDiT stores no schedule; install the package again")
    return {
        "sparse: as trained": trained,
        "sparse: fewer tokens": keeping(trained, SPARSER),
        "sparse: more tokens": keeping(trained, DENSER),
    }


def keeping(schedule: PruningSchedule, factor: float) -> PruningSchedule:
    """``factor`` times as many tokens at both ends, and as long without pruning; never above all."""
    pruned = (schedule.rate_noise, schedule.rate_clean, schedule.end)
    noise, clean, end = (max(0.0, 1.0 - factor * (1.0 - part)) for part in pruned)
    return replace(schedule, rate_noise=noise, rate_clean=clean, end=end)


def judged(entries: list[Entry], labels: Tensor) -> list[Entry]:
    """The entries with the share of pictures that the bundled classifier takes for their class."""
    judge, _ = load_judge()
    return [replace(entry, accuracy=accuracy(judge, entry.samples.images, labels)) for entry in entries]


def sheet(entries: list[Entry], loaded: Loaded, labels: Tensor, args: argparse.Namespace) -> Image.Image:
    """A row for every run, a column for every class."""
    count = min(len(labels), with_classes(loaded.config).num_classes)
    rows = []
    for entry in entries:
        share = 100 * entry.samples.macs / entries[0].samples.macs
        notes = [
            f"{share:.0f} % of the MACs, {entry.seconds:.1f} s",
            f"class accuracy {100 * (entry.accuracy or 0):.0f} %",
        ]
        if entry.like is not None and entry.like.ssim is not None:
            notes.append(f"PSNR {decibel(entry.like)}, SSIM {entry.like.ssim:.2f}")
        rows.append(Row(entry.name, notes, to_pictures(entry.samples.images[:count], zoom=2)))
    below = (
        f"64x64 pixels shown twice as large; {args.steps} Euler steps, no guidance; "
        f"seconds of {len(labels)} pictures; PSNR and SSIM against dense"
    )
    names = described(loaded, labels[:count])
    return row_sheet(rows, names, title="The bundled models from the same noise", below=below)


def _report(args: argparse.Namespace, entries: list[Entry], schedules: dict[str, PruningSchedule]) -> dict[str, Any]:
    return {
        "command": command_line(args.argv),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "pictures": args.pictures,
        "steps": args.steps,
        "seed": args.seed,
        "units": UNITS,
        "schedules": {name: schedule.to_json() for name, schedule in schedules.items()},
        "runs": [entry.to_json(entries[0]) for entry in entries],
    }


def _text(entries: list[Entry], files: list[Path], count: int) -> str:
    columns = [*header(entries[0].name), "class accuracy"]
    lines = [text.table(columns, [entry.cells(entries[0]) for entry in entries])]
    lines.append(f"{count} pictures from the same noise; PSNR and SSIM against the dense model's.")
    return "\n".join([*lines, *(f"wrote {path}" for path in files)])
