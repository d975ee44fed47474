"""A config from the shapes of a flat state dict and the facts that shapes do not hold."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from ..config import ConfigT, DiTConfig, Semantics, check_side
from ..layout import SegmentLayout
from .errors import CheckpointError, listed
from .facts import Facts
from .formats import LABEL_TABLE
from .shapes import Shape

log = logging.getLogger("sparsedit")

HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}  # DiT-XL, L, B, S
OFFICIAL_SIDE = 8  # semantic_size of training, of both published logs and of sample_ddp.py
_IMAGENET = 1000
_IMAGE_SIDE = 32  # latent side of a 256-pixel picture

ANCHORS: dict[str, int] = {"x_embedder.proj.weight": 4, "final_layer.linear.weight": 2, "blocks.0.mlp.fc1.weight": 2}
"""Tensors that sizes of every family are read off: number of dimensions by key."""


def check_anchors(shapes: Mapping[str, Shape], own: str) -> None:
    """Raise ``CheckpointError`` unless the tensors that sizes are read off exist with as many dimensions as needed.

    ``own`` is the matrix that the family adds to :data:`ANCHORS`.
    """
    wrong = [
        f"{key} is {shapes.get(key, 'absent')}, expected {rank} dimensions"
        for key, rank in (ANCHORS | {own: 2}).items()
        if len(shapes.get(key, ())) != rank
    ]
    if wrong:
        raise CheckpointError(f"the model's sizes cannot be read off the file: {listed(wrong)}")
    hidden, channels, patch, _ = shapes["x_embedder.proj.weight"]
    if min(hidden, channels, patch) < 1:
        raise CheckpointError(f"x_embedder.proj.weight has the empty shape {shapes['x_embedder.proj.weight']}")


def infer_shared(
    shapes: Mapping[str, Shape], depth: int, layout: SegmentLayout | None, facts: Facts, grid: tuple[int, int]
) -> dict[str, Any]:
    """What a config of any family takes, from flat shapes and the token ``grid`` of its positions."""
    hidden, channels, patch, _ = shapes["x_embedder.proj.weight"]
    return {
        "input_size": (grid[0] * patch, grid[1] * patch),
        "patch_size": patch,
        "in_channels": channels,
        "hidden_size": hidden,
        "depth": depth,
        "num_heads": infer_heads(hidden, facts),
        "mlp_ratio": _ratio(shapes["blocks.0.mlp.fc1.weight"][0], hidden),
        "learn_sigma": shapes["final_layer.linear.weight"][0] != patch * patch * channels,
        "layout": layout,
        "sparse_side": _side(grid, facts.sparse_side, layout),
    }


def configured(config: type[ConfigT], **values: Any) -> ConfigT:
    """The config of these values; what it refuses is a ``CheckpointError``."""
    try:
        return config(**values)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def infer_config(
    shapes: Mapping[str, Shape],
    depth: int,
    layout: SegmentLayout | None,
    facts: Facts,
    semantics: Semantics,
) -> DiTConfig:
    """The config of a DiT with these flat shapes; requires :func:`check_anchors`.

    Raises ``CheckpointError`` when a fact is needed that nobody gave; the message names the keyword.
    """
    if facts.depth is not None and facts.depth != depth:
        raise CheckpointError(f"the training args say depth {facts.depth} but the file has {depth} blocks")
    classes, null = _classes(shapes[LABEL_TABLE][0], facts.num_classes)
    grid = _grid(shapes.get("pos_embed"), facts.base_size, shapes["x_embedder.proj.weight"][2])
    shared = infer_shared(shapes, depth, layout, facts, grid)
    return configured(DiTConfig, **shared, num_classes=classes, null_class=null, semantics=semantics)


def infer_heads(hidden: int, facts: Facts) -> int:
    """Attention heads: given, those of the released models of this width, or named by the file."""
    heads = facts.num_heads or HEADS.get(hidden) or facts.named_heads
    if heads is None:
        raise CheckpointError(
            f"the file does not say how many attention heads a model of width {hidden} has; give num_heads= (known: "
            f"{', '.join(f'{width} has {count}' for width, count in HEADS.items())})"
        )
    if hidden % heads:
        raise CheckpointError(f"num_heads={heads} does not divide the model's width {hidden}; give another num_heads=")
    return heads


def _classes(rows: int, wanted: int | None) -> tuple[int, bool]:
    """Number of classes and whether the last row is the null class (CHECKPOINTS 1.1)."""
    if wanted is not None:
        if rows not in (wanted, wanted + 1):
            raise CheckpointError(
                f"num_classes is {wanted} but the label table has {rows} rows; expected {wanted}, or {wanted + 1} with "
                "the null class; correct num_classes="
            )
        return wanted, rows == wanted + 1
    if rows < 1:
        raise CheckpointError("the label table has no row")
    return (rows, False) if rows in (1, _IMAGENET) else (rows - 1, True)


def _grid(table: Shape | None, given: tuple[int, int] | None, patch: int) -> tuple[int, int]:
    """Token grid of the position table: stored (its size decides), given, or that of a 256-pixel picture."""
    if table is None:
        if given is None:
            side = max(_IMAGE_SIDE // patch, 1)
            log.info(
                "no position table in the file: using a %dx%d token grid (256 px); base_size= changes it", side, side
            )
            return side, side
        return given
    tokens = table[1] if len(table) == 3 else 0
    side = math.isqrt(tokens)
    grid = given or (side, side)
    if tokens < 1 or grid[0] * grid[1] != tokens:
        raise CheckpointError(
            f"pos_embed has shape {tuple(table)}, which is no table (1, tokens, width) of a {grid[0]}x{grid[1]} token "
            "grid; give base_size= (side, or rows and columns, in tokens)"
        )
    return grid


def _side(grid: tuple[int, int], wanted: int | None, layout: SegmentLayout | None) -> int:
    """Side of the sparse grid of a model with this dense ``grid``: given, or the official one."""
    if layout is None:
        return OFFICIAL_SIDE
    if wanted is None:
        log.info(
            "the file does not store the sparse side: using the official %d; sparse_side= changes it", OFFICIAL_SIDE
        )
    try:
        return check_side(wanted or OFFICIAL_SIDE, grid)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _ratio(mlp: int, hidden: int) -> float:
    """mlp / hidden, such that int(hidden * ratio) is mlp in spite of rounding."""
    ratio = mlp / hidden
    return ratio if int(hidden * ratio) == mlp else math.nextafter(ratio, math.inf)
