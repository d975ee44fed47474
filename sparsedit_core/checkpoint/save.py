"""Writing our own layout: safetensors with flat keys and a JSON description, atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..atomic import replacing
from ..backbone import Backbone
from ..backbones import is_table
from ..diffusion.model_time import Prediction
from ..schedule import PruningSchedule
from .errors import CheckpointError
from .metadata import to_metadata
from .records import Checkpoint, Description, Latent, Loaded, default_latent
from .shapes import fit_problems, own_table, raise_problems
from .unwrap import OWN_PREFIX


def save_checkpoint(
    path: str | os.PathLike[str],
    source: Loaded | Checkpoint | nn.Module,
    *,
    schedule: PruningSchedule | None = None,
    prediction: Prediction | None = None,
    latent: Latent | None = None,
    class_names: tuple[str, ...] | None = None,
    words: tuple[str, ...] | None = None,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model (plain or compiled), a Loaded or a Checkpoint to a ``.safetensors`` file.

    Keywords replace what the source says about itself; ``metadata`` takes any JSON values and is added to the source's.
    ``dtype`` casts floating tensors except tables that belong to no layer (``None``: written as they are). The file
    appears under its name only when it is complete; on failure what was there before is untouched. Raises
    ``CheckpointError``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"cannot save to {path}: the name must end in .safetensors, the format that is written")
    if path.is_dir() or not path.parent.is_dir():
        raise CheckpointError(
            f"cannot save to {path}: {'it is a folder' if path.is_dir() else 'its folder does not exist'}"
        )
    description, state = _parts(source)
    description.schedule = schedule if schedule is not None else description.schedule
    description.prediction = prediction or description.prediction
    description.latent = latent or description.latent
    description.class_names = tuple(class_names) if class_names is not None else description.class_names
    description.words = tuple(words) if words is not None else description.words
    description.metadata = {**description.metadata, **(metadata or {})}
    table = own_table(description.config)
    raise_problems(fit_problems(state, table, description.config), "sparsedit_core")
    header = to_metadata(description)
    prefix = OWN_PREFIX if description.family == "pixart" and description.layout is not None else ""
    tensors = _storable({key: state[key] for key in table}, dtype)
    _write(path, {prefix + key: tensor for key, tensor in tensors.items()}, header)


def _parts(source: Loaded | Checkpoint | nn.Module) -> tuple[Description, dict[str, Tensor]]:
    """A description that may be changed and the flat tensors."""
    if isinstance(source, Checkpoint):
        return _describe(source), source.state
    model: nn.Module = source.model if isinstance(source, Loaded) else source
    model = getattr(model, "_orig_mod", model)  # torch.compile wraps the module
    if not isinstance(model, Backbone):
        raise CheckpointError(f"cannot save a {type(model).__name__}; expected a DiT, PixArt, Loaded or Checkpoint")
    if isinstance(source, Loaded):
        description = _describe(source)
        description.config = model.config
    else:
        description = Description(config=model.config, latent=default_latent(model.config))
    return description, {key.replace("_orig_mod.", ""): value for key, value in model.state_dict().items()}


def _describe(source: Description) -> Description:
    return Description(**{item.name: getattr(source, item.name) for item in fields(Description)})


def _storable(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors on the CPU that each own exactly their memory, as safetensors wants them."""
    result: dict[str, Tensor] = {}
    taken: set[int] = set()
    for key, value in state.items():
        wanted = value.dtype if dtype is None or is_table(key) else dtype
        tensor = value.detach().to("cpu", wanted).contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in taken:
            tensor = tensor.clone()  # a part of something larger, or tied to another entry
        taken.add(tensor.untyped_storage().data_ptr())
        result[key] = tensor
    return result


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=header)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot save to {path}: {error}") from error
