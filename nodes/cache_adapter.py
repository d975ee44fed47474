"""What a family of models must tell and do to be sampled under a token cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from ..sparsedit_core.cache.costs import Costs
from ..sparsedit_core.cache.selectors import AnyGrid
from ..sparsedit_core.cache.visit import Visit
from ..sparsedit_core.tokens import Grid

Hooked = tuple[dict[str, Any], dict[str, Any]]
"""transformer_options and keyword arguments of a model's call."""


class Size(NamedTuple):
    """How much a model is given: latents of ``shape`` (B, C, ..., H, W), ``text`` tokens (``None`` for a usual number),
    a sparse grid, and tokens ``beside`` those of the latent (:meth:`CacheAdapter.beside`)."""

    shape: Sequence[int]
    text: int | None = None
    sparse: Grid | None = None
    beside: int = 0


class CacheAdapter(ABC):
    """One family of models under a token cache; ``family`` is what plans call it, ``sublayers`` their names in the
    order of the forward pass."""

    family: str
    sublayers: tuple[str, ...]

    def prepare(self, patcher: Any) -> None:  # noqa: B027
        """Put on a clone of the MODEL what the cache needs there; without a run it changes nothing."""

    def beside(self, given: Mapping[str, Any]) -> int:  # noqa: ARG002
        """Tokens beside those of the latent that a condition, or a call with these keywords, brings into the blocks."""
        return 0

    @abstractmethod
    def grid(self, shape: Sequence[int]) -> AnyGrid:
        """Tokens of a latent ``shape``: (rows, columns) or (frames, rows, columns)."""

    @abstractmethod
    def costs(self, size: Size) -> Costs:
        """MACs of one row of the batch."""

    @abstractmethod
    def sizes(self, size: Size, itemsize: int, names: Sequence[str]) -> dict[str, int]:
        """Bytes that keeping the outputs of the sub-layers ``names`` takes for all rows of the batch."""

    @abstractmethod
    def hooked(
        self, visit: Visit, options: dict[str, Any], keywords: dict[str, Any]
    ) -> AbstractContextManager[Hooked]:
        """Within it, a call of the model with these options and keywords is under ``visit``."""
