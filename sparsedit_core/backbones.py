"""From a config to its model, whichever the family."""

from __future__ import annotations

from typing import Any

from .backbone import Backbone
from .config import BackboneConfig, PixArtConfig
from .dit import DiT
from .pixart import PixArt


def new_model(config: BackboneConfig, **keywords: Any) -> Backbone:
    """The model of a config, its weights not set; the keywords are those of :class:`DiT` and :class:`PixArt`."""
    return PixArt(config, **keywords) if isinstance(config, PixArtConfig) else DiT(config, **keywords)  # type: ignore[arg-type]


def is_table(key: str) -> bool:
    """True for a parameter that belongs to no layer: it stays float32 whatever the weights are."""
    return key.endswith((*DiT.tables, *PixArt.tables))
