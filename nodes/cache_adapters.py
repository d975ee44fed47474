"""How a token cache reaches the blocks of each family of models, and what their sub-layers cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from ..sparsedit_core.cache.costs import Costs, cache_bytes, sublayer_costs, sublayer_names
from ..sparsedit_core.cache.runtime import Visit
from ..sparsedit_core.cache.selectors import AnyGrid
from ..sparsedit_core.config import BackboneConfig, PixArtConfig
from ..sparsedit_core.tokens import Grid
from .cache_flux import FluxAdapter, is_flux
from .cache_hook import Hooked
from .cache_pixart import StockPixArtAdapter
from .cache_wan import WanAdapter, is_wan
from .info import SparseDiTInfo
from .stock import is_stock

__all__ = ["CacheAdapter", "Hooked", "OwnAdapter", "adapter_of"]

class CacheAdapter(Protocol):
    """One family of models under a token cache. ``shape`` is that of the latent (B, C, ..., H, W) a model is given."""

    family: str
    """What plans call it."""
    sublayers: tuple[str, ...]
    """Names in the order of the forward pass."""

    def prepare(self, patcher: Any) -> None:
        """Put on a clone of the MODEL what the cache needs there; without a run it changes nothing."""

    def grid(self, shape: Sequence[int]) -> AnyGrid:
        """Tokens of a latent ``shape``: (rows, columns) or (frames, rows, columns)."""

    def beside(self, given: Mapping[str, Any]) -> int:
        """Tokens beside those of the latent that a condition, or a call with these keywords, brings into the blocks."""

    def costs(self, shape: Sequence[int], text: int | None, sparse: Grid | None = None, beside: int = 0) -> Costs:
        """MACs of one row of the batch for a latent ``shape``, ``text`` tokens read, a sparse grid, and tokens
        :meth:`beside`."""

    def sizes(
        self,
        shape: Sequence[int],
        text: int | None,
        itemsize: int,
        names: Sequence[str],
        sparse: Grid | None = None,
        beside: int = 0,
    ) -> dict[str, int]:
        """Bytes that keeping the outputs of the sub-layers ``names`` takes for all rows of ``shape``."""

    def hooked(
        self, visit: Visit, options: dict[str, Any], keywords: dict[str, Any]
    ) -> AbstractContextManager[Hooked]:
        """Within it, a call of the model with these options and keywords is under ``visit``."""


class OwnAdapter:
    """The DiT and PixArt of this pack: their forward takes the cache as a keyword."""

    def __init__(self, config: BackboneConfig) -> None:
        self.config = config
        self.family = "pixart" if isinstance(config, PixArtConfig) else "dit"
        self.sublayers = sublayer_names(config)

    def prepare(self, patcher: Any) -> None:
        pass

    def grid(self, shape: Sequence[int]) -> Grid:
        patch = self.config.patch_size
        return -(-shape[-2] // patch), -(-shape[-1] // patch)

    def beside(self, given: Mapping[str, Any]) -> int:  # noqa: ARG002
        return 0

    def costs(
        self,
        shape: Sequence[int],
        text: int | None,
        sparse: Grid | None = None,
        beside: int = 0,  # noqa: ARG002
    ) -> Costs:
        read = text if self.family == "pixart" else None  # conditionings of a DiT hold a blank in the text's place
        return sublayer_costs(self.config, self.grid(shape), sparse, read)

    def sizes(
        self,
        shape: Sequence[int],
        text: int | None,  # noqa: ARG002  (the text is not kept)
        itemsize: int,
        names: Sequence[str],
        sparse: Grid | None = None,
        beside: int = 0,  # noqa: ARG002
    ) -> dict[str, int]:
        return cache_bytes(self.config, self.grid(shape), shape[0], itemsize, sparse=sparse, names=names)

    @contextmanager
    def hooked(self, visit: Visit, options: dict[str, Any], keywords: dict[str, Any]) -> Iterator[Hooked]:
        yield options, {**keywords, "cache": visit}


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
