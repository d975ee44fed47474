"""The procedural pictures, the judge and the models that fit them."""

from __future__ import annotations

from pathlib import Path

from ..checkpoint import Loaded
from ..train.pictures import CLASS_NAMES, SIDE


def check_fits(loaded: Loaded, name: str) -> None:
    """``ValueError`` unless a model draws the procedural pictures: 64 x 64 pixels, 10 classes, rectified flow."""
    config = loaded.config
    wanted = ("pixel", 3, (SIDE, SIDE), len(CLASS_NAMES), "flow", False)
    latent = loaded.latent
    found = (latent.kind, latent.channels, config.input_size, config.num_classes, loaded.prediction, config.learn_sigma)
    if found != wanted:
        height, width = config.input_size
        raise ValueError(
            f"{Path(name).name} is a {loaded.prediction} model of {width}x{height} {latent.kind}s, {latent.channels} "
            f"channels and {config.num_classes} classes; this command works on the project's own pictures: "
            f"flow, {SIDE}x{SIDE} pixels, 3 channels, {len(CLASS_NAMES)} classes"
        )
