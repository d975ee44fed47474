"""One evaluation of a model whose sub-layers are not simply called: what its ``forward`` takes as ``cache``.

Sub-layers give a way to compute some of their tokens; who makes the visit decides which (:mod:`.runtime` by a plan,
:mod:`.learn_visit` by one that is learned) or looks on (:mod:`.calibrate`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .plan import FULL, LEVELS
from .selectors import AnyGrid

Rows = Tensor | None
"""Numbers of the tokens to compute: (K,) the same for all pictures, (B, K) for each its own, ``None`` all."""
Compute = Callable[[Rows], Tensor | tuple[Tensor, ...]]
"""Output (B, K, D) of a sub-layer for some tokens; further tensors of a tuple are kept as they are (FLUX's text)."""


def take(x: Tensor, rows: Rows) -> Tensor:
    """The tokens ``rows`` of x (B, N, D)."""
    if rows is None:
        return x
    if rows.ndim == 1:
        return x.index_select(1, rows)
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def put(x: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """x (B, N, D) with its tokens ``rows`` overwritten by ``new`` (B, K, D)."""
    if rows.ndim == 1:
        return x.index_copy_(1, rows, new)
    return x.scatter_(1, rows[..., None].expand(-1, -1, x.shape[-1]), new)


def outputs(computed: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a :data:`Compute` gave, as a tuple."""
    return computed if isinstance(computed, tuple) else (computed,)


class Visit(ABC):
    """One evaluation.

    ``done`` is the level at which every sub-layer ran, ``forced`` names those that ran in full because there was
    nothing to reuse, ``watching`` counts the MACs of attention maps made for the selector alone. ``selector`` is the
    one that chooses tokens, "" where none does.
    """

    selector: str = ""

    def __init__(self, sublayers: Sequence[str]) -> None:
        self.sublayers = tuple(sublayers)
        self.done: dict[str, int] = {}
        self.forced: list[str] = []
        self.watching = 0

    def branch(self, x: Tensor, name: str, grid: AnyGrid, compute: Compute, gate: Tensor | None = None) -> Tensor:
        """x (B, N, D) plus the gated output of the sub-layer ``name`` on the tokens of ``grid``."""
        self.weigh(x, gate)
        value = self.output(name, grid, x, compute)[0]
        return x + value if gate is None else torch.addcmul(x, gate, value)

    @abstractmethod
    def output(self, name: str, grid: AnyGrid, x: Tensor, compute: Compute) -> tuple[Tensor, ...]:
        """The sub-layer's output for tokens x (B, N, D) of ``grid``."""

    def weigh(self, x: Tensor, gate: Tensor | None) -> None:  # noqa: B027
        """Told before :meth:`output` what its tokens are added to and by which gate, for visits that measure."""

    def keeps(self, name: str) -> bool:  # noqa: ARG002
        """Whether the output of a sub-layer is kept as it is."""
        return False

    def watch_self(self, name: str, q: Tensor, k: Tensor, heads: int) -> None:  # noqa: B027
        """Look at queries and keys (B, N, C) of a self-attention that is computed for all tokens, if they are used."""

    def watch_cross(  # noqa: B027
        self, name: str, q: Tensor, k: Tensor, heads: int, mask: Tensor | None, rows: Rows
    ) -> None:
        """Look at queries (B, K, C) of the tokens ``rows`` and keys (B, L, C) of the text, if they are used."""

    def levels(self) -> tuple[int, ...]:
        """The levels at which the sub-layers ran, in their order; full where something else ran in their place."""
        return tuple(self.done.get(name, FULL) for name in self.sublayers)

    @property
    def recomputed(self) -> float:
        """Share of the sub-layers' outputs that was computed, the mean of their levels."""
        levels = self.levels()
        return sum(LEVELS[level] for level in levels) / len(levels)


class Visits(Protocol):
    """What makes the visits of a sampling run: a token cache, a calibrator, a step cache to compare with."""

    @property
    def peak_bytes(self) -> int:
        """The most that was ever kept."""

    def evaluation(
        self, time: float, members: Sequence[Hashable] = (0,), where: Hashable = None, *, full: bool = False
    ) -> Visit:
        """Begin an evaluation at a diffusion time (1 noise .. 0 image).

        ``members``  names of the equal parts of the batch, such as the halves of guidance
        ``where``    the part of the picture or video that is evaluated, where a run has several (context windows)
        ``full``     compute everything
        """

    def clear(self) -> None:
        """Drop everything that is kept of a run."""
