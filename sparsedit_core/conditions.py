"""What a model is conditioned on: class labels of a DiT, captions of a PixArt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .backbone import Backbone
from .config import BackboneConfig, DiTConfig, PixArtConfig


@dataclass(frozen=True)
class Captions:
    """Texts as their encoder's ``features`` (B, L, C); ``mask`` (B, L) bool is true at the tokens that count."""

    features: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.features.ndim != 3 or self.mask.shape != self.features.shape[:2] or self.mask.dtype != torch.bool:
            raise ValueError(
                f"captions have features {tuple(self.features.shape)} and a {self.mask.dtype} mask "
                f"{tuple(self.mask.shape)}; expected (B, L, C) and bool (B, L)"
            )

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Captions:
        """Those of some pictures, chosen as rows of a tensor are."""
        return Captions(self.features[rows], self.mask[rows])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, *, non_blocking: bool = False
    ) -> Captions:
        """On a device, the features in ``dtype``."""
        features = self.features.to(device, dtype, non_blocking=non_blocking)
        return Captions(features, self.mask.to(device, non_blocking=non_blocking))

    def padded(self, length: int) -> Captions:
        """With empty tokens that do not count up to ``length``, where they are shorter."""
        more = max(0, length - self.mask.shape[1])
        features = torch.nn.functional.pad(self.features, (0, 0, 0, more))
        return Captions(features, torch.nn.functional.pad(self.mask, (0, more)))

    def without_text(self, null: Tensor, rows: Tensor | None = None) -> Captions:
        """The same with the null caption (l, C) in all rows, or where ``rows`` (B,) is true.

        Training and guidance of PixArt replace the features and keep the mask; of captions longer than the null
        caption the rest does not count.
        """
        length = self.mask.shape[1]
        shared = min(length, len(null))
        features = torch.zeros_like(self.features)
        features[:, :shared] = null[:shared].to(features)
        mask = self.mask & (torch.arange(length, device=self.mask.device) < shared)
        mask[:, 0] |= ~mask.any(dim=1)  # attention needs a token
        if rows is None:
            return Captions(features, mask)
        rows = rows.to(self.mask.device)
        return Captions(
            torch.where(rows[:, None, None], features, self.features), torch.where(rows[:, None], mask, self.mask)
        )


Conditions: TypeAlias = Tensor | Captions
"""Class labels (B,) int64 or captions: one for each picture."""


def joined(parts: Sequence[Captions]) -> Captions:
    """Captions one after the other, padded to the longest."""
    length = max(part.mask.shape[1] for part in parts)
    parts = [part.padded(length) for part in parts]
    return Captions(torch.cat([part.features for part in parts]), torch.cat([part.mask for part in parts]))


def call_model(model: Any, x: Tensor, t: Tensor, conditions: Conditions, **keywords: Any) -> Tensor:
    """``model`` at noisy x and timesteps t: the one place that knows how each family takes its conditions."""
    if isinstance(conditions, Captions):
        output: Tensor = model(x, t, conditions.features, mask=conditions.mask, **keywords)
    else:
        output = model(x, t, conditions, **keywords)
    return output


def has_null(config: BackboneConfig) -> bool:
    """Whether the model knows "no class" or holds a null caption, which label drop and guidance need."""
    return config.null_class if isinstance(config, DiTConfig) else bool(getattr(config, "caption_tokens", 0))


def null_caption(model: Backbone) -> Tensor | None:
    """The null caption (l, C) float32 that a PixArt holds; ``None`` of any other model."""
    if not isinstance(model.config, PixArtConfig) or not model.config.caption_tokens:
        return None
    return model.get_parameter("y_embedder.y_embedding").detach().float().clone()


def without_content(model: Backbone, conditions: Conditions) -> Conditions:
    """"No class" or the null caption in place of all conditions; ``ValueError`` if the model has none."""
    if not has_null(model.config):
        what = "class" if isinstance(model.config, DiTConfig) else "caption"
        raise ValueError(f"the model has no null {what} to stand for nothing asked; use guidance 1 and label_drop 0")
    if isinstance(conditions, Captions):
        null = null_caption(model)
        assert null is not None
        return conditions.without_text(null)
    return torch.full_like(conditions, with_classes(model.config).num_classes)


def with_classes(config: BackboneConfig) -> DiTConfig:
    """The config of a model that has classes; ``ValueError`` for a PixArt, which has captions."""
    if not isinstance(config, DiTConfig):
        raise ValueError("this needs a model of classes (DiT), but the file is a PixArt, which is asked by captions")
    return config


def check_conditions(config: BackboneConfig, conditions: Conditions) -> None:
    """``ValueError`` unless a model of ``config`` knows the labels, or takes captions of this width."""
    if isinstance(conditions, Captions):
        if not isinstance(config, PixArtConfig):
            raise ValueError("captions were given to a DiT, which draws classes; give labels")
        if conditions.features.shape[2] != config.caption_channels:
            raise ValueError(
                f"the captions have features of width {conditions.features.shape[2]}, the model takes "
                f"{config.caption_channels}; encode the text with the encoder that the model was trained with"
            )
        return
    if not isinstance(config, DiTConfig):
        raise ValueError("class labels were given to a PixArt, which draws captions; give Captions")
    wrong = conditions[(conditions < 0) | (conditions >= config.num_classes)]
    if len(wrong):
        raise ValueError(
            f"the classes of this model are 0 .. {config.num_classes - 1}, found {wrong.tolist()[:10]}; give labels of "
            "its classes, or a model with more of them"
        )
