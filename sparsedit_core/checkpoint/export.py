"""Writing the layouts of other projects, for programs that read only those."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file
from torch import Tensor

from ..atomic import replacing
from ..config import PixArtConfig
from ..tokens import sincos_table
from .errors import CheckpointError
from .formats import flat_to_diffusers, flat_to_sparsedit, from_flat
from .pixart import POSITIONS, pixart_table
from .records import Loaded

ExportFormat = Literal["official", "diffusers"]


def _pixart_state(state: dict[str, Tensor], config: PixArtConfig, layout: ExportFormat) -> dict[str, Tensor]:
    """Keys of the original PixArt, with its position table, or of diffusers'; sparse ones have neither."""
    if config.layout is not None:
        raise CheckpointError(
            f"a sparse PixArt (layout {config.layout}) has no {layout} layout: nobody else published one; save it in "
            "our own layout"
        )
    if layout == "diffusers":
        return from_flat(state, pixart_table(config, diffusers=True))
    table = sincos_table(config.hidden_size, config.grid, base=config.grid, scale=config.position_scale)
    return state | {POSITIONS: table}


def export_checkpoint(path: str | os.PathLike[str], loaded: Loaded, layout: ExportFormat) -> None:
    """Write a ``.safetensors`` file with the keys of the original projects or of diffusers' ``DiTTransformer2DModel``.

    A PixArt takes the layouts of the original PixArt or of ``PixArtTransformer2DModel``. Such a file holds weights
    alone: heads, sparse side and schedule must be given to whoever reads it.
    ``CheckpointError`` for what the layout cannot say: flow models, re-added positions, a SparseDiT in diffusers.
    """
    config = loaded.config
    if loaded.prediction != "eps" or config.reinject_positions or (layout == "diffusers" and config.layout):
        raise CheckpointError(
            f"the {layout} layout has no place for this model (prediction {loaded.prediction}, blocks "
            f"{config.layout or 'dense'}, positions re-added: {config.reinject_positions}); save it in our own layout"
        )
    state = loaded.model.state_dict()
    if isinstance(config, PixArtConfig):
        state = _pixart_state(state, config, layout)
    elif layout == "diffusers":
        state = flat_to_diffusers(state)
    elif config.layout is not None:
        state = flat_to_sparsedit(state, config.layout)
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in state.items()}
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
