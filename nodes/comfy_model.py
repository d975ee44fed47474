"""What ComfyUI needs of a model of any family: the core's module with ComfyUI's layers, attention and calling
convention, and the facts that are asked before a model is built."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ..sparsedit_core.config import BackboneConfig
from ..sparsedit_core.convert import qkv_rows
from .info import SparseDiTInfo

OVERRIDE = "optimized_attention_override"


class ComfyAttention:
    """ComfyUI's attention for (B, M, C) queries and (B, N, C) keys and values, with a mask (B, N) or without.

    ``options`` are the run's transformer_options while another node replaces the attention in them, else ``None``.
    """

    options: dict[str, Any] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        keywords: dict[str, Any] = {} if self.options is None else {"transformer_options": self.options}
        if mask is not None:  # to be added: not every attention of ComfyUI takes a boolean one
            lowest = torch.finfo(q.dtype).min
            keywords["mask"] = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, lowest)[:, None]
        return optimized_attention(q, k, v, heads, **keywords)  # type: ignore[no-any-return]


def layers(operations: Any) -> SimpleNamespace:
    """The core's four layer types from ComfyUI's namespace."""

    class Embedding(operations.Embedding):  # type: ignore[name-defined,misc]
        def forward(self, labels: Tensor) -> Tensor:
            # there is no look-up in a float8 table, so ComfyUI is asked to cast it
            return super().forward(labels, out_dtype=torch.float32)  # type: ignore[no-any-return]

    return SimpleNamespace(
        Linear=operations.Linear, Conv2d=operations.Conv2d, LayerNorm=operations.LayerNorm, Embedding=Embedding
    )


class ComfyBackbone:
    """Mixed into a core model, in front of it: built and called as ComfyUI does; the learned variance is dropped."""

    config: BackboneConfig
    vae: str
    """The autoencoder to name when a latent does not fit."""
    predict: Callable[..., Tensor]
    """A family's own method: the core's forward for x, timesteps, context and conditions as ComfyUI calls them."""

    def __init__(
        self,
        config: BackboneConfig,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any = None,
        **_unet_config: Any,  # ComfyUI passes the whole of it
    ) -> None:
        attention = ComfyAttention()
        super().__init__(config, ops=layers(operations), attention=attention, dtype=dtype, device=device)  # type: ignore[call-arg]
        self.dtype, self.comfy_attention = dtype, attention

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006  (ComfyUI's own convention)
        **kwargs: Any,
    ) -> Tensor:
        """x (B, C, H, W) at ``timesteps`` (B,); ``context`` is text, the keywords are conditions and a sparse grid."""
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, context, control, transformer_options, **kwargs)  # type: ignore[no-any-return]

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if control is not None:
            raise ValueError(
                "a ControlNet is attached, but the models of this pack have no ControlNet inputs; remove the "
                "ControlNet node"
            )
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"the latent has the shape {tuple(x.shape)} but this model takes pictures of {self.config.in_channels} "
                f"channels; encode the picture with the model's own VAE ({self.vae})"
            )
        replaced = transformer_options is not None and OVERRIDE in transformer_options
        self.comfy_attention.options = transformer_options if replaced else None
        try:
            return self.predict(x, timesteps, context, **kwargs)[:, : self.config.in_channels]
        finally:
            self.comfy_attention.options = None


class ModelConfig(comfy.supported_models_base.BASE):  # type: ignore[misc]
    """What ComfyUI wants to know about a model before it is built."""

    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012  (the base class would add attention heads)
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]  # noqa: RUF012

    def __init__(self, info: SparseDiTInfo) -> None:
        config = info.config
        # ComfyUI maps the names of diffusers LoRAs by depth and width
        facts = {"depth": config.depth, "hidden_size": config.hidden_size}
        super().__init__({"image_model": f"sparsedit_{info.family}", "config": config, **facts})
        if info.prediction == "flow":
            self.sampling_settings = {"shift": 1.0, "multiplier": 1000}
        else:
            # ComfyUI calls linear betas "sqrt_linear"; its "linear" is Stable Diffusion's scaled schedule
            self.sampling_settings = {
                "beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 2e-2, "timesteps": 1000
            }  # fmt: skip
        self.latent_format = latent_format(info)
        # core's PixArt has width 1152, patch 2 and 0.5; memory grows with width and with tokens per latent pixel
        self.memory_usage_factor = 0.5 * (config.hidden_size / 1152) * (2 / config.patch_size) ** 2


def model_type(info: SparseDiTInfo) -> Any:
    """ComfyUI's name of what the model predicts."""
    types = comfy.model_base.ModelType
    return types.FLOW if info.prediction == "flow" else types.EPS


class Pixels(comfy.latent_formats.ChromaRadiance):  # type: ignore[misc]
    """RGB pixels in -1..1 outside, ``scale`` times that inside the model."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale_factor = scale
        self.latent_rgb_factors = [[value / scale for value in row] for row in self.latent_rgb_factors]  # of previews

    def process_in(self, latent: Tensor) -> Tensor:
        return latent * self.scale_factor

    def process_out(self, latent: Tensor) -> Tensor:
        return latent / self.scale_factor


def latent_format(info: SparseDiTInfo) -> comfy.latent_formats.LatentFormat:
    """Latents of Stable Diffusion 1 or SDXL, RGB pixels, or a plain format of as many channels as the model has."""
    latent = info.latent
    if latent.kind == "pixel" and latent.channels == 3:
        return Pixels(latent.scale)
    sdxl = comfy.latent_formats.SDXL()
    if latent.kind == "latent" and latent.channels == 4 and latent.scale == sdxl.scale_factor:
        form = sdxl
    elif latent.kind == "latent" and latent.channels == 4:
        form = comfy.latent_formats.SD15(scale_factor=latent.scale)
    else:
        form = comfy.latent_formats.LatentFormat()
        form.latent_channels, form.scale_factor = latent.channels, latent.scale
    form.spacial_downscale_ratio = latent.factor  # 0.33 sizes empty latents by it
    return form


class StandIns:
    """Mixed into ComfyUI's model classes: it reads the names that LoRAs may use from their state dict."""

    sparsedit: SparseDiTInfo

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The weights, and empty stand-ins for the fused ``attn.qkv`` of blocks that hold it in parts (see lora.py)."""
        state = super().state_dict(*args, **kwargs)  # type: ignore[misc]
        prefix = args[1] if len(args) > 1 else kwargs.get("prefix", "")
        for key, shape in fused_shapes(self.sparsedit.config).items():
            state[prefix + key] = torch.empty(shape, device="meta")
        return state  # type: ignore[no-any-return]


def fused_shapes(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the ``attn.qkv`` weights and biases that a sparse model holds in parts."""
    roles, dim = (config.layout.roles if config.layout else ()), config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}
    for number, role in enumerate(roles):
        if "qkv" not in qkv_rows(role, dim):
            name = f"diffusion_model.blocks.{number}.attn.qkv"
            shapes |= {f"{name}.weight": (3 * dim, dim), f"{name}.bias": (3 * dim,)}
    return shapes
