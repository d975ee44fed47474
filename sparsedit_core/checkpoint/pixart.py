"""PixArt checkpoints: key tables, and the config that keys, shapes and positions tell (CHECKPOINTS 1.3, 1.6).

Our flat keys are the original's, with blocks that hold ``attn.q`` and ``attn.kv`` or ``attn.v`` where they are sparse.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..backbones import new_model
from ..config import PixArtConfig
from ..layout import SegmentLayout
from ..tokens import Grid, sincos_table
from .errors import CheckpointError, listed
from .facts import Facts
from .formats import Table
from .infer import check_anchors, configured, infer_shared

log = logging.getLogger("sparsedit")

POSITIONS = "pos_embed"
NULL = "y_embedder.y_embedding"
_MICRO = "csize_embedder.mlp.0.weight"
_RELEASED_POSITIONS = {True: ((64, 64), 2.0), False: ((32, 32), 1.0)}  # PixArt-alpha 1024 px; 512 px and every Sigma
_RELEASED_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)

_TEXT = "y_embedder.y_proj.fc1.weight"
_DIFFUSERS = {
    "x_embedder.proj": ("pos_embed.proj",),
    "t_embedder.mlp.0": ("adaln_single.emb.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("adaln_single.emb.timestep_embedder.linear_2",),
    "csize_embedder.mlp.0": ("adaln_single.emb.resolution_embedder.linear_1",),
    "csize_embedder.mlp.2": ("adaln_single.emb.resolution_embedder.linear_2",),
    "ar_embedder.mlp.0": ("adaln_single.emb.aspect_ratio_embedder.linear_1",),
    "ar_embedder.mlp.2": ("adaln_single.emb.aspect_ratio_embedder.linear_2",),
    "t_block.1": ("adaln_single.linear",),
    "y_embedder.y_proj.fc1": ("caption_projection.linear_1",),
    "y_embedder.y_proj.fc2": ("caption_projection.linear_2",),
    "final_layer.linear": ("proj_out",),
}
_DIFFUSERS_WHOLE = {
    "final_layer.scale_shift_table": "scale_shift_table",
    NULL: "caption_projection.y_embedding",
}
_DIFFUSERS_BLOCK = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "attn.q_norm": ("attn1.norm_q",),
    "attn.k_norm": ("attn1.norm_k",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
}


def refuse_compression(keys: Collection[str]) -> None:
    """Raise ``CheckpointError`` for PixArt-Sigma's models with key-value compression (``attn.sr``)."""
    compressed = sorted(key for key in keys if ".attn.sr." in key or ".attn1.sr." in key)
    if compressed:
        raise CheckpointError(
            f"this PixArt-Sigma was trained with key-value token compression ({listed(compressed[:2])}), which is not "
            "supported; use the checkpoint of the same size without it"
        )


def flat_name(name: str) -> tuple[str, ...]:
    """Where diffusers keeps what our flat state dict calls ``name``; several are joined along the rows."""
    if name in _DIFFUSERS_WHOLE:
        return (_DIFFUSERS_WHOLE[name],)
    if name.startswith("blocks."):
        _, number, rest = name.split(".", 2)
        if rest == "scale_shift_table":
            return (f"transformer_blocks.{number}.{rest}",)
        layer, _, kind = rest.rpartition(".")
        return tuple(f"transformer_blocks.{number}.{source}.{kind}" for source in _DIFFUSERS_BLOCK[layer])
    layer, _, kind = name.rpartition(".")
    return tuple(f"{source}.{kind}" for source in _DIFFUSERS[layer])


def pixart_table(config: PixArtConfig, diffusers: bool = False) -> Table:
    """Where every tensor of the flat state dict lies, in the original's or our own layout or in diffusers'."""
    keys = new_model(config, device="meta").state_dict()
    return {key: flat_name(key) if diffusers else (key,) for key in keys}


def diffusers_shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a diffusers state dict under our flat names, of the tensors that are not joined."""
    names = {f"{source}.{kind}": f"{name}.{kind}" for name, (source,) in _DIFFUSERS.items() for kind in _KINDS}
    names |= {source: name for name, source in _DIFFUSERS_WHOLE.items()}
    for name, sources in _DIFFUSERS_BLOCK.items():
        if len(sources) == 1:
            names |= {f"transformer_blocks.0.{sources[0]}.{kind}": f"blocks.0.{name}.{kind}" for kind in _KINDS}
    return {names[key]: tuple(v.shape) for key, v in state.items() if key in names and isinstance(v, Tensor)}


_KINDS = ("weight", "bias")


def infer_pixart(
    shapes: Mapping[str, tuple[int, ...]],
    positions: Tensor | None,
    depth: int,
    layout: SegmentLayout | None,
    facts: Facts,
) -> PixArtConfig:
    """The config of a model with these flat shapes; ``positions`` is the stored position table, if there is one.

    Raises ``CheckpointError`` when a fact is needed that nobody gave; the message names the keyword.
    """
    check_anchors(shapes, _TEXT)
    micro = _MICRO in shapes
    grid, scale = _positions(positions, facts, shapes["x_embedder.proj.weight"][0], micro)
    null = shapes.get(NULL, (0, 0))
    return configured(
        PixArtConfig,
        **infer_shared(shapes, depth, layout, facts, grid),
        caption_channels=shapes[_TEXT][1],
        caption_tokens=null[0] if len(null) == 2 else 0,
        micro_conditioning=micro,
        qk_norm=any(key.endswith(".attn.q_norm.weight") for key in shapes),
        position_scale=scale,
    )


def _positions(table: Tensor | None, facts: Facts, hidden: int, micro: bool) -> tuple[Grid, float]:
    """Base grid and scale of the positions: read off the stored table, given, or those of the released models."""
    if table is None:
        grid, scale = _RELEASED_POSITIONS[micro]
        if facts.base_size is None and facts.position_scale is None:
            log.info(
                "no position table in the file: using base_size=%d and position_scale=%g, those of every released "
                "PixArt %s; PixArt-alpha at 256 px has base_size=16",
                grid[0],
                scale,
                "with size conditioning" if micro else "without size conditioning but one",
            )
            return grid, scale
        if facts.base_size is None or facts.position_scale is None:
            raise CheckpointError(
                f"the file has no position table; give base_size= and position_scale= together (found "
                f"base_size={facts.base_size}, position_scale={facts.position_scale})"
            )
        return facts.base_size, facts.position_scale
    tokens, width = (table.shape[-2], table.shape[-1]) if table.ndim >= 2 else (0, 0)
    side = math.isqrt(tokens)
    grid = facts.base_size or (side, side)
    if width != hidden or tokens < 1 or grid[0] * grid[1] != tokens:
        raise CheckpointError(
            f"pos_embed has shape {tuple(table.shape)}, which is no table (1, tokens, {hidden}) of a "
            f"{grid[0]}x{grid[1]} token grid; give base_size= (side, or rows and columns, in tokens)"
        )
    scale = _read_scale(table.reshape(tokens, width), grid)
    if facts.position_scale is not None and abs(facts.position_scale - scale) > 1e-3 * scale:
        raise CheckpointError(
            f"position_scale={facts.position_scale:g} was given but the stored position table has {scale:g}; leave "
            "position_scale= out"
        )
    return grid, scale


def _read_scale(table: Tensor, grid: Grid) -> float:
    """The scale that makes the stored table (N, D); ``CheckpointError`` if none does."""
    if grid[1] < 2 and grid[0] < 2:
        return 1.0
    # the second column's angle at the second frequency: never above half a turn for scales of 0.25 and more
    quarter = table.shape[1] // 4
    token, half = (1, 0) if grid[1] > 1 else (1, 2 * quarter)
    k = min(1, quarter - 1)
    angle = math.atan2(float(table[token, half + k]), float(table[token, half + quarter + k]))
    found = 10000 ** (-k / quarter) / angle if angle > 0 else 0.0
    accuracy = 8 * torch.finfo(table.dtype).eps
    near = min(_RELEASED_SCALES, key=lambda scale: abs(scale - found))
    for scale in (near, found):
        if scale <= 0:
            continue
        made = sincos_table(table.shape[1], grid, base=grid, scale=scale)[0]
        if float((made - table.float()).abs().max()) < max(accuracy, 1e-4):
            return scale
    raise CheckpointError(
        "the stored pos_embed is no sin-cos table of PixArt (no position_scale makes it); this is a checkpoint of "
        "another kind, or it is damaged"
    )
