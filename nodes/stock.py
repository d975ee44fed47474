"""The dense PixArt of ComfyUI's own loaders: described, and its weights read as a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.supported_models
import torch
from comfy.ldm.pixart.pixartms import PixArtMS
from torch import Tensor

from ..sparsedit_core.backbones import is_table
from ..sparsedit_core.checkpoint import Checkpoint, Latent, default_latent
from ..sparsedit_core.checkpoint.facts import Facts
from ..sparsedit_core.checkpoint.pixart import NULL, infer_pixart
from ..sparsedit_core.checkpoint.records import Description
from ..sparsedit_core.checkpoint.shapes import fit_problems, own_table, raise_problems
from ..sparsedit_core.config import ALPHA_TOKENS, PixArtConfig

_PREFIX = "diffusion_model."
_BASE = 64  # core rounds the latent's side to a multiple of this for its positions


def is_stock(model: Any) -> bool:
    """True for a MODEL whose network is core's own PixArt."""
    inner = getattr(model, "model", None)
    return isinstance(inner, comfy.model_base.PixArt) and isinstance(inner.diffusion_model, PixArtMS)


def stock_name(model: Any) -> str:
    """The file that core loaded, where it says (ComfyUI 0.33), else what it is."""
    factory = getattr(model, "cached_patcher_init", None)
    path = factory[1][0] if factory is not None and factory[1] else None
    return Path(path).name if isinstance(path, str) else "the PixArt of ComfyUI's loader"


def stock_description(model: Any) -> Description:
    """What core's PixArt is; ``ValueError`` for what core can be told to build but our PixArt is not."""
    network = model.model.diffusion_model
    shapes = {key: tuple(weight.shape) for key, weight in network.state_dict().items()}
    if not _has_null_caption(model):
        shapes.pop(NULL)
    grid, scale = _positions(model)
    facts = Facts(num_heads=network.num_heads, base_size=(grid, grid), position_scale=scale)
    config = infer_pixart(shapes, None, len(network.blocks), None, facts)
    return Description(config=config, format="pixart", latent=_latent(model, config))


def stock_checkpoint(model: Any) -> Checkpoint:
    """:func:`stock_description` with copies of the weights as they were before any LoRA.

    ``ValueError`` for quantised weights, which cannot be cut into parts.
    """
    description, state = stock_description(model), {}
    for key, (original, *_patches) in model.get_key_patches(_PREFIX).items():
        weight = _copy(original[0], stock_name(model))
        state[key.removeprefix(_PREFIX)] = weight.float() if is_table(key) else weight
    if not _has_null_caption(model):
        state.pop(NULL)
    raise_problems(fit_problems(state, own_table(description.config), description.config), description.format)
    return Checkpoint(state=state, **{item.name: getattr(description, item.name) for item in fields(Description)})


def _has_null_caption(model: Any) -> bool:
    """Core draws one by chance where the file has none."""
    return "model_max_length" in model.model.model_config.unet_config


def _copy(weight: Tensor, name: str) -> Tensor:
    if type(weight) not in (Tensor, torch.nn.Parameter) or not weight.is_floating_point():
        raise ValueError(
            f"the weights of {name} are quantised ({type(weight).__name__} of {weight.dtype}), which cannot be cut "
            "into the parts of a SparseDiT; load the unquantised file"
        )
    return weight.detach().to("cpu", copy=True)


def _latent(model: Any, config: PixArtConfig) -> Latent:
    """Core's latents, unless core calls the model Sigma, as its loader does with all that have no size conditioning.

    A latent format that a node put on the MODEL is no fact of the model and carried over as it is.
    """
    inner = model.model
    if isinstance(inner.model_config, comfy.supported_models.PixArtSigma):
        return default_latent(config)
    return Latent(config.in_channels, inner.latent_format.scale_factor)


def _positions(model: Any) -> tuple[int, float]:
    """Base grid and scale that give core's positions at the size the model was trained at.

    Core takes the base from the picture's size, and the scale too where the file stores no positions: base / scale is
    then 32 at every size. Stored positions fix the scale (``pe_interpolation``). Core's positions then change with the
    size of the picture, while those of the original and ours do not: both are the same at the stored size alone.
    For stored positions of 256 pixels core divides by zero; there PixArt-alpha counts from 16, Sigma from 32.
    """
    network, settings = model.model.diffusion_model, model.model.model_config.unet_config
    scale = network.pe_interpolation
    if not scale or network.pe_precision is not None:
        if network.micro_conditioning:
            return 64, 2.0
        alpha = len(network.y_embedder.y_embedding) == ALPHA_TOKENS
        return (16, 1.0) if scale == 0 and alpha else (32, 1.0)
    side = settings.get("input_size", _BASE * scale)
    return max(1, round(side / _BASE)) * _BASE // network.patch_size, float(scale)


@dataclass(frozen=True)
class StockRecipe:
    """The weights that core's loader loads; without a ``factory`` (ComfyUI 0.3.64) those of ``patcher``, kept alive."""

    source: str
    factory: Any
    patcher: Any

    @classmethod
    def of(cls, model: Any) -> StockRecipe:
        """How to read a MODEL again."""
        factory = getattr(model, "cached_patcher_init", None)
        return cls(stock_name(model), factory, model if factory is None else None)

    def read(self) -> Checkpoint:
        if self.factory is None:
            return stock_checkpoint(self.patcher)
        build, arguments, *place = self.factory
        made = build(*arguments, disable_dynamic=True)
        return stock_checkpoint(made[place[0]] if place else made)
