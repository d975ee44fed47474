"""What the nodes know about a MODEL beyond ComfyUI's own facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..sparsedit_core.checkpoint import Checkpoint, Latent
from ..sparsedit_core.config import BackboneConfig
from ..sparsedit_core.diffusion.model_time import Prediction
from ..sparsedit_core.layout import SegmentLayout
from ..sparsedit_core.schedule import PruningSchedule


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
    source: str

    @property
    def layout(self) -> SegmentLayout | None:
        """The roles of the blocks; ``None`` for a dense model."""
        return self.config.layout

    @classmethod
    def of(cls, checkpoint: Checkpoint, source: str) -> SparseDiTInfo:
        """The description of a checkpoint record."""
        return cls(
            config=checkpoint.config,
            family=checkpoint.family,
            format=checkpoint.format,
            schedule=checkpoint.schedule,
            prediction=checkpoint.prediction,
            latent=checkpoint.latent,
            class_names=checkpoint.class_names,
            source=source,
        )


def sparsedit_info(model: Any) -> SparseDiTInfo:
    """The description of a ComfyUI MODEL; ``ValueError`` if it was not loaded by this pack."""
    inner = getattr(model, "model", None)
    info = getattr(inner, "sparsedit", None)
    if not isinstance(info, SparseDiTInfo):
        found = type(inner if inner is not None else model).__name__
        raise ValueError(
            f"the MODEL is a {found}, expected a DiT or SparseDiT: load it with SparseDiT Load Checkpoint"
        )
    return info


def dense_info(model: Any, node: str) -> SparseDiTInfo:
    """:func:`sparsedit_info` of a dense model; ``ValueError`` for a SparseDiT."""
    info = sparsedit_info(model)
    if info.layout is not None:
        raise ValueError(
            f"{node} needs a dense DiT, but {info.source} is a SparseDiT already (layout {info.layout}); connect the "
            "MODEL of a dense checkpoint"
        )
    return info
