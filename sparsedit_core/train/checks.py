"""Whether a model, its data and the settings of a run fit each other, and what decides how a run ends."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backbone import Backbone
from ..checkpoint import Loaded
from ..checkpoint.metadata import check_description
from ..conditions import has_null
from ..config import DiTConfig, PixArtConfig
from .distill import check_teacher
from .objective import objective_name
from .options import TrainOptions
from .source import Source


def check_run(loaded: Loaded, out: Path, source: Source, options: TrainOptions, teacher: Backbone | None) -> None:
    """``ValueError`` with one sentence unless the run makes sense."""
    if out.suffix != ".safetensors" or out.is_dir():
        raise ValueError(f"the model cannot be written to {out}; give the name of a .safetensors file")
    layout, schedule = loaded.layout, loaded.schedule
    if teacher is not None:
        check_teacher(teacher, loaded.model, options.distill_features)
    elif options.distill_features or options.distill != TrainOptions.distill:
        name = "distill_features" if options.distill_features else "distill"
        raise ValueError(f"{name}={getattr(options, name)} needs a teacher, a dense model of the same data")
    if layout is not None and schedule is None:
        raise ValueError(
            f"the model is a SparseDiT (layout {layout}) but no schedule was given; a schedule says which token "
            "grid each time is trained with, e.g. PruningSchedule(rate_noise=0.86, rate_clean=0.61)"
        )
    if layout is None and schedule is not None:
        raise ValueError("a schedule was given but the model is dense; convert it first: convert_dense(model, layout)")
    if options.label_drop and not has_null(loaded.config):
        raise ValueError("label_drop needs a null class or caption, which this model does not have; use label_drop=0")
    objective_name(options.objective, loaded.prediction, loaded.config)
    check_source(loaded, source)
    check_description(loaded)  # else found out by the first save


def check_source(loaded: Loaded, source: Source) -> None:
    """``ValueError`` unless a model works on samples such as a source gives."""
    config, mine, theirs = loaded.config, loaded.latent, source.latent
    names = ("kind of space", "channels", "pixels per position", "rows and columns")
    found = (mine.kind, mine.channels, mine.factor, config.input_size)
    given = (theirs.kind, theirs.channels, theirs.factor, source.input_size)
    for name, has, wants in zip(names, found, given, strict=True):
        if has != wants:
            raise ValueError(f"the model and the data do not fit: {name} {has} of the model, {wants} of the data")
    if not math.isclose(mine.scale, theirs.scale, rel_tol=1e-3):
        raise ValueError(
            f"the data are scaled by {theirs.scale:g} and the model works on latents scaled by {mine.scale:g}; encode "
            "them with the autoencoder that the model was trained with"
        )
    if isinstance(config, PixArtConfig) != (source.caption_channels is not None):
        needs = "captions" if isinstance(config, PixArtConfig) else "class labels"
        raise ValueError(
            f"a {config.family} model is trained on samples with {needs}, which these data do not give; "
            "encode pictures with captions for a PixArt, or train the other family"
        )
    if isinstance(config, PixArtConfig) and source.caption_channels != config.caption_channels:
        raise ValueError(
            f"the data have text features of width {source.caption_channels}, the model takes "
            f"{config.caption_channels}; encode the captions with the encoder that the model was trained with"
        )
    if isinstance(config, DiTConfig) and source.num_classes > config.num_classes:
        raise ValueError(
            f"the data have {source.num_classes} classes, the model's label table has {config.num_classes}; give data "
            "of its classes, or train a model with as many"
        )


def deciding(
    loaded: Loaded, source: Source, options: TrainOptions, objective: str, slots: int, teacher: Backbone | None
) -> dict[str, Any]:
    """Everything that decides the weights a run ends with, as JSON values; see :func:`check_same`."""
    return {
        **options.decisive(),
        "objective": objective,
        "micro-batches of a step": slots,
        "data": source.fingerprint,
        "model": loaded.config.to_json(),
        "schedule": None if loaded.schedule is None else loaded.schedule.to_json(),
        "teacher": None if teacher is None else weights_hash(teacher),
    }


def check_same(now: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """``ValueError`` that names the first setting in which a resumed run differs from the one before."""
    for name in (*now, *before):
        if now.get(name) != before.get(name):
            old, new = (_differing(side.get(name), other.get(name)) for side, other in ((before, now), (now, before)))
            raise ValueError(
                f"the run cannot be resumed with other settings: {name} was {old} and is now {new}; give the old "
                "value, or begin a run with another output file"
            )


def weights_hash(model: Backbone) -> str:
    """A hash of a model's weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def _differing(value: Any, other: Any) -> Any:
    """Of two dictionaries only the entries in which the first differs."""
    if isinstance(value, dict) and isinstance(other, dict):
        return {key: item for key, item in value.items() if other.get(key) != item}
    return value
