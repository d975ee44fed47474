"""Which adapter of the token cache a MODEL needs."""

from __future__ import annotations

from typing import Any

from .cache_adapter import CacheAdapter
from .cache_flux import FluxAdapter, is_flux
from .cache_own import OwnAdapter
from .cache_pixart import StockPixArtAdapter
from .cache_wan import WanAdapter, is_wan
from .info import SparseDiTInfo
from .stock import is_stock


def adapter_of(patcher: Any) -> CacheAdapter:
    """The adapter for a MODEL; ``ValueError`` names one that a token cache does not know."""
    inner = patcher.model
    info = getattr(inner, "sparsedit", None)
    if isinstance(info, SparseDiTInfo):
        return OwnAdapter(info.config)
    if is_stock(patcher):
        return StockPixArtAdapter.of(patcher)
    if is_flux(inner):
        return FluxAdapter.of(inner)
    if is_wan(inner):
        return WanAdapter.of(inner)
    network = type(getattr(inner, "diffusion_model", None)).__name__
    raise ValueError(
        f"the MODEL is a {type(inner).__name__} ({network}), which no token cache is made for; connect a FLUX.1, a "
        "Wan2.1 from text or image, a PixArt, or a model of SparseDiT Load Checkpoint"
    )
