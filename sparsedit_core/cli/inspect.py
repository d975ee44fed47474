"""``inspect``: what a checkpoint is, without running it."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from ..checkpoint import Loaded, load_checkpoint
from ..config import DiTConfig, PixArtConfig
from ..cost import caption_length, macs
from . import options, text
from .files import to_json

SUMMARY = "say what a checkpoint holds; exit code 2 if it cannot be loaded"
EXAMPLE = "sparsedit inspect DiT-XL-2-256x256.pt"

KINDS = {"dit": ("dense DiT", "SparseDiT"), "pixart": ("dense PixArt", "sparse PixArt")}


def arguments(parser: argparse.ArgumentParser) -> None:
    """FILE and what it may not say about itself."""
    parser.add_argument("file", metavar="FILE", help=options.MODEL_HELP)
    options.add_facts(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Load exactly as every other command does, and tell."""
    path = options.model_path(args.file)
    loaded = load_checkpoint(path, **options.facts(args))
    found = describe(loaded)
    if args.json:
        print(to_json({"file": path.name, **found}))
        return
    print(text.facts([("file", path.name), *lines(loaded, found)]))


def describe(loaded: Loaded) -> dict[str, Any]:
    """Everything known about a checkpoint, as plain values."""
    state = loaded.model.state_dict()
    dtypes = Counter({str(v.dtype).removeprefix("torch."): 0 for v in state.values()})
    for value in state.values():
        dtypes[str(value.dtype).removeprefix("torch.")] += value.numel()
    cost = macs(loaded.config, loaded.config.input_size, factor=1)
    return {
        "family": loaded.family,
        "format": loaded.format,
        "layout": None if loaded.layout is None else str(loaded.layout),
        "prediction": loaded.prediction,
        "parameters": sum(dtypes.values()),
        "dtypes": dict(dtypes.most_common()),
        "config": loaded.config.to_json(),
        "latent": loaded.latent.to_json(),
        "schedule": None if loaded.schedule is None else loaded.schedule.to_json(),
        "caption_tokens_counted": caption_length(loaded.config) or None,
        "class_names": None if loaded.class_names is None else list(loaded.class_names),
        "cost": cost.to_json(),
        "words": None if loaded.words is None else list(loaded.words),
        "metadata": loaded.metadata,
    }


def lines(loaded: Loaded, found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for people."""
    config, latent = loaded.config, loaded.latent
    rows, columns = config.grid
    size = f"{config.input_size[1] * latent.factor}x{config.input_size[0] * latent.factor} px"
    cost = macs(config, config.input_size, factor=1)
    name = KINDS[loaded.family][loaded.layout is not None]
    tokens = caption_length(config)
    text_read = f", a caption of {tokens} tokens" if tokens else ""
    result = [
        ("kind", f"{name}, file layout {loaded.format}"),
        (
            "blocks",
            f"{config.depth} of width {config.hidden_size}, {config.num_heads} heads, MLP ratio {config.mlp_ratio:g}",
        ),
        ("parameters", f"{found['parameters'] / 1e6:.2f} M, {', '.join(found['dtypes'])}"),
        ("pictures", f"{size}, {latent.kind} space of {latent.channels} channels, patch {config.patch_size}"),
        ("tokens", f"{rows}x{columns} = {rows * columns} dense"),
        *condition_lines(loaded),
        ("prediction", f"{loaded.prediction}{', learned variance' if config.learn_sigma else ''}"),
        ("one evaluation", f"{text.macs_text(cost.total)} executed for one picture{text_read}"),
    ]
    if loaded.layout is not None:
        result.insert(1, ("layout", f"{loaded.layout} (bottom + modules of [generation,sparse,recovery,dense] + top)"))
        result.insert(6, ("sparse side", f"{config.sparse_side} where no schedule is given"))
        result.append(("schedule", schedule_text(loaded)))
    for title, names in (("class names", loaded.class_names), ("words", loaded.words)):
        if names is not None:
            result.append((title, ", ".join(names[:10]) + ", ..." * (len(names) > 10)))
    return result


def condition_lines(loaded: Loaded) -> list[tuple[str, str]]:
    """What the model is asked by: classes of a DiT; of a PixArt the text, size conditioning and positions."""
    config = loaded.config
    if isinstance(config, DiTConfig):
        return [("classes", f"{config.num_classes}{' and the null class' if config.null_class else ''}")]
    if not isinstance(config, PixArtConfig):
        raise TypeError(f"nothing is known of the conditions of a {config.family}")
    rows, columns = config.grid
    null = f"null caption of {config.caption_tokens} tokens" if config.caption_tokens else "no null caption"
    return [
        ("text", f"features of width {config.caption_channels}, {null}"),
        ("size conditioning", "picture size and aspect ratio" if config.micro_conditioning else "none"),
        ("positions", f"those of {rows}x{columns} tokens on every size, interpolation {config.position_scale:g}"),
        ("attention", "queries and keys normalised" if config.qk_norm else "queries and keys as they are"),
    ]


def schedule_text(loaded: Loaded) -> str:
    """The schedule a file was trained with, in one line."""
    if loaded.schedule is None:
        return "none stored"
    schedule, dense = loaded.schedule, loaded.config.grid
    noise, clean = schedule.grid(1.0, dense), schedule.grid(0.0, dense)
    part = f", from {schedule.start:g} to {schedule.end:g} of the sampling"
    window = "" if (schedule.start, schedule.end) == (0.0, 1.0) else part
    return (
        f"rate {schedule.rate_noise:g} at noise to {schedule.rate_clean:g} at the image, {schedule.curve}, "
        f"{schedule.hold} held for {schedule.hold_fraction:g}{window}: "
        f"{noise[0]}x{noise[1]} to {clean[0]}x{clean[1]} tokens"
    )
