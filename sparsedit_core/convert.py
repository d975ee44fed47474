"""From a dense DiT to the initial state of a SparseDiT (PAPERS 1.6)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from .backbone import Backbone
from .backbones import new_model
from .config import BackboneConfig, ConfigT
from .layout import Role, SegmentLayout

Fusion = Literal["official", "identity"]
_QKV = re.compile(r"(.*blocks\.(\d+)\.attn)\.qkv\.(weight|bias)")
_QK_NORM = re.compile(r".*blocks\.(\d+)\.attn\.[qk]_norm\.(weight|bias)")


DEFAULT_LAYOUTS = {
    ("dit", 28): "2+4x[1,3,1,1]+2",  # the released trainer's, DiT-XL
    ("dit", 12): "1+2x[1,2,1,1]+1",  # fits the printed cost of DiT-B
    ("pixart", 28): "2+4x[2,2,1,1]+2",  # closest to the printed cost of PixArt-alpha that has Poolingformers
}
"""The paper's layouts by family and depth (PAPERS 1.1)."""


def usual_layout(config: BackboneConfig) -> SegmentLayout | None:
    """The paper's layout for this backbone, ``None`` where it has none."""
    text = DEFAULT_LAYOUTS.get((config.family, config.depth))
    return None if text is None else SegmentLayout.parse(text)


def default_layout(config: BackboneConfig) -> SegmentLayout:
    """:func:`usual_layout`; ``ValueError`` where there is none."""
    found = usual_layout(config)
    if found is None:
        known = ", ".join(f"{family} of {depth} blocks" for family, depth in DEFAULT_LAYOUTS)
        raise ValueError(
            f"the paper has no layout for a {config.family} of {config.depth} blocks (it has for {known}); give one, "
            'such as "1+1x[1,3,1,1]+1" for 8 blocks'
        )
    return found


def convert_config(
    config: ConfigT, layout: SegmentLayout, *, sparse_side: int = 8, reinject_positions: bool = False
) -> ConfigT:
    """The dense model's config with a layout; ``ValueError`` if it has one already or the depths differ."""
    if config.layout is not None:
        raise ValueError(f"the model is a SparseDiT already (layout {config.layout}); give a dense model to convert")
    return replace(config, layout=layout, sparse_side=sparse_side, reinject_positions=reinject_positions)


def qkv_rows(role: Role, dim: int) -> dict[str, tuple[int, int]]:
    """Rows (start, end) of a fused q | k | v of 3 * ``dim`` rows that each projection of this role takes over."""
    if role == "pooled":
        return {"v": (2 * dim, 3 * dim)}
    if role in ("generation", "recovery"):
        return {"q": (0, dim), "kv": (dim, 3 * dim)}
    return {"qkv": (0, 3 * dim)}


def split_qkv(role: Role, qkv: Tensor) -> dict[str, Tensor]:
    """The projections that a block of this role keeps of a fused q | k | v (weight or bias)."""
    return {name: qkv[start:end] for name, (start, end) in qkv_rows(role, qkv.shape[0] // 3).items()}


def convert_state(
    state: Mapping[str, Tensor], layout: SegmentLayout, *, fusion: Fusion = "official"
) -> dict[str, Tensor]:
    """Dense state dict (our flat keys) to the SparseDiT one: slices of qkv plus the fusion layers.

    ``fusion="official"``: W1 = 0, W2 = I, so that only the attention of a recovery block reads the sparse tokens.
    ``"identity"``: W1 = I, W2 = 0, which on the full grid is the dense model exactly, if the layout has no
    Poolingformer and one generation block a module (a second one reads the same dense map as the first).
    """
    roles = layout.roles
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        norm = _QK_NORM.fullmatch(key)
        if norm is not None and roles[int(norm[1])] == "pooled":
            continue  # pooled attention has no queries and keys
        match = _QKV.fullmatch(key)
        if match is None:
            result[key] = value
            continue
        for name, part in split_qkv(roles[int(match[2])], value).items():
            result[f"{match[1]}.{name}.{match[3]}"] = part.contiguous()
    for i, role in enumerate(roles):
        if role == "recovery":
            like = state[f"blocks.{i}.attn.proj.weight"]
            for name, one in (("merged_layer1", fusion == "identity"), ("merged_layer2", fusion == "official")):
                # scaled before the cast: float8 has no multiplication
                result[f"blocks.{i}.{name}.weight"] = (torch.eye(like.shape[0]) * one).to(like)
                result[f"blocks.{i}.{name}.bias"] = torch.zeros_like(like[0])
    return result


def convert_dense(
    model: Backbone,
    layout: SegmentLayout | str,
    *,
    sparse_side: int = 8,
    fusion: Fusion = "official",
    reinject_positions: bool = False,
) -> Backbone:
    """A SparseDiT in its initial state, from a dense model of the same depth; the dense model is left alone.

    Every tensor is copied: the two share no memory. ``reinject_positions`` builds the paper's text instead of its
    released code (PAPERS 1.5).
    """
    layout = SegmentLayout.parse(layout) if isinstance(layout, str) else layout
    config = convert_config(model.config, layout, sparse_side=sparse_side, reinject_positions=reinject_positions)
    state = convert_state(model.state_dict(), layout, fusion=fusion)
    with torch.device("meta"):
        sparse = new_model(config)
    sparse.load_state_dict({key: value.clone() for key, value in state.items()}, assign=True)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and name in state:
            sparse.get_parameter(name).requires_grad_(False)
    return sparse.train(model.training)
