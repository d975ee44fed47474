"""``compare``: a SparseDiT beside its dense model, from the same noise."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..checkpoint import Loaded
from ..sampling import SampleOptions, Samples, initial_noise, sample
from ..schedule import PruningSchedule
from ..sheets import Row, row_sheet, to_pictures
from . import options, text
from .asking import Asked, add_asking, asked_from
from .comparing import UNITS, Entry, decibel, header, likeness
from .files import check_ending, command_line, to_json, versions, write_json, write_png
from .progress import sample_with_bar
from .sample import view

SUMMARY = "sample a SparseDiT and its dense model from the same noise: seconds, MACs, PSNR, SSIM"
EXAMPLE = "sparsedit compare bundled:sparsedit --classes all --out compare.png"

DENSE_OF = {"bundled:sparsedit": "bundled:dense", "bundled:pixart-sparsedit": "bundled:pixart-dense"}

SHOWN = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, reference, what to draw, outputs, sampling, schedule."""
    parser.add_argument("file", metavar="FILE", help=f"sparse model: {options.MODEL_HELP}")
    parser.add_argument(
        "--dense",
        metavar="FILE",
        help="the dense model (default: the bundled one of a bundled model, else FILE itself with all its tokens)",
    )
    add_asking(parser, classes="0-7")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument(
        "--size", type=options.size, metavar="PX", help="512 or WIDTHxHEIGHT (default: the model's own)"
    )
    parser.add_argument("--repeats", type=options.positive, default=1, help="runs whose median time counts (default 1)")
    parser.add_argument("--out", type=Path, metavar="PNG", help="write a sheet of both rows")
    parser.add_argument("--report", type=Path, metavar="JSON", help="write the numbers as JSON")
    options.add_sampling(parser, steps=20, cfg=1.0)
    options.add_schedule(parser)
    options.add_facts(parser)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Sample both, compare, print and write."""
    for path, ending in ((args.out, ".png"), (args.report, ".json")):
        if path is not None:
            check_ending(path, ending)
    options.set_threads(args)
    sparse = options.open_model(args.file, args, **options.facts(args))
    if sparse.layout is None:
        raise ValueError(f"{args.file} is a dense model; give a SparseDiT, and the dense one as --dense")
    name, dense, full = _reference(args, sparse)
    _check_pair(sparse, dense)
    asked = asked_from(args, sparse)
    count = len(asked.names)
    noise = initial_noise(sparse, count, seed=args.seed, size=args.size)
    runs = [
        (name, dense, options.sample_options(args, dense, full)),
        ("sparse", sparse, options.sample_options(args, sparse, options.schedule_from(args, sparse.schedule))),
    ]
    entries = measure(runs, noise, asked, args.repeats, args.seed)
    report = {
        "command": command_line(args.argv),
        "versions": versions(),
        "pictures": count,
        "units": UNITS,
        "runs": [entry.to_json(entries[0]) for entry in entries],
    }
    if args.report is not None:
        write_json(args.report, report)
    if args.out is not None:
        write_png(args.out, sheet(entries, sparse, asked.names))
    if args.json:
        print(to_json(report))
        return
    print(text.table(header(name), [entry.cells(entries[0]) for entry in entries]))
    where = "pictures" if sparse.latent.kind == "pixel" else "latents, over the range of the reference's"
    print(f"{count} pictures; seconds of all in the model; PSNR and SSIM of the {where}.")


def _reference(args: argparse.Namespace, sparse: Loaded) -> tuple[str, Loaded, PruningSchedule | None]:
    """Name, model and schedule of what the sparse run is compared with."""
    name = args.dense or DENSE_OF.get(args.file)
    if name is None:
        return "all tokens", sparse, PruningSchedule(0.0, 0.0)
    dense = options.open_model(name, args, **options.facts(args))
    if dense.layout is not None:
        raise ValueError(f"{name} is a SparseDiT (layout {dense.layout}); --dense takes a dense model")
    return "dense", dense, None


def _check_pair(sparse: Loaded, dense: Loaded) -> None:
    for name, a, b in (
        ("latent space", sparse.latent, dense.latent),
        ("prediction", sparse.prediction, dense.prediction),
        ("family", sparse.family, dense.family),
        ("number of classes", *(getattr(each.config, "num_classes", None) for each in (sparse, dense))),
        ("width of text features", *(getattr(each.config, "caption_channels", None) for each in (sparse, dense))),
        ("vocabulary", sparse.words, dense.words),
    ):
        if a != b:
            raise ValueError(f"the two models cannot be compared: their {name} is {a} and {b}")


def measure(
    runs: list[tuple[str, Loaded, SampleOptions]], noise: Tensor, asked: Asked, repeats: int, seed: int
) -> list[Entry]:
    """Sample every run from the same noise; the first is the reference. Repeats take turns."""
    for _, loaded, settings in runs:  # the first evaluation of a process pays for starting threads
        away = None if asked.negative is None else asked.negative[:1]
        sample(loaded, noise[:1], asked.conditions[:1], replace(settings, steps=1), negative=away)
    results: list[list[Samples]] = [[] for _ in runs]
    for _ in range(repeats):
        for kept, (name, loaded, settings) in zip(results, runs, strict=True):
            kept.append(sample_with_bar(loaded, noise, asked, settings, name, seed=seed))
    pixels = runs[0][1].latent.kind == "pixel"
    entries = []
    for index, ((name, _, _), kept) in enumerate(zip(runs, results, strict=True)):
        like = None if index == 0 else likeness(kept[0].images, results[0][0].images, pixels=pixels)
        entries.append(Entry(name, kept[0], statistics.median(run.seconds for run in kept), like))
    return entries


def sheet(entries: list[Entry], loaded: Loaded, names: list[str]) -> Image.Image:
    """One row for each run, its numbers at the left."""
    rows = []
    for entry in entries:
        images = entry.samples.images[:SHOWN]
        zoom = max(1, 96 // images.shape[-1])
        notes = [f"{100 * entry.samples.macs / entries[0].samples.macs:.0f} % of the MACs", f"{entry.seconds:.1f} s"]
        if entry.like is not None:
            notes.append(f"PSNR {decibel(entry.like)}")
        rows.append(Row(entry.name, notes, to_pictures(view(images, loaded), zoom=zoom)))
    below = "from the same noise" + (
        "" if loaded.latent.kind == "pixel" else "; rough colours of the latents, not decoded"
    )
    title = " and ".join(entry.name for entry in entries)
    return row_sheet(rows, names[:SHOWN], title=title[0].upper() + title[1:], below=below)
