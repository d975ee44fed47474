"""What the nodes know about a MODEL beyond ComfyUI's own facts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..sparsedit_core.checkpoint import Latent
from ..sparsedit_core.checkpoint.records import Description
from ..sparsedit_core.config import BackboneConfig
from ..sparsedit_core.diffusion.model_time import Prediction
from ..sparsedit_core.layout import SegmentLayout
from ..sparsedit_core.schedule import PruningSchedule
from .stock import is_stock, stock_description, stock_name


def family_name(family: str) -> str:
    """What people call a family."""
    return {"dit": "DiT", "pixart": "PixArt"}[family]


@dataclass(frozen=True)
class SparseDiTInfo:
    """A checkpoint's description; ``source`` names it to the user (a file name, or what was made of it)."""

    config: BackboneConfig
    family: str
    format: str
    schedule: PruningSchedule | None
    prediction: Prediction
    latent: Latent
    class_names: tuple[str, ...] | None
    words: tuple[str, ...] | None
    source: str

    @property
    def name(self) -> str:
        """What people call the family: "DiT" or "PixArt"."""
        return family_name(self.family)

    @property
    def layout(self) -> SegmentLayout | None:
        """The roles of the blocks; ``None`` for a dense model."""
        return self.config.layout

    @classmethod
    def of(cls, checkpoint: Description, source: str) -> SparseDiTInfo:
        """A checkpoint's description under a name."""
        return cls(
            config=checkpoint.config,
            family=checkpoint.family,
            format=checkpoint.format,
            schedule=checkpoint.schedule,
            prediction=checkpoint.prediction,
            latent=checkpoint.latent,
            class_names=checkpoint.class_names,
            words=checkpoint.words,
            source=source,
        )


def sparsedit_info(model: Any) -> SparseDiTInfo:
    """The description of a ComfyUI MODEL; ``ValueError`` if it was not loaded by this pack."""
    inner = getattr(model, "model", None)
    info = getattr(inner, "sparsedit", None)
    if not isinstance(info, SparseDiTInfo):
        found = type(inner if inner is not None else model).__name__
        raise ValueError(
            "the MODEL is the dense PixArt of ComfyUI's own loader; put SparseDiT Patch Model or SparseDiT Convert "
            "behind it, or load the file with SparseDiT Load Checkpoint"
            if is_stock(model)
            else f"the MODEL is a {found}, expected a DiT or PixArt: load it with SparseDiT Load Checkpoint"
        )
    return info


def model_name(model: Any) -> str:
    """What a MODEL of any loader is called: this pack's source, the file where ComfyUI says it, else its class."""
    info = getattr(model.model, "sparsedit", None)
    if isinstance(info, SparseDiTInfo):
        return info.source
    factory = getattr(model, "cached_patcher_init", None)
    first = factory[1][0] if factory and factory[1] else None
    return Path(first).name if isinstance(first, str) else type(model.model).__name__


def dense_info(model: Any, node: str) -> SparseDiTInfo:
    """What a dense model is, loaded by this pack or a PixArt of ComfyUI's own loader; ``ValueError`` for others."""
    if is_stock(model):
        return SparseDiTInfo.of(stock_description(model), stock_name(model))
    info = sparsedit_info(model)
    if info.layout is not None:
        raise ValueError(
            f"{node} needs a dense model, but {info.source} is a sparse {info.name} already (layout {info.layout}); "
            "connect the MODEL of a dense checkpoint"
        )
    return info
