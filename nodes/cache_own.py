"""The DiT and PixArt of this pack under a token cache: their forward takes the visit as a keyword."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..sparsedit_core.cache.costs import Costs, cache_bytes, sublayer_costs, sublayer_names
from ..sparsedit_core.cache.visit import Visit
from ..sparsedit_core.config import BackboneConfig, PixArtConfig
from ..sparsedit_core.tokens import Grid
from .cache_adapter import CacheAdapter, Hooked, Size


class OwnAdapter(CacheAdapter):
    """A model of ``config``."""

    def __init__(self, config: BackboneConfig) -> None:
        self.config = config
        self.family = "pixart" if isinstance(config, PixArtConfig) else "dit"
        self.sublayers = sublayer_names(config)

    def grid(self, shape: Sequence[int]) -> Grid:
        patch = self.config.patch_size
        return -(-shape[-2] // patch), -(-shape[-1] // patch)

    def costs(self, size: Size) -> Costs:
        text = size.text if self.family == "pixart" else None  # conditionings of a DiT hold a blank in the text's place
        return sublayer_costs(self.config, self.grid(size.shape), size.sparse, text)

    def sizes(self, size: Size, itemsize: int, names: Sequence[str]) -> dict[str, int]:
        grid, rows = self.grid(size.shape), size.shape[0]
        return cache_bytes(self.config, grid, rows, itemsize, sparse=size.sparse, names=names)

    @contextmanager
    def hooked(self, visit: Visit, options: dict[str, Any], keywords: dict[str, Any]) -> Iterator[Hooked]:
        yield options, {**keywords, "cache": visit}
