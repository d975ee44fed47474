"""A step cache to compare with: where the first block changes little, all later blocks are reused (FBCache, PAPERS 3).

Ours is written as a visit of the token cache's engine, for dense models: the first block is always computed; if what it
adds to the tokens differs from what it added at the last full evaluation by less than a threshold (mean of the
absolute differences over that of the values, of the whole batch), what the later blocks added then is added again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..cache.plan import FULL, NONE
from ..cache.selectors import AnyGrid
from ..cache.visit import Compute, Visit, outputs

ROUNDS, SPAN = 7, 1024.0
"""Halvings of the interval in which a threshold is looked for, and its ends' ratio: thresholds to 6 % of themselves."""


@dataclass
class Residuals:
    """What the first block and the later ones added to the tokens (B, N, D) at the last full evaluation."""

    first: Tensor | None = None
    rest: Tensor | None = None


class FirstBlockCache:
    """The state of one sampling run of a dense model, as :class:`..cache.runtime.TokenCache` is under a plan."""

    def __init__(self, sublayers: Sequence[str], threshold: float) -> None:
        self.sublayers, self.threshold, self.peak_bytes = tuple(sublayers), threshold, 0
        self._runs: dict[tuple[Hashable, tuple[Hashable, ...]], Residuals] = {}

    def evaluation(
        self,
        time: float,  # noqa: ARG002  (the change decides)
        members: Sequence[Hashable] = (0,),
        where: Hashable = None,
        *,
        full: bool = False,
    ) -> FirstBlockVisit:
        """Begin an evaluation: see :meth:`..cache.visit.Visits.evaluation`."""
        kept = self._runs.setdefault((where, tuple(members)), Residuals())
        return FirstBlockVisit(self, kept, 0.0 if full else self.threshold)

    def note(self, kept: Residuals) -> None:
        """Note what is held now."""
        tensors = [each for each in (kept.first, kept.rest) if each is not None]
        self.peak_bytes = max(self.peak_bytes, sum(each.numel() * each.element_size() for each in tensors))

    def clear(self) -> None:
        """Drop everything that is kept."""
        self._runs.clear()


class FirstBlockVisit(Visit):
    """One evaluation; ``done`` tells which sub-layers ran."""

    def __init__(self, cache: FirstBlockCache, kept: Residuals, threshold: float) -> None:
        super().__init__(cache.sublayers)
        self._owner, self._kept, self._threshold = cache, kept, threshold
        self._first, self._last = self.sublayers[0].rpartition(".")[0], self.sublayers[-1]
        self._start: Tensor | None = None
        self._entry: Tensor | None = None
        self._skips = False

    def branch(self, x: Tensor, name: str, grid: AnyGrid, compute: Compute, gate: Tensor | None = None) -> Tensor:
        """See :meth:`..cache.visit.Visit.branch`."""
        if self._start is None:
            self._start = x
        if self._entry is None and name.rpartition(".")[0] != self._first:
            self._entry = x
            self._decide(x - self._start)
        if self._skips:
            assert self._kept.rest is not None
            self.done[name] = NONE
            return x + self._kept.rest if name == self._last else x
        x = super().branch(x, name, grid, compute, gate)
        if name == self._last and self._entry is not None:
            self._kept.rest = x - self._entry
            self._owner.note(self._kept)
        return x

    def output(
        self,
        name: str,
        grid: AnyGrid,  # noqa: ARG002  (nothing is selected)
        x: Tensor,  # noqa: ARG002
        compute: Compute,
    ) -> tuple[Tensor, ...]:
        """All of it."""
        self.done[name] = FULL
        return outputs(compute(None))

    def _decide(self, added: Tensor) -> None:
        before = self._kept.first
        if before is not None and self._kept.rest is not None and before.shape == added.shape:
            change = float((added - before).float().abs().mean() / before.float().abs().mean().clamp_min(1e-30))
            self._skips = change < self._threshold
        if not self._skips:
            self._kept.first = added


def threshold_for(
    share: Callable[[float], float], budget: float, highest: float, evaluation: float
) -> tuple[float, float]:
    """A threshold up to ``highest`` at which a step cache computes as much as ``budget`` allows, and the share it does.

    ``share`` runs the cache at a threshold and tells the share of the dense MACs; it falls as the threshold grows, in
    steps of one ``evaluation``, so one within less than that below the budget is as good as any. Where none is found,
    it is the lowest within the budget; where even ``highest`` computes more, that is the answer: what the cache saves
    at most. Thresholds are looked for by their logarithm, down to a :data:`SPAN`-th of the highest.
    """
    low, high, best = highest / SPAN, highest, share(highest)
    for _ in range(ROUNDS):
        if best > budget - evaluation + 1e-9:
            break
        middle = math.sqrt(low * high)
        found = share(middle)
        if found <= budget + 1e-9:
            high, best = middle, found
        else:
            low = middle
    return high, best
