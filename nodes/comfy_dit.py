"""DiT and SparseDiT as a ComfyUI model: conditions are class labels."""

from __future__ import annotations

from typing import Any

import comfy.conds
import comfy.model_base
import torch
from torch import Tensor

from ..sparsedit_core.cache.visit import Visit
from ..sparsedit_core.config import DiTConfig
from ..sparsedit_core.dit import DiT
from .comfy_model import ComfyBackbone, ModelConfig, StandIns, model_type
from .info import SparseDiTInfo

NO_CLASS = -1
"""As a label: "no class", whatever row of the model's table that is."""


class ComfyDiT(ComfyBackbone, DiT):
    """The core's DiT, called as ComfyUI calls a diffusion model."""

    config: DiTConfig
    vae = "Stable Diffusion 1 for DiT, pixel_space for the bundled models"

    def predict(  # the text and the conditions of other nodes mean nothing to a class-conditional model
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,  # noqa: ARG002
        y: Tensor | None = None,
        sparse_grid: tuple[int, int] | None = None,
        cache: Visit | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> Tensor:
        """x (B, C, H, W) at ``timesteps`` (B,) with labels ``y`` (B,), ``None`` for no class."""
        if y is None:
            y = torch.full((x.shape[0],), self.config.num_classes, dtype=torch.long, device=x.device)
        return DiT.forward(self, x, timesteps, y, sparse_grid=sparse_grid, cache=cache)


class DiTBaseModel(StandIns, comfy.model_base.BaseModel):  # type: ignore[misc]
    """The object behind MODEL.model; ``sparsedit`` describes the checkpoint."""

    def __init__(self, model_config: ModelConfig, info: SparseDiTInfo, device: torch.device | None = None) -> None:
        super().__init__(model_config, model_type(info), device=device, unet_model=ComfyDiT)
        self.sparsedit = info

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Labels (n,) from the conditioning's ``class_label``, repeated over the batch by ComfyUI; else no class."""
        labels = kwargs.get("class_label")
        labels = torch.as_tensor([NO_CLASS] if labels is None else labels).flatten().long()
        return {"y": comfy.conds.CONDRegular(self._rows(labels))}

    def _rows(self, labels: Tensor) -> Tensor:
        """Rows of the label table; ``NO_CLASS`` becomes the null class."""
        config = self.sparsedit.config
        assert isinstance(config, DiTConfig)
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
