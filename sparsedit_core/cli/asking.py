"""What pictures are asked for on the command line: classes of a DiT, captions of a PixArt."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint import Loaded
from ..conditions import Captions, Conditions, has_null, with_classes, without_content
from ..config import PixArtConfig
from ..text_encoder import TextEncoder
from ..words import WordEncoder
from . import options


@dataclass(frozen=True)
class Asked:
    """``conditions``, their ``names`` and what guidance leads away from, if not from nothing: one each a picture."""

    conditions: Conditions
    names: list[str]
    negative: Captions | None = None


def add_asking(parser: argparse.ArgumentParser, *, classes: str) -> None:
    """Classes (a DiT's are ``classes`` if none are given) or captions, and how many pictures of each."""
    words = f'of a DiT: numbers, ranges, names or "all" (default {classes})'
    parser.add_argument("--classes", nargs="+", metavar="C", help=words)
    parser.set_defaults(default_classes=classes)
    parser.add_argument(
        "--caption", nargs="+", metavar="TEXT", help="captions, of a PixArt; quote each: --caption 'a red striped star'"
    )
    parser.add_argument("--negative", metavar="TEXT", help="caption that guidance leads away from (default: none)")
    add_text_encoder(parser)
    parser.add_argument(
        "--each", type=options.positive, default=1, metavar="N", help="pictures of every class or caption (default 1)"
    )


def add_text_encoder(parser: argparse.ArgumentParser) -> None:
    """--text-encoder, --text-tokens."""
    parser.add_argument(
        "--text-encoder", type=Path, metavar="DIR", help="folder of the T5 encoder that a PixArt was trained with"
    )
    parser.add_argument(
        "--text-tokens", type=options.positive, metavar="N", help="longest caption in tokens (default: the model's own)"
    )


def check_text_flags(args: argparse.Namespace, models: Sequence[Loaded]) -> None:
    """``ValueError`` for a flag of ``add_text_encoder`` where none of the models reads a text encoder's features."""
    given = [name for name in ("text_encoder", "text_tokens") if getattr(args, name) is not None]
    if given and not any(isinstance(loaded.config, PixArtConfig) and loaded.words is None for loaded in models):
        flag = f"--{given[0].replace('_', '-')}"
        raise ValueError(
            f"{flag} is for a PixArt that was trained with a text encoder, and no model given here was; a DiT draws "
            f"classes, and a PixArt of words reads its own table: leave {flag} out"
        )


def asked_from(args: argparse.Namespace, loaded: Loaded) -> Asked:
    """What ``add_asking`` reads; ``ValueError`` where it does not fit the model."""
    check_text_flags(args, [loaded])
    if not isinstance(loaded.config, PixArtConfig):
        if args.caption is not None or args.negative is not None:
            raise ValueError("--caption and --negative are for a PixArt; this model draws classes")
        classes = options.classes_from(args.classes or [args.default_classes], loaded)
        labels = torch.tensor(classes).repeat_interleave(args.each)
        return Asked(labels, described(loaded, labels))
    if args.classes is not None:
        raise ValueError("--classes is for a DiT; this model is a PixArt, which is asked with --caption TEXT")
    encode = encoder(args, loaded)
    if args.caption is None:
        raise ValueError(f"say what is to be drawn: --caption TEXT{_example(loaded)}")
    texts = [text for text in args.caption for _ in range(args.each)]
    negative = None if args.negative is None else encode([args.negative] * len(texts))
    if args.negative is not None and getattr(args, "cfg", None) == 1.0:
        raise ValueError("--negative acts through guidance, which is 1 here (none); give --cfg above 1, e.g. 3")
    if getattr(args, "cfg", 1.0) != 1.0 and negative is None and not has_null(loaded.config):
        raise ValueError("the file holds no null caption to guide away from; give --negative TEXT or --cfg 1")
    return Asked(encode(texts), texts, negative)


def encoder(args: argparse.Namespace, loaded: Loaded) -> Callable[[Sequence[str]], Captions]:
    """How a PixArt's captions become features: by the file's own words, or by ``--text-encoder``."""
    config = loaded.config
    assert isinstance(config, PixArtConfig)
    if loaded.words is not None:
        return WordEncoder(loaded.words)
    if args.text_encoder is None:
        raise ValueError(
            f"the model reads features of width {config.caption_channels} from a text encoder (T5-XXL for released "
            "PixArt); give its folder with --text-encoder DIR"
        )
    length = args.text_tokens or config.caption_tokens or TextEncoder.LENGTH
    return TextEncoder(args.text_encoder, length=length, width=config.caption_channels, device=args.device)


def described(loaded: Loaded, conditions: Conditions) -> list[str]:
    """What each picture shows: its class by name where the file has names, its caption where words tell it."""
    if isinstance(conditions, Captions):
        known = WordEncoder(loaded.words).texts(conditions) if loaded.words else [""] * len(conditions)
        return [text or f"picture {number}" for number, text in enumerate(known)]
    names = loaded.class_names
    with_classes(loaded.config)
    return [names[label] if names else f"class {label}" for label in conditions.tolist()]


def spread_conditions(loaded: Loaded, count: int) -> Conditions:
    """For a look at a model where nothing is asked for: labels spread over its classes, or empty captions."""
    config = loaded.config
    if not isinstance(config, PixArtConfig):
        return torch.arange(count) * with_classes(config).num_classes // count
    length = max(1, config.caption_tokens)
    mask = torch.ones(count, length, dtype=torch.bool)
    return without_content(loaded.model, Captions(torch.zeros(count, length, config.caption_channels), mask))


def _example(loaded: Loaded) -> str:
    return f" of the words {', '.join(loaded.words)}" if loaded.words else ""
