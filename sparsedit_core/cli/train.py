"""``train``: a DiT or PixArt from the beginning, or the classifier that judges the procedural pictures."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..backbones import new_model
from ..checkpoint import Loaded, load_checkpoint
from ..config import CONFIGS, BackboneConfig, DiTConfig, PixArtConfig
from ..from_dit import dit_to_pixart
from ..layout import SegmentLayout
from ..train.data import PROCEDURAL
from ..train.objective import PREDICTIONS
from ..train.options import TrainOptions
from ..train.picture_captions import LONGEST, WORDS
from ..train.source import ProceduralCaptions, ProceduralSource, Source
from ..train.train_judge import save_judge, train_classifier
from ..words import initialize_word_table
from . import options
from .files import check_ending, command_line
from .training import add_training, all_versions, owned, run_training, source_from

SUMMARY = "train a model on the project's procedural pictures, or on a folder of encoded ones"
EXAMPLE = "sparsedit train dense.safetensors --pictures 200000 --hidden-size 96 --depth 8 --heads 3"

SHAPE = {"hidden_size": 96, "depth": 8, "heads": 3, "patch_size": 4, "mlp_ratio": 4.0}
"""Of a new model of pixels; one of latents has patches of 2."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """OUT or --classifier, shape, training, schedule."""
    parser.add_argument("out", metavar="OUT", nargs="?", type=Path, help="the .safetensors file to write")
    parser.add_argument("--init", metavar="FILE", help="go on from the weights of this checkpoint")
    parser.add_argument(
        "--from-dit", metavar="FILE", help="begin a PixArt as this dense DiT of the procedural pictures, classless"
    )
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--family", choices=CONFIGS, help="dit: of classes (default); pixart: of captions, which are words of a table"
    )
    for name, default in SHAPE.items():
        kind = float if isinstance(default, float) else options.positive
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, type=kind, metavar="N", help=f"{name.replace('_', ' ')} (default {default:g})")
    group.add_argument("--layout", metavar="TEXT", help="train a SparseDiT from the beginning (needs a schedule)")
    add_training(parser)
    options.add_schedule(parser)
    judge = parser.add_argument_group("the classifier instead of a model")
    judge.add_argument("--classifier", type=Path, metavar="OUT", help="train the judge and write it here")
    judge.add_argument(
        "--classifier-steps", type=options.positive, default=700, metavar="N", help="its steps (default 700)"
    )
    judge.add_argument(
        "--classifier-batch", type=options.positive, default=128, metavar="N", help="its batch (default 128)"
    )
    options.add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Train one of the two."""
    if (args.out is None) == (args.classifier is None):
        raise ValueError("give either the model's output file OUT or --classifier OUT")
    options.set_threads(args)
    check_ending(args.out or args.classifier, ".safetensors")
    if args.classifier is not None:
        _check_classifier(args)
        _classifier(args)
        return
    if args.init is None and args.from_dit is None:
        source = source_from(args, args.family or "dit")
        run_training(_new(args, source), args, source, {})
    else:
        loaded, facts = _given(args)
        run_training(loaded, args, source_from(args, loaded.family), facts)


def _new(args: argparse.Namespace, source: Source) -> Loaded:
    torch.manual_seed(args.seed)
    model = new_model(_config(args, source))
    model.initialize_weights()
    words = source.words if isinstance(source, ProceduralCaptions) else None
    if words is not None:
        initialize_word_table(model)
    return Loaded(
        model=model,
        config=model.config,
        schedule=options.schedule_from(args),
        prediction=PREDICTIONS.get(args.objective, "flow"),
        latent=source.latent,
        class_names=source.class_names,
        words=words,
    )


def _given(args: argparse.Namespace) -> tuple[Loaded, dict[str, Any]]:
    flag, name = ("--init", args.init) if args.from_dit is None else ("--from-dit", args.from_dit)
    if args.init is not None and args.from_dit is not None:
        raise ValueError("--init and --from-dit exclude each other; give one of them")
    given = [name for name in ("family", *SHAPE, "layout") if getattr(args, name) is not None]
    if given and not (given == ["family"] and args.family == "pixart" and flag == "--from-dit"):
        raise ValueError(f"{flag} brings the model's shape; leave out --{given[0].replace('_', '-')}")
    loaded = load_checkpoint(options.model_path(name), dtype=torch.float32)
    facts = {"init": {"name": Path(name).name, "metadata": loaded.metadata}}
    if flag == "--from-dit":
        loaded = dit_to_pixart(loaded, WORDS, LONGEST, seed=args.seed)
    loaded.schedule = options.schedule_from(args, loaded.schedule)
    return owned(loaded), facts


def _config(args: argparse.Namespace, source: Source) -> BackboneConfig:
    defaults = SHAPE | ({} if source.latent.kind == "pixel" else {"patch_size": 2})
    shape = {
        name: default if getattr(args, name) is None else getattr(args, name) for name, default in defaults.items()
    }
    common: dict[str, Any] = {
        "input_size": source.input_size,
        "patch_size": int(shape["patch_size"]),
        "in_channels": source.latent.channels,
        "hidden_size": int(shape["hidden_size"]),
        "depth": int(shape["depth"]),
        "num_heads": int(shape["heads"]),
        "mlp_ratio": shape["mlp_ratio"],
        "learn_sigma": PREDICTIONS.get(args.objective) == "eps",
        "layout": None if args.layout is None else SegmentLayout.parse(args.layout),
    }
    if source.caption_channels is None:
        return DiTConfig(num_classes=source.num_classes, **common)
    return PixArtConfig(caption_channels=source.caption_channels, caption_tokens=source.caption_tokens, **common)


def _check_classifier(args: argparse.Namespace) -> None:
    usual = {item.name: item.default for item in fields(TrainOptions) if item.name != "seed"} | {"data": PROCEDURAL}
    flags = (*SHAPE, "family", "init", "from_dit", "layout", "teacher", "resume", "cpu", "bfloat16", "sheet_every")
    flags = (*flags, "tensorboard", "preset", "schedule", "rate_noise", "rate_clean", "hold", "hold_fraction", "curve")
    flags = (*flags, "levels")
    for name, default in (usual | dict.fromkeys(flags)).items():
        if (getattr(args, name) or None) != (default or None):
            raise ValueError(
                f"--{name.replace('_', '-')} is about models; the classifier learns the procedural pictures, with "
                "--classifier-steps, --classifier-batch and --seed"
            )


def _classifier(args: argparse.Namespace) -> None:
    with tqdm(total=args.classifier_steps, unit=" steps", dynamic_ncols=True, delay=0.5) as bar:

        def progress(done: int, _: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update(done - bar.n)

        steps, batch = args.classifier_steps, args.classifier_batch
        judge, record = train_classifier(steps=steps, batch=batch, seed=args.seed, progress=progress)
    data = ProceduralSource(args.seed).fingerprint
    made = {"command": command_line(args.argv), "data": {"fingerprint": data}, "versions": all_versions()}
    save_judge(args.classifier, judge, {**record, **made})
    clean, noisy = record["heldout_accuracy"], record["noisy_accuracy"]
    print(f"{args.classifier}: accuracy on held-out pictures {100 * clean:.2f} %, with noise {100 * noisy:.2f} %")
