"""From a recipe to a ComfyUI MODEL."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import torch

from ..sparsedit_core.checkpoint import Checkpoint
from .comfy_dit import DiTBaseModel
from .comfy_model import ModelConfig
from .comfy_pixart import PixArtBaseModel
from .info import SparseDiTInfo, dense_info, sparsedit_info
from .lora import split_qkv_patches
from .recipes import Recipe
from .schedule_patch import attach_schedule
from .stock import StockRecipe, is_stock, stock_checkpoint

__all__ = [
    "WEIGHT_DTYPES",
    "SparseDiTInfo",
    "build_from",
    "build_patcher",
    "dense_info",
    "model_dtype",
    "recipe_of",
    "sparsedit_info",
]

log = logging.getLogger("sparsedit")

BASE_MODELS: dict[str, type] = {"dit": DiTBaseModel, "pixart": PixArtBaseModel}
"""ComfyUI's model of every family."""

WEIGHT_DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}


def build_patcher(recipe: Recipe, dtype: torch.dtype | None = None, disable_dynamic: bool = False) -> Any:
    """A ComfyUI model patcher; ``dtype`` ``None`` lets ComfyUI choose. Also the factory ComfyUI calls to rebuild it."""
    return build_from(recipe.read(), recipe, dtype, disable_dynamic)


def build_from(
    checkpoint: Checkpoint, recipe: Recipe, dtype: torch.dtype | None = None, disable_dynamic: bool = False
) -> Any:
    """:func:`build_patcher` with the record that ``recipe`` gave."""
    info = SparseDiTInfo.of(checkpoint, recipe.source)
    load_device, offload_device = mm.get_torch_device(), mm.unet_offload_device()
    config = ModelConfig(info)
    weights = dtype or _default_dtype(checkpoint, config)
    config.set_inference_dtype(weights, mm.unet_manual_cast(weights, load_device, config.supported_inference_dtypes))
    model = BASE_MODELS[info.family](config, info)
    model.sparsedit_origin = (recipe, dtype)  # not only in cached_patcher_init: 0.3.64 does not copy that to clones
    patcher = _patcher_class(disable_dynamic)(model, load_device=load_device, offload_device=offload_device)
    if not mm.is_device_cpu(offload_device):
        model.to(offload_device)
    _load_weights(model, checkpoint, patcher)
    patcher.size = mm.module_size(model.diffusion_model)  # of the model's own list, the stand-ins would count too
    split_qkv_patches(patcher)
    attach_schedule(patcher, info.schedule)  # what the file was trained with, until the user applies another
    patcher.cached_patcher_init = (build_patcher, (recipe, dtype))
    return patcher


def recipe_of(model: Any) -> Recipe:
    """How the weights of a MODEL of this pack, or of a PixArt of ComfyUI's own loader, came about."""
    if is_stock(model):
        return StockRecipe.of(model)
    sparsedit_info(model)
    return model.model.sparsedit_origin[0]  # type: ignore[no-any-return]


def dense_record(model: Any) -> Checkpoint:
    """The weights of a dense MODEL as a record, without its LoRAs."""
    return stock_checkpoint(model) if is_stock(model) else recipe_of(model).read()


def model_dtype(model: Any) -> torch.dtype | None:
    """The weight type that was asked for when a MODEL of this pack was built, ``None`` for ComfyUI's choice; that of
    the weights where ComfyUI's own loader built it."""
    if is_stock(model):
        return model.model.get_dtype()  # type: ignore[no-any-return]
    sparsedit_info(model)
    return model.model.sparsedit_origin[1]  # type: ignore[no-any-return]


def _default_dtype(checkpoint: Checkpoint, config: ModelConfig) -> torch.dtype:
    state = checkpoint.state
    return mm.unet_dtype(  # type: ignore[no-any-return]
        model_params=comfy.utils.calculate_parameters(state),
        supported_dtypes=list(config.supported_inference_dtypes),
        weight_dtype=comfy.utils.weight_dtype(state),
    )


def _patcher_class(disable_dynamic: bool) -> Any:
    """Looked up at each call: ComfyUI 0.33 puts another class there when it starts with dynamic VRAM."""
    plain = comfy.model_patcher.ModelPatcher
    return plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)


def _load_weights(model: Any, checkpoint: Checkpoint, patcher: Any) -> None:
    options = {}
    if "assign" in inspect.signature(model.load_model_weights).parameters:
        options["assign"] = patcher.is_dynamic()
    model.load_model_weights(dict(checkpoint.state), "", **options)
    model.diffusion_model.requires_grad_(False)
