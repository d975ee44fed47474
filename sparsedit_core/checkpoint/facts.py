"""What keys and shapes do not say: given by the caller, the training args or a config.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..config import Family
from .errors import CheckpointError

_MODEL_NAME = re.compile(r".*DiT-(XL|L|B|S)/\d+")
_NAMED_HEADS = {"XL": 16, "L": 16, "B": 12, "S": 6}
_DIFFUSERS_CLASSES = {
    "dit": ("DiTTransformer2DModel", "Transformer2DModel"),
    "pixart": ("PixArtTransformer2DModel", "Transformer2DModel"),
}
_NO_RELATIVE_POSITIONS = (None, False, "", "none", "None")


@dataclass(frozen=True)
class Facts:
    """``None`` means not known. ``base_size`` is the (rows, columns) of tokens that the position table belongs to.

    ``named_heads`` is the head count of the architecture that ``args.model`` names; it is asked last.
    """

    num_heads: int | None = None
    sparse_side: int | None = None
    num_classes: int | None = None
    depth: int | None = None
    base_size: tuple[int, int] | None = None
    named_heads: int | None = None
    position_scale: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            for number in value if isinstance(value, tuple) else (value,):
                if number is None:
                    continue
                if item.name == "position_scale":
                    if not number > 0:
                        raise CheckpointError(f"position_scale is {number}; it must be above 0, such as 0.5, 1 or 2")
                elif number < 1:
                    raise CheckpointError(f"{item.name} is {number}; it must be 1 or more")

    def over(self, other: Facts) -> Facts:
        """These facts, the unknown ones filled from ``other``."""
        known = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(other, **{name: value for name, value in known.items() if value is not None})


def facts_from_args(args: Mapping[str, Any]) -> Facts:
    """The ``args`` that DiT's and SparseDiT's train.py save; relative positions other than none are refused."""
    relative = args.get("attn_relat_pos")
    if relative not in _NO_RELATIVE_POSITIONS:
        raise CheckpointError(
            f"this SparseDiT was trained with attn_relat_pos={relative!r}; only the published setting without relative "
            "positions is supported"
        )
    name = args.get("model")
    match = _MODEL_NAME.fullmatch(name) if isinstance(name, str) else None
    return Facts(
        num_heads=_count(args.get("num_heads")),
        sparse_side=_count(args.get("semantic_size")),
        num_classes=_count(args.get("num_classes")),
        depth=_count(args.get("depth")),
        named_heads=_NAMED_HEADS[match[1]] if match else None,
    )


def facts_from_config(path: Path, hidden_size: int, family: Family) -> Facts:
    """A diffusers ``config.json`` in the folder of ``path``, if there is one that belongs to the family."""
    file = path.parent / "config.json"
    if not file.is_file():
        return Facts()
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} beside the checkpoint cannot be read ({error}); repair or remove it") from error
    if not isinstance(data, dict) or data.get("_class_name") not in _DIFFUSERS_CLASSES[family]:
        return Facts()
    heads, width = _count(data.get("num_attention_heads")), _count(data.get("attention_head_dim"))
    if heads and width and heads * width != hidden_size:
        raise CheckpointError(
            f"{file} describes a model of width {heads} x {width} but the checkpoint beside it has width "
            f"{hidden_size}; move one of them to another folder"
        )
    side, patch = _count(data.get("sample_size")), _count(data.get("patch_size"))
    grid = (side // patch, side // patch) if side and patch else None
    if family == "pixart":
        return Facts(num_heads=heads, base_size=grid, position_scale=_scale(data, side))
    return Facts(num_heads=heads, num_classes=_count(data.get("num_embeds_ada_norm")), base_size=grid)


def _scale(data: Mapping[str, Any], side: int | None) -> float | None:
    """The interpolation of the positions; where a config leaves it out, diffusers takes that of the sample size."""
    scale = data.get("interpolation_scale")
    if isinstance(scale, (int, float)) and not isinstance(scale, bool) and scale > 0:
        return float(scale)
    return None if side is None else float(max(side // 64, 1))


def _count(value: Any) -> int | None:
    """A positive int, else nothing: args hold strings, None and switches too."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
