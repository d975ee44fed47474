"""DiT and SparseDiT as a ComfyUI model: the core's module with ComfyUI's layers, attention and calling convention."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.supported_models_base
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ..sparsedit_core.config import DiTConfig
from ..sparsedit_core.convert import qkv_rows
from ..sparsedit_core.dit import DiT
from .info import SparseDiTInfo

NO_CLASS = -1
"""As a label: "no class", whatever row of the model's table that is."""


OVERRIDE = "optimized_attention_override"


class ComfyAttention:
    """ComfyUI's attention for (B, M, C) queries and (B, N, C) keys and values.

    ``options`` are the run's transformer_options while another node replaces the attention in them, else ``None``.
    """

    options: dict[str, Any] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        if self.options is None:
            return optimized_attention(q, k, v, heads)  # type: ignore[no-any-return]
        return optimized_attention(q, k, v, heads, transformer_options=self.options)  # type: ignore[no-any-return]


def layers(operations: Any) -> SimpleNamespace:
    """The core's four layer types from ComfyUI's namespace."""

    class Embedding(operations.Embedding):  # type: ignore[name-defined,misc]
        def forward(self, labels: Tensor) -> Tensor:
            # there is no look-up in a float8 table, so ComfyUI is asked to cast it
            return super().forward(labels, out_dtype=torch.float32)  # type: ignore[no-any-return]

    return SimpleNamespace(
        Linear=operations.Linear, Conv2d=operations.Conv2d, LayerNorm=operations.LayerNorm, Embedding=Embedding
    )


class ComfyDiT(DiT):
    """The core's model, called as ComfyUI calls a diffusion model; the learned variance is dropped."""

    def __init__(
        self,
        image_model: str | None = None,  # noqa: ARG002  (ComfyUI passes the whole unet_config)
        config: DiTConfig | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any = None,
    ) -> None:
        attention = ComfyAttention()
        super().__init__(config or DiTConfig(), ops=layers(operations), attention=attention, dtype=dtype, device=device)
        self.dtype, self.comfy_attention = dtype, attention

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006  (ComfyUI's own convention)
        **kwargs: Any,
    ) -> Tensor:
        """x (B, C, H, W) at ``timesteps`` (B,), labels ``y`` (B,); see :meth:`_forward` for the keywords."""
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, context, control, transformer_options, **kwargs)  # type: ignore[no-any-return]

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None = None,  # noqa: ARG002  (a class-conditional model has no text)
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        y: Tensor | None = None,
        sparse_grid: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ARG002  (conditions of other nodes)
    ) -> Tensor:
        if control is not None:
            raise ValueError("a ControlNet is attached, but DiT has no ControlNet inputs; remove the ControlNet node")
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"the latent has the shape {tuple(x.shape)} but this model takes pictures of {self.config.in_channels} "
                "channels; encode the picture with the model's own VAE (Stable Diffusion 1 for DiT, pixel_space for "
                "the bundled models)"
            )
        if y is None:
            y = torch.full((x.shape[0],), self.config.num_classes, dtype=torch.long, device=x.device)
        replaced = transformer_options is not None and OVERRIDE in transformer_options
        self.comfy_attention.options = transformer_options if replaced else None
        try:
            return DiT.forward(self, x, timesteps, y, sparse_grid=sparse_grid)[:, : self.config.in_channels]
        finally:
            self.comfy_attention.options = None


class DiTModelConfig(comfy.supported_models_base.BASE):  # type: ignore[misc]
    """What ComfyUI wants to know about a model before it is built."""

    unet_config = {"image_model": "sparsedit_dit"}  # noqa: RUF012
    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012  (the base class would add attention heads)
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]  # noqa: RUF012

    def __init__(self, info: SparseDiTInfo) -> None:
        super().__init__({"image_model": "sparsedit_dit", "config": info.config})
        if info.prediction == "flow":
            self.sampling_settings = {"shift": 1.0, "multiplier": 1000}
        else:
            # ComfyUI calls linear betas "sqrt_linear"; its "linear" is Stable Diffusion's scaled schedule
            self.sampling_settings = {
                "beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 2e-2, "timesteps": 1000
            }  # fmt: skip
        self.latent_format = latent_format(info)
        # core's PixArt has width 1152, patch 2 and 0.5; memory grows with width and with tokens per latent pixel
        self.memory_usage_factor = 0.5 * (info.config.hidden_size / 1152) * (2 / info.config.patch_size) ** 2


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
    """Stable Diffusion 1 latents, RGB pixels, or a plain format of as many channels as the model has."""
    latent = info.latent
    if latent.kind == "pixel" and latent.channels == 3:
        return Pixels(latent.scale)
    if latent.kind == "latent" and latent.channels == 4:
        form = comfy.latent_formats.SD15(scale_factor=latent.scale)
    else:
        form = comfy.latent_formats.LatentFormat()
        form.latent_channels, form.scale_factor = latent.channels, latent.scale
    form.spacial_downscale_ratio = latent.factor  # 0.33 sizes empty latents by it
    return form


class DiTBaseModel(comfy.model_base.BaseModel):  # type: ignore[misc]
    """The object behind MODEL.model; ``sparsedit`` describes the checkpoint."""

    def __init__(self, model_config: DiTModelConfig, info: SparseDiTInfo, device: torch.device | None = None) -> None:
        types = comfy.model_base.ModelType
        kind = types.FLOW if info.prediction == "flow" else types.EPS
        super().__init__(model_config, kind, device=device, unet_model=ComfyDiT)
        self.sparsedit = info

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Labels (n,) from the conditioning's ``class_label``, repeated over the batch by ComfyUI; else no class."""
        labels = kwargs.get("class_label")
        labels = torch.as_tensor([NO_CLASS] if labels is None else labels).flatten().long()
        return {"y": comfy.conds.CONDRegular(self._rows(labels))}

    def _rows(self, labels: Tensor) -> Tensor:
        """Rows of the label table; ``NO_CLASS`` becomes the null class."""
        config = self.sparsedit.config
        if not config.null_class and bool((labels == NO_CLASS).any()):
            raise ValueError(
                f"{self.sparsedit.source} was trained without a null class, so it cannot be guided: connect the "
                "positive output of SparseDiT Class Label to the sampler's negative input too, and set cfg to 1"
            )
        labels = torch.where(labels == NO_CLASS, config.num_classes, labels)
        last = config.num_classes - 1 + config.null_class
        if labels.numel() == 0 or int(labels.min()) < 0 or int(labels.max()) > last:
            what = "none" if labels.numel() == 0 else f"{int(labels.min())}..{int(labels.max())}"
            null = f"and {config.num_classes} for no class" if config.null_class else "and has no null class"
            raise ValueError(
                f"class labels are {what} but the model {self.sparsedit.source} knows 0..{config.num_classes - 1} "
                f"{null}; connect SparseDiTClassLabel with a class of this model"
            )
        return labels

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The weights, and empty stand-ins for the fused ``attn.qkv`` of blocks that hold it in parts: ComfyUI reads
        the names LoRAs may use from here (see lora.py)."""
        state = super().state_dict(*args, **kwargs)
        prefix = args[1] if len(args) > 1 else kwargs.get("prefix", "")
        for key, shape in fused_shapes(self.sparsedit.config).items():
            state[prefix + key] = torch.empty(shape, device="meta")
        return state  # type: ignore[no-any-return]


def fused_shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the ``attn.qkv`` weights and biases that a SparseDiT holds in parts."""
    roles, dim = (config.layout.roles if config.layout else ()), config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}
    for number, role in enumerate(roles):
        if "qkv" not in qkv_rows(role, dim):
            name = f"diffusion_model.blocks.{number}.attn.qkv"
            shapes |= {f"{name}.weight": (3 * dim, dim), f"{name}.bias": (3 * dim,)}
    return shapes
