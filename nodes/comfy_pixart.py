"""PixArt and its sparse form as a ComfyUI model: conditions are text features, and picture sizes for some."""

from __future__ import annotations

from typing import Any

import comfy.conds
import comfy.model_base
import torch
from torch import Tensor

from ..sparsedit_core.cache.visit import Visit
from ..sparsedit_core.config import PixArtConfig
from ..sparsedit_core.pixart import PixArt
from .comfy_model import ComfyBackbone, ModelConfig, StandIns, model_type
from .info import SparseDiTInfo


class ComfyPixArt(ComfyBackbone, PixArt):
    """The core's PixArt, called as ComfyUI calls a diffusion model."""

    config: PixArtConfig
    vae = "Stable Diffusion 1 for PixArt-alpha, SDXL for PixArt-Sigma"

    def predict(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        attention_mask: Tensor | None = None,
        c_size: Tensor | None = None,
        c_ar: Tensor | None = None,
        sparse_grid: tuple[int, int] | None = None,
        cache: Visit | None = None,
        **kwargs: Any,  # noqa: ARG002  (conditions of other nodes)
    ) -> Tensor:
        """x (B, C, H, W) at ``timesteps`` (B,) with text features ``context`` (B, L, width).

        ``attention_mask`` (B, L) is 0 at padding; ``c_size`` (B, 2) and ``c_ar`` (B, 1) are the picture's height and
        width in pixels and their ratio, ``None`` for those of x.
        """
        if context is None:
            raise ValueError(
                "the conditioning has no text; connect CLIP Text Encode with the text encoder that the PixArt was "
                "trained with (T5)"
            )
        return PixArt.forward(
            self,
            x,
            timesteps,
            context,
            mask=attention_mask,
            size=c_size,
            aspect=c_ar,
            sparse_grid=sparse_grid,
            cache=cache,
        )


class PixArtBaseModel(StandIns, comfy.model_base.PixArt):  # type: ignore[misc]
    """The object behind MODEL.model; ``sparsedit`` describes the checkpoint.

    A PixArt to ComfyUI too, which gives it the conditions of core's PixArt and the names of diffusers LoRAs.
    """

    def __init__(self, model_config: ModelConfig, info: SparseDiTInfo, device: torch.device | None = None) -> None:
        # past core's PixArt, which would build its own network
        super(comfy.model_base.PixArt, self).__init__(
            model_config, model_type(info), device=device, unet_model=ComfyPixArt
        )
        self.sparsedit = info

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Core's conditions, and the mask of padded text where an encoder gives one."""
        text, mask = kwargs.get("cross_attn"), kwargs.get("attention_mask")
        config = self.sparsedit.config
        assert isinstance(config, PixArtConfig)
        if text is not None and text.shape[-1] != config.caption_channels:
            raise ValueError(
                f"the text features are {text.shape[-1]} wide but the PixArt {self.sparsedit.source} was trained with "
                f"{config.caption_channels}; encode the text with its own encoder (Load CLIP with type pixart for "
                "PixArt-alpha and Sigma)"
            )
        conditions: dict[str, Any] = super().extra_conds(**kwargs)
        if mask is not None:
            conditions["attention_mask"] = comfy.conds.CONDRegular(mask)
        return conditions
