"""The procedural pictures, the judge and the models that fit them."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint import Loaded
from ..conditions import Conditions
from ..config import DiTConfig
from ..train.picture_captions import LONGEST, WORDS, captions
from ..train.pictures import CLASS_NAMES, SIDE, Attributes
from ..words import WordEncoder


def knows_pictures(loaded: Loaded) -> bool:
    """Whether a model's classes, or its words, are those of the procedural pictures."""
    if isinstance(loaded.config, DiTConfig):
        return loaded.config.num_classes == len(CLASS_NAMES)
    return loaded.words == WORDS


def draws_pictures(loaded: Loaded) -> bool:
    """Whether it draws them, too: 64 x 64 pixels."""
    return (loaded.latent.kind, loaded.config.input_size) == ("pixel", (SIDE, SIDE)) and knows_pictures(loaded)


def conditions_of(loaded: Loaded, shown: Attributes) -> Conditions:
    """What a model that knows the procedural pictures is asked with for some of them."""
    if isinstance(loaded.config, DiTConfig):
        return shown.label
    return WordEncoder(WORDS)(captions(shown), LONGEST)


def check_fits(loaded: Loaded, name: str) -> None:
    """``ValueError`` unless a model draws the procedural pictures, of 10 classes or of their words, as a flow."""
    config, latent = loaded.config, loaded.latent
    fits = (latent.channels, loaded.prediction, config.learn_sigma) == (3, "flow", False)
    if not (fits and draws_pictures(loaded)):
        height, width = config.input_size
        asked = f"{config.num_classes} classes" if isinstance(config, DiTConfig) else "captions of "
        if not isinstance(config, DiTConfig):
            asked += "a text encoder" if loaded.words is None else f"{len(loaded.words)} words"
        raise ValueError(
            f"{Path(name).name} is a {loaded.prediction} model of {width}x{height} {latent.kind}s, {latent.channels} "
            f"channels and {asked}; this command works on the project's own pictures: flow, {SIDE}x{SIDE} pixels, "
            f"3 channels, {len(CLASS_NAMES)} classes or the words of their captions"
        )
