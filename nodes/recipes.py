"""How a MODEL's weights came about, so that they can be made again: ComfyUI rebuilds models in some situations
(compiling under dynamic VRAM, several GPUs), and converting must start from weights no LoRA has touched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..sparsedit_core.checkpoint import Checkpoint, read_checkpoint
from ..sparsedit_core.convert import Fusion, convert_config, convert_state
from ..sparsedit_core.layout import SegmentLayout


class Recipe(Protocol):
    """Makes a checkpoint record; ``source`` names it to the user."""

    @property
    def source(self) -> str: ...

    def read(self) -> Checkpoint: ...


@dataclass(frozen=True)
class FileRecipe:
    """A checkpoint file; ``None`` for what the file itself says."""

    path: str
    num_heads: int | None = None
    sparse_side: int | None = None
    position_scale: float | None = None
    base_size: int | None = None

    @property
    def source(self) -> str:
        return Path(self.path).name

    def read(self) -> Checkpoint:
        return read_checkpoint(
            self.path,
            num_heads=self.num_heads,
            sparse_side=self.sparse_side,
            position_scale=self.position_scale,
            base_size=self.base_size,
        )


@dataclass(frozen=True)
class ConvertRecipe:
    """The initial state of a SparseDiT, from the recipe of a dense model."""

    dense: Recipe
    layout: SegmentLayout
    sparse_side: int
    fusion: Fusion

    @property
    def source(self) -> str:
        return f"{self.dense.source} as {self.layout}"

    def read(self) -> Checkpoint:
        return self.convert(self.dense.read())

    def convert(self, dense: Checkpoint) -> Checkpoint:
        """The same from the dense record, where that is at hand."""
        config = convert_config(dense.config, self.layout, sparse_side=self.sparse_side)
        state = convert_state(dense.state, self.layout, fusion=self.fusion)
        return replace(dense, config=config, state=state, format="sparsedit_core")
