"""Who judges pictures and beside what: the flags of ``evaluate`` that say so, and what they describe."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import Loaded
from ..train.evaluation import Jury, PictureSet, seen, union
from ..train.extractors import Preparation, ScriptedNetwork, judge_features, judge_logits
from ..train.pictures import CLASS_NAMES, SIDE
from ..train.precision_recall import NEIGHBOURS
from ..train.real_pictures import FolderPictures, HeldOutPictures, RealPictures, batches
from ..train.train_judge import load_judge
from . import options
from .pictures import check_fits

PROCEDURAL = (SIDE, SIDE, len(CLASS_NAMES))
NETWORKS = {"features": "the feature extractor", "classifier": "the classifier"}


def add_jury(parser: argparse.ArgumentParser) -> None:
    """Real pictures, networks and how precision and recall are taken."""
    group = parser.add_argument_group("what is compared with, and by which networks")
    group.add_argument(
        "--real", type=Path, metavar="FOLDER", help="real images (default: the held-out procedural pictures)"
    )
    group.add_argument(
        "--references",
        type=options.positive,
        metavar="N",
        help="real pictures compared with (default: as many as samples; of a folder all)",
    )
    group.add_argument("--judge", type=Path, metavar="FILE", help="another judge of the procedural pictures")
    group.add_argument("--features", type=Path, metavar="FILE", help="TorchScript network whose output is the features")
    group.add_argument("--classifier", type=Path, metavar="FILE", help="TorchScript network that gives class logits")
    for flag, what in NETWORKS.items():
        group.add_argument(
            f"--{flag}-size", type=options.positive, metavar="PX", help=f"resize pictures for {what}, e.g. 299"
        )
        group.add_argument(
            f"--{flag}-range",
            type=float,
            nargs=2,
            default=(-1.0, 1.0),
            metavar=("BLACK", "WHITE"),
            help=f"numbers that {what} takes: -1 1 (default), 0 1 or 0 255",
        )
    group.add_argument(
        "--neighbours", type=options.positive, default=NEIGHBOURS, metavar="K",
        help=f"neighbour that precision and recall reach to (default {NEIGHBOURS})",
    )  # fmt: skip
    group.add_argument(
        "--manifold", type=options.positive, default=10_000, metavar="N",
        help="pictures on either side of precision and recall, at most (default 10000)",
    )  # fmt: skip


def jury_from(args: argparse.Namespace) -> Jury:
    """The networks that the flags name."""
    for flag in NETWORKS:
        given = getattr(args, f"{flag}_size") is not None or tuple(getattr(args, f"{flag}_range")) != (-1.0, 1.0)
        if given and getattr(args, flag) is None:
            raise ValueError(f"--{flag}-size and --{flag}-range are about --{flag} FILE, which was not given")
    if args.real is not None and (args.features is None or args.judge is not None):
        raise ValueError(
            "the judge knows the project's own pictures only; for a folder give a feature extractor as TorchScript "
            "instead, e.g. --features inception.pt --features-size 299"
        )
    features, classify = scripted(args, "features"), scripted(args, "classifier")
    if args.real is not None and features is not None:
        return Jury(features, classify, args.neighbours, args.manifold)
    judge, _ = load_judge(args.judge)
    return Jury(features or judge_features(judge), classify or judge_logits(judge), args.neighbours, args.manifold)


def scripted(args: argparse.Namespace, flag: str) -> ScriptedNetwork | None:
    """The TorchScript network of a flag, if it was given."""
    path = getattr(args, flag)
    if path is None:
        return None
    return ScriptedNetwork(path, Preparation(getattr(args, f"{flag}_size"), *getattr(args, f"{flag}_range")))


@dataclass(frozen=True)
class Reality:
    """Real pictures as the jury sees them.

    ``reference``  what generated pictures are compared with
    ``halves``     two sets of other pictures each: what the jury finds between them is the floor
    """

    pictures: RealPictures
    reference: PictureSet
    halves: tuple[PictureSet, PictureSet]


def reality(
    pictures: RealPictures, jury: Jury, args: argparse.Namespace, samples: int, progress: Callable[[int], object]
) -> Reality:
    """Judge the real pictures: of unlimited ones as many others as there are samples, else one half and the other."""
    wanted = args.references
    width: int | None = None

    def judged(first: int, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        nonlocal width
        for images, labels in batches(pictures, first, count, args.batch):
            if width is None and jury.classify is not None and len(images):
                width = jury.classify(images[:1]).shape[1]
            # sub-folders that are not the classifier's classes tell nothing about it
            yield images, labels if width == len(pictures.class_names) else None
            progress(len(images))

    if pictures.count is None:
        references = wanted or samples
        reference = seen(jury, judged(0, references))
        return Reality(pictures, reference, (seen(jury, judged(references, samples)), reference))
    count = min(wanted or pictures.count, pictures.count)
    one = seen(jury, judged(0, count // 2))
    two = seen(jury, judged(count // 2, count - count // 2))
    if min(len(one), len(two)) < 2:
        raise ValueError(f"only {len(one) + len(two)} real pictures could be read; a Frechet distance needs 4 or more")
    return Reality(pictures, union(one, two), (one, two))


def real_pictures(args: argparse.Namespace, size: tuple[int, int]) -> RealPictures:
    """Held-out procedural pictures, or those of ``--real`` in the models' (height, width)."""
    if args.real is None:
        return HeldOutPictures()
    if size[0] != size[1]:
        raise ValueError(f"the models draw {size[1]}x{size[0]} pixels; real pictures are cropped to squares alone")
    return FolderPictures(args.real, size[0])


def picture_size(loaded: Loaded) -> tuple[int, int]:
    """Height and width in pixels of what a model draws."""
    height, width = loaded.config.input_size
    return height * loaded.latent.factor, width * loaded.latent.factor


def check_models(models: Sequence[tuple[str, Loaded]], args: argparse.Namespace) -> None:
    """``ValueError`` for a model whose pictures cannot be judged as the flags say."""
    sizes = {picture_size(loaded): name for name, loaded in models}
    if len(sizes) > 1:
        found = ", ".join(f"{Path(name).name} {width}x{height}" for (height, width), name in sizes.items())
        raise ValueError(f"the models draw pictures of different sizes ({found}); evaluate each size by itself")
    for name, loaded in models:
        latent = loaded.latent.kind == "latent"
        if args.real is None and not (latent and args.vae is not None):
            check_fits(loaded, name)
        elif args.real is None and (*picture_size(loaded), loaded.config.num_classes) != PROCEDURAL:
            raise ValueError(
                f"{Path(name).name} draws {loaded.config.num_classes} classes of {picture_size(loaded)} pixels, the "
                f"procedural pictures are {len(CLASS_NAMES)} of {(SIDE, SIDE)}; compare with a folder: --real FOLDER"
            )
        elif latent and args.vae is None:
            raise ValueError(f"{Path(name).name} draws latents; give the autoencoder that decodes them with --vae FILE")
        elif not latent and loaded.latent.channels != 3:
            raise ValueError(f"{Path(name).name} draws {loaded.latent.channels} channels; pictures have 3")


def check_classifier(jury: Jury, size: tuple[int, int], models: Sequence[tuple[str, Loaded]]) -> None:
    """``ValueError`` where the classifier does not know a model's classes: asked before anything is sampled.

    ``size`` is the pictures' (height, width); the classifier is asked with a grey one.
    """
    if jury.classify is None or not models:
        return
    width = jury.classify(torch.zeros(1, 3, *size)).shape[1]
    for name, loaded in models:
        if width != loaded.config.num_classes:
            raise ValueError(
                f"the classifier gives {width} logits, but the pictures are of {loaded.config.num_classes} classes "
                f"({Path(name).name}); give a classifier of the model's own classes"
            )


def same_classes(pictures: RealPictures, loaded: Loaded) -> bool:
    """Whether the labels of the pictures are the model's classes; ``ValueError`` where not and without a null class."""
    if len(pictures.class_names) == loaded.config.num_classes:
        return True
    if not loaded.config.null_class:
        raise ValueError(
            f"the real pictures are of {len(pictures.class_names)} classes, the model knows "
            f"{loaded.config.num_classes} and no null class; give one sub-folder for each class"
        )
    return False


def known_labels(pictures: RealPictures, loaded: Loaded, labels: Tensor | None, count: int) -> Tensor:
    """Labels (count,) to ask a model with: those of the pictures if they are the model's classes, else the null class.

    ``ValueError`` for a model without a null class.
    """
    if same_classes(pictures, loaded) and labels is not None:
        return labels
    return torch.full((count,), loaded.config.num_classes)
