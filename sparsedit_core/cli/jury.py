"""Who judges pictures and beside what: the flags of ``evaluate`` that say so, and what they describe."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..checkpoint import Loaded
from ..conditions import Captions, Conditions, has_null, without_content
from ..config import DiTConfig
from ..train.evaluation import Jury, PictureSet, seen, union
from ..train.extractors import Preparation, ScriptedNetwork, judge_features, judge_logits
from ..train.pictures import CLASS_NAMES, SIDE, Attributes, attributes
from ..train.precision_recall import NEIGHBOURS
from ..train.real_pictures import FolderPictures, HeldOutPictures, RealPictures, batches
from ..train.train_judge import load_judge
from . import options
from .asking import encoder, spread_conditions
from .pictures import check_fits, conditions_of, knows_pictures

PROCEDURAL = (SIDE, SIDE, len(CLASS_NAMES))
_ASKED_SEED = 1000  # of the captions that models are asked with, above that of the references
Encoder = Callable[[Sequence[str]], Captions]
Told = Literal["classes", "captions", "nothing"]
Asker = Callable[[int, int, int], tuple[Tensor | Attributes | None, Conditions]]
"""Seed, first and count of samples to what they should show and what they are asked with."""

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

    def judged(first: int, count: int) -> Iterator[tuple[Tensor, Tensor | Attributes | None]]:
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


def real_pictures(args: argparse.Namespace, size: tuple[int, int], models: Sequence[Loaded] = ()) -> RealPictures:
    """Held-out procedural pictures, or those of ``--real`` in the models' (height, width)."""
    if args.real is None:
        return HeldOutPictures(captioned=any(loaded.family == "pixart" for loaded in models))
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
        elif args.real is None and (*picture_size(loaded), classes_of(loaded)) != PROCEDURAL:
            raise ValueError(
                f"{Path(name).name} draws {classes_of(loaded)} classes of {picture_size(loaded)} pixels, the "
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
        if classes_of(loaded) not in (width, None):
            raise ValueError(
                f"the classifier gives {width} logits, but the pictures are of {classes_of(loaded)} classes "
                f"({Path(name).name}); give a classifier of the model's own classes"
            )


def classes_of(loaded: Loaded) -> int | None:
    """How many classes a model's pictures are judged by: its own, or those of the procedural pictures' captions."""
    if isinstance(loaded.config, DiTConfig):
        return loaded.config.num_classes
    return len(CLASS_NAMES) if knows_pictures(loaded) else None


def told(pictures: RealPictures, loaded: Loaded) -> Told:
    """What a model is told of real pictures while its error is measured: what they show, if it knows that.

    ``ValueError`` for a PixArt of a text encoder without texts beside the pictures, and where nothing can be told and
    the model has no null class or caption.
    """
    if isinstance(loaded.config, DiTConfig):
        if len(pictures.class_names) == loaded.config.num_classes > 0:
            return "classes"
        known = f"{loaded.config.num_classes} and no null class; give one sub-folder for each class"
    else:
        if not knows_pictures(loaded):
            texts_beside(pictures)
            return "captions"
        if isinstance(pictures, HeldOutPictures):
            return "captions"
        known = "captions of the procedural pictures but holds no null caption, which stands for others; leave --real"
    if not has_null(loaded.config):
        raise ValueError(f"the real pictures are of {len(pictures.class_names)} classes, the model knows {known}")
    return "nothing"


def questions(
    pictures: RealPictures, loaded: Loaded, encode: Encoder | None, count: int, size: int
) -> Iterator[tuple[Tensor, Conditions]]:
    """Those of the first ``count`` real pictures that can be read, in batches, and what a model is asked with for each.

    It is what :func:`told` says; pictures without a caption are left out where captions are told.
    """
    what = told(pictures, loaded)
    if encode is not None and isinstance(pictures, FolderPictures):
        for start in range(0, count, size):
            images, texts = pictures.with_captions(start, min(size, count - start))
            if texts:
                yield images, encode(texts)
        return
    for images, shown in batches(pictures, 0, count, size):
        if what == "nothing" and len(images):
            yield images, without_content(loaded.model, spread_conditions(loaded, len(images)))
        elif len(images):
            assert shown is not None
            yield images, conditions_of(loaded, shown) if isinstance(shown, Attributes) else shown


def texts_beside(pictures: RealPictures) -> list[str]:
    """The captions beside real pictures; ``ValueError`` where there are none."""
    texts = pictures.captions() if isinstance(pictures, FolderPictures) else []
    if not texts:
        raise ValueError("a PixArt is asked with captions; give pictures with .txt files beside them: --real FOLDER")
    return texts


def text_reader(args: argparse.Namespace, loaded: Loaded) -> Encoder | None:
    """How the texts beside real pictures are read for a PixArt; ``None`` for a model that is asked with others."""
    return None if isinstance(loaded.config, DiTConfig) or knows_pictures(loaded) else encoder(args, loaded)


def asker(loaded: Loaded, pictures: RealPictures, encode: Encoder | None) -> Asker:
    """What samples should show, and the conditions that ask for it: classes in turn, or captions.

    Captions of the procedural pictures are those of held-out ones, others for each seed; else they are the texts beside
    the real pictures, in turn, read by ``encode``. ``ValueError`` where there are none.
    """
    if isinstance(loaded.config, DiTConfig):
        classes = loaded.config.num_classes
        return lambda _, first, count: (labels := torch.arange(first, first + count) % classes, labels)
    if encode is None:

        def held_out(seed: int, first: int, count: int) -> tuple[Attributes, Conditions]:
            shown = attributes(first, count, seed=_ASKED_SEED + seed, split="heldout")
            return shown, conditions_of(loaded, shown)

        return held_out
    texts = texts_beside(pictures)

    def beside(_: int, first: int, count: int) -> tuple[None, Conditions]:
        return None, encode([texts[number % len(texts)] for number in range(first, first + count)])

    return beside
