"""The shape of every flat tensor of a model, and the one error that lists what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..backbones import new_model
from ..config import BackboneConfig, DiTConfig
from ..layout import Role
from .errors import CheckpointError, listed
from .formats import (
    DIFFUSERS_POSITIONS,
    EMBEDDERS,
    FINAL,
    LABEL_TABLE,
    Table,
    block_layers,
    dense_roles,
    flat_table,
    is_diffusers_copy,
)

Shape = tuple[int, ...]


def roles_of(config: BackboneConfig) -> tuple[Role, ...]:
    """The role of every block; all dense without a layout."""
    return config.layout.roles if config.layout else dense_roles(config.depth)


def flat_shapes(config: BackboneConfig) -> dict[str, Shape]:
    """Key to shape of our flat state dict (D hidden, M MLP, p patch, C channels in, O out; CHECKPOINTS 1.1)."""
    if not isinstance(config, DiTConfig):
        return {key: tuple(value.shape) for key, value in new_model(config, device="meta").state_dict().items()}
    d, m, p = config.hidden_size, config.mlp_hidden, config.patch_size
    outs = {"attn.qkv": 3 * d, "attn.kv": 2 * d, "adaLN_modulation.1": 6 * d, "mlp.fc1": m}
    weights: dict[str, Shape] = dict(zip(EMBEDDERS, [(d, config.in_channels, p, p), (d, 256), (d, d)], strict=True))
    for i, role in enumerate(roles_of(config)):
        for name in block_layers(role):
            weights[f"blocks.{i}.{name}"] = (outs.get(name, d), m if name == "mlp.fc2" else d)
    weights |= dict(zip(FINAL, [(p * p * config.out_channels, d), (2 * d, d)], strict=True))
    shapes: dict[str, Shape] = {
        "pos_embed": (1, config.grid[0] * config.grid[1], d),
        LABEL_TABLE: (config.num_classes + config.null_class, d),
    }
    for layer, shape in weights.items():
        shapes[f"{layer}.weight"], shapes[f"{layer}.bias"] = shape, shape[:1]
    return shapes


def own_table(config: BackboneConfig) -> Table:
    """Our own layout, which is the original's for dense models."""
    if isinstance(config, DiTConfig):
        return flat_table(roles_of(config))
    return {key: (key,) for key in flat_shapes(config)}


def fit_problems(state: Mapping[str, Any], table: Table, config: BackboneConfig | None) -> list[str]:
    """Phrases on missing, unexpected and misshapen entries, in the file's own key names.

    Without a config (it could not be inferred) shapes are not compared. Every phrase lists ten keys and a count.
    """
    optional = {DIFFUSERS_POSITIONS}
    shapes = flat_shapes(config) if config else {}
    known: dict[str, Shape | None] = {}
    for key, sources in table.items():
        shape = shapes.get(key)
        for name in sources:  # joined entries share the rows equally
            known[name] = (shape[0] // len(sources), *shape[1:]) if shape and len(sources) > 1 else shape
    missing = [name for name in known if name not in state and name not in optional]
    unexpected = [name for name in state if name not in known and not is_diffusers_copy(name)]
    wrong = [
        f"{name} is {_shape(state[name])}, expected {shape or 'a tensor'}"
        for name, shape in known.items()
        if name in state and not _fits(state[name], shape)
    ]
    groups = {"missing": missing, "unexpected": unexpected, "misshapen": wrong}
    return [f"{len(names)} {what}: {listed(names)}" for what, names in groups.items() if names]


def raise_problems(problems: list[str], format_name: str) -> None:
    """Raise ``CheckpointError`` if there is any."""
    if problems:
        raise CheckpointError(f"the tensors do not make a model of layout {format_name!r}: {'; '.join(problems)}")


def _fits(value: Any, shape: Shape | None) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.device.type == "meta":
        return False
    if value.layout is not torch.strided:
        return False
    return shape is None or tuple(value.shape) == shape


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    note = "" if value.is_floating_point() else f" of {value.dtype}"
    note += "" if value.layout is torch.strided else f" in the layout {value.layout}"
    return f"{tuple(value.shape)}{note}" + (" without data" if value.device.type == "meta" else "")
