"""``evaluate``: Frechet distance, precision, recall, accuracy of classes or captions, beside real pictures."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Loaded
from ..conditions import Captions, joined
from ..sampling import SampleOptions, Samples, evaluation_count, grid_counts, initial_noise, sample
from ..train.by_time import TIMES, errors_by_time
from ..train.evaluation import Jury, seen
from ..train.pictures import Attributes
from ..train.real_pictures import FolderPictures
from ..vae import Autoencoder, load_autoencoder
from . import options
from .asking import add_text_encoder, check_text_flags
from .evaluate_text import report_text, spreads
from .files import check_ending, command_line, to_json, versions, write_json
from .given import given_pictures, given_row
from .jury import (
    Asker,
    Encoder,
    Reality,
    add_jury,
    asker,
    check_classifier,
    check_models,
    classes_of,
    jury_from,
    picture_size,
    questions,
    real_pictures,
    reality,
    text_reader,
    told,
)
from .progress import bar

SUMMARY = "judge models beside real pictures: Frechet distance, precision, recall, class accuracy; same noise for all"
EXAMPLE = "sparsedit evaluate bundled:dense bundled:sparsedit --samples 2000 --steps 20 --seeds 0 1 2"


def arguments(parser: argparse.ArgumentParser) -> None:
    """FILEs, samples, seeds, jury, sampling, schedule."""
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help=f"{options.MODEL_HELP}; the first is what others are relative to"
    )
    parser.add_argument(
        "--samples-from",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="judge pictures that are there already: folders, or .npz files as ADM and DiT write them",
    )
    parser.add_argument("--samples", type=options.positive, default=2000, help="pictures of every seed (default 2000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the noise (default 0 1 2)")
    parser.add_argument("--vae", type=Path, metavar="FILE", help="autoencoder of models that draw latents")
    parser.add_argument(
        "--by-time",
        type=options.positive,
        nargs="?",
        const=500,
        metavar="N",
        help="also the error of the prediction on N real pictures (500) by diffusion time",
    )
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the numbers as JSON")
    add_jury(parser)
    add_text_encoder(parser)
    options.add_sampling(parser, steps=20, cfg=1.0, batch=100)
    options.add_schedule(parser)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Judge every file with every seed."""
    if args.out is not None:
        check_ending(args.out, ".json")
    if args.samples < 2 or (args.references or 2) < 2 or (args.by_time or 2) < 2:
        raise ValueError("a Frechet distance needs at least 2 samples and 2 references, an error by time 2 pictures")
    if not args.files and not args.samples_from:
        raise ValueError("there is nothing to judge; give model files, or pictures with --samples-from")
    options.set_threads(args)
    jury = jury_from(args)
    models = [(name, options.open_model(name, args)) for name in args.files]
    check_models(models, args)
    check_text_flags(args, [loaded for _, loaded in models])
    if models and options.schedule_from(args) is not None and all(loaded.layout is None for _, loaded in models):
        raise ValueError(
            "a pruning schedule was given but every model is dense; convert one first: sparsedit convert --help"
        )
    if not models and (args.by_time is not None or options.schedule_from(args) is not None):
        raise ValueError("--by-time and pruning schedules are about models, and none was given; leave them out")
    space = Space(args, [loaded for _, loaded in models])
    size = picture_size(models[0][1]) if models else None
    given = []
    for path in args.samples_from:
        given.append((path, given_pictures(path, size)))
        size = size or given[0][1].size
    assert size is not None  # there are models or pictures
    check_classifier(jury, size, models)
    pictures = real_pictures(args, size, [loaded for _, loaded in models])
    if args.by_time is not None:
        for _, loaded in models:
            told(pictures, loaded)
    samples = args.samples if models else given[0][1].count
    total = args.references or pictures.count or samples
    total = total + samples if pictures.count is None else min(total, pictures.count)
    with bar(total, "real pictures", "pictures") as progress:
        real = reality(pictures, jury, args, samples, progress)
    # given pictures first: where the jury refuses them, no sampling is lost
    judged = [given_row(path, found, jury, real, args.batch) for path, found in given]
    rows = [evaluate(name, loaded, args, jury, real, space) for name, loaded in models] + judged
    for row in rows:
        counted = row["mean_macs"] is not None and rows[0]["mean_macs"] is not None
        row["macs_ratio"] = row["mean_macs"] / rows[0]["mean_macs"] if counted else None
        row["frechet_ratio"] = row["frechet"]["mean"] / (rows[0]["frechet"]["mean"] or math.nan)
    floor = real.halves[0].against(real.halves[1])
    report = {
        "command": command_line(args.argv),
        "versions": versions(),
        "samples": samples,
        "references": len(real.reference),
        "real": "held-out procedural pictures" if args.real is None else args.real.name,
        "features": "the judge" if args.features is None else args.features.name,
        "neighbours": args.neighbours,
        "steps": args.steps,
        "cfg": args.cfg,
        "frechet_floor": floor.frechet,
        "floor": floor.to_json() | {"others": len(real.halves[1])},
        "models": rows,
    }
    if isinstance(pictures, FolderPictures):
        report["skipped"] = {"count": len(pictures.skipped), "first": sorted(pictures.skipped)[:10]}
    if args.out is not None:
        write_json(args.out, report)
    print(to_json(report) if args.json else report_text(report))


class Space:
    """Between what models draw and pictures: the autoencoder of latent models, nothing for pixels."""

    def __init__(self, args: argparse.Namespace, models: list[Loaded]) -> None:
        self.autoencoder: Autoencoder | None = None
        latents = [loaded.latent for loaded in models if loaded.latent.kind == "latent"]
        if args.vae is None:
            return
        if not latents:
            raise ValueError("--vae was given but every model draws pixels; leave it out")
        # in float32 whatever the models compute in: half precision overflows in the usual autoencoders
        found = load_autoencoder(args.vae, device=args.device, channels=latents[0].channels)
        for latent in latents:
            if (found.channels, found.factor) != (latent.channels, latent.factor):
                raise ValueError(
                    f"{args.vae.name} decodes a latent to {found.factor} pixels along a side and has {found.channels} "
                    f"channels, a model's is {latent.factor} pixels and has {latent.channels}; give the autoencoder "
                    "that the models were trained with, and evaluate models of other latents by themselves"
                )
        if found.shift:
            raise ValueError(
                f"{args.vae.name} shifts its latents by {found.shift:g} before scaling, which no DiT here is trained "
                "on; give an autoencoder without shift_factor"
            )
        self.autoencoder = found

    def to_pictures(self, loaded: Loaded, drawn: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) of samples as ``sample`` gives them."""
        if self.autoencoder is None or loaded.latent.kind == "pixel":
            return drawn
        return self.autoencoder.decode(drawn).cpu()

    def from_pictures(self, loaded: Loaded, images: Tensor) -> Tensor:
        """Samples in the model's own space, its scale applied, of pictures (B, 3, H, W)."""
        if self.autoencoder is not None and loaded.latent.kind == "latent":
            images = self.autoencoder.encode(images).cpu()
        return images * loaded.latent.scale


@dataclass
class Account:
    """What sampling a seed cost: executed MACs of one picture, seconds, evaluations by grid."""

    macs: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    grids: dict[str, int] | None = None

    def add(self, samples: Samples) -> None:
        """Count one batch."""
        self.macs, self.evaluations = samples.macs, len(samples.evaluations)
        self.grids = grid_counts(samples)
        self.seconds += samples.seconds


def evaluate(
    name: str, loaded: Loaded, args: argparse.Namespace, jury: Jury, real: Reality, space: Space
) -> dict[str, Any]:
    """The verdicts on one model."""
    seeds: list[dict[str, Any]] = []
    encode = text_reader(args, loaded)
    account, ask = Account(), asker(loaded, real.pictures, encode)
    for seed in args.seeds:
        account = Account()
        label, total = f"{Path(name).stem}, seed {seed}", args.samples * evaluation_count(settings(loaded, args))
        with bar(total, label, "evaluations") as progress:
            drawn = seen(jury, sampled(loaded, args, ask, seed, space, account, progress), classes_of(loaded))
        seeds.append({"seed": seed} | drawn.against(real.reference).to_json() | {"seconds": account.seconds})
    row: dict[str, Any] = {
        "file": Path(name).name,
        "layout": None if loaded.layout is None else str(loaded.layout),
        "prediction": loaded.prediction,
        "seeds": seeds,
    }
    row |= spreads(seeds)
    row |= {
        "mean_macs": account.macs / account.evaluations,
        "mean_flops": 2 * account.macs / account.evaluations,
        "sparse_grids": account.grids,
    }
    if args.by_time is not None:
        row["by_time"] = by_time(name, loaded, args, real, space, encode)
    return row


def settings(loaded: Loaded, args: argparse.Namespace) -> SampleOptions:
    """How the model is sampled."""
    schedule = None if loaded.layout is None else options.schedule_from(args, loaded.schedule)
    return options.sample_options(args, loaded, schedule)


def sampled(
    loaded: Loaded,
    args: argparse.Namespace,
    ask: Asker,
    seed: int,
    space: Space,
    account: Account,
    progress: Callable[[int], object],
) -> Iterator[tuple[Tensor, Tensor | Attributes | None]]:
    """Pictures and what they should show in batches: class after class in turn, captions those of held-out pictures.

    The noise is the same in every batching.
    """
    wanted = settings(loaded, args)
    for first in range(0, args.samples, args.batch):
        count = min(args.batch, args.samples - first)
        shown, conditions = ask(seed, first, count)
        noise = initial_noise(loaded, count, seed=seed, first=first)
        samples = sample(loaded, noise, conditions, wanted, seed=seed, first=first, progress=progress)
        account.add(samples)
        yield space.to_pictures(loaded, samples.images), shown


def by_time(
    name: str, loaded: Loaded, args: argparse.Namespace, real: Reality, space: Space, encode: Encoder | None
) -> dict[str, Any]:
    """The errors of the prediction on the first real pictures, by time; ``ValueError`` for fewer than two of them."""
    drawn: list[Tensor] = []
    given: list[Any] = []
    count = args.by_time if real.pictures.count is None else min(args.by_time, real.pictures.count)
    for images, asked in questions(real.pictures, loaded, encode, count, args.batch):
        drawn.append(space.from_pictures(loaded, images))
        given.append(asked)
    readable = sum(map(len, given))
    if readable < 2:
        raise ValueError(
            f"only {readable} of the first {count} real pictures can be read{' and have a caption' if encode else ''}; "
            "an error by time needs 2: give a larger --by-time, or replace the damaged files"
        )
    with bar(len(TIMES) * readable, f"{Path(name).stem}, by time", "evaluations") as progress:
        schedule = options.schedule_from(args, loaded.schedule) if loaded.layout is not None else None
        found = errors_by_time(
            loaded,
            torch.cat(drawn),
            joined(given) if isinstance(given[0], Captions) else torch.cat(given),
            schedule=schedule,
            batch=args.batch,
            progress=progress,
        )
    what = "velocity" if loaded.prediction == "flow" else "noise"
    times = [entry.to_json() for entry in found]
    return {"predicts": what, "told": told(real.pictures, loaded), "pictures": readable, "times": times}
