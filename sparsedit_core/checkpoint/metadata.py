"""The JSON text inside our own safetensors files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from ..config import CONFIGS, DiTConfig, PixArtConfig
from ..diffusion.model_time import Prediction
from ..schedule import PruningSchedule
from .errors import CheckpointError
from .records import Description, Latent

KEY = "sparsedit"
VERSION = 1


def to_metadata(description: Description) -> dict[str, str]:
    """The safetensors metadata of a checkpoint: one entry, a JSON object."""
    check_description(description)
    data = {
        "version": VERSION,
        "family": description.family,
        "config": description.config.to_json(),
        "schedule": None if description.schedule is None else description.schedule.to_json(),
        "prediction": description.prediction,
        "latent": description.latent.to_json(),
        "class_names": None if description.class_names is None else list(description.class_names),
        "words": None if description.words is None else list(description.words),
        "metadata": description.metadata,
    }
    try:
        return {KEY: json.dumps(data, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"metadata must be JSON values (text, numbers, lists, dictionaries): {error}") from error


def from_metadata(metadata: Mapping[str, str], blocks: int) -> Description | None:
    """What a file of ours says about itself; ``None`` if it is not ours.

    ``blocks`` is how many blocks the file really has: numbers of blocks above it are refused before they are used.
    """
    if KEY not in metadata:
        return None
    try:
        data = json.loads(metadata[KEY])
        version = data["version"]
        if type(version) is not int or not 1 <= version <= VERSION:
            raise CheckpointError(
                f"the file has metadata version {version!r}, this program reads up to {VERSION}; update it"
            )
        if data["family"] not in CONFIGS:
            raise CheckpointError(
                f"the file holds a {data['family']!r} model; this program reads {', '.join(CONFIGS)}; update it"
            )
        _check_blocks(data["config"], blocks)
        names, words = data.get("class_names"), data.get("words")
        schedule = data.get("schedule")
        description = Description(
            config=CONFIGS[data["family"]].from_json(data["config"]),
            schedule=None if schedule is None else PruningSchedule.from_json(schedule),
            prediction=data["prediction"],
            latent=Latent.from_json(data["latent"]),
            class_names=None if names is None else tuple(map(str, names)),
            words=None if words is None else tuple(map(str, words)),
            metadata=dict(data.get("metadata") or {}),
        )
        check_description(description)
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"the file's SparseDiT metadata is damaged ({type(error).__name__}: {error})") from error
    return description


def check_description(description: Description) -> None:
    """Raise ``CheckpointError`` unless the parts agree with each other."""
    config, names = description.config, description.class_names
    if description.prediction not in get_args(Prediction):
        raise CheckpointError(f"prediction is {description.prediction!r}; expected one of {get_args(Prediction)}")
    classes = config.num_classes if isinstance(config, DiTConfig) else 0
    if names is not None and len(names) != classes:
        raise CheckpointError(f"there are {len(names)} class names for {classes} classes; give one per class")
    words, width = description.words, config.caption_channels if isinstance(config, PixArtConfig) else 0
    if words is not None and len(words) != width:
        raise CheckpointError(f"there are {len(words)} words for text features of width {width}; give one per feature")
    if description.latent.channels != config.in_channels:
        raise CheckpointError(
            f"the latent space has {description.latent.channels} channels but the model takes {config.in_channels}"
        )


def _check_blocks(config: Mapping[str, Any], blocks: int) -> None:
    numbers = [int(number) for number in re.findall(r"\d+", str(config.get("layout") or ""))]
    if config["depth"] != blocks or max(numbers, default=0) > blocks:
        raise CheckpointError(
            f"the metadata speaks of {config['depth']} blocks (layout {config.get('layout')}) but the file has {blocks}"
        )
