"""A sub-layer under a plan that can be learned: all tokens computed, a differentiable mask says which are kept.

A token's output is ``F = M f + (1 - M) cache``, and F is the next cache. The mask of a sub-layer is

    M_i = sum over levels s of y_s [rank_i < K_s],      y = onehot(chosen) + p - detach(p)

with p the softmax of the table of costs, K_s the tokens of a level and rank_i the token's place in the queue of the
``age`` selector. In the forward pass y is the choice itself, so what comes out is what :class:`.runtime.TokenCache`
gives under the same plan; in the backward pass p takes its place (straight through), and autograd finds
``dL/dM_i = <dL/dF_i, f_i - cache_i>``. Nothing is changed in place, so that a step can be computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .plan import FULL, LEVELS, NONE, rows_at
from .selectors import AnyGrid, queue
from .visit import Compute, Visit


@dataclass(frozen=True)
class Place:
    """What a kept output is of (shape, type, device, grid) and how far its queue has come."""

    like: tuple[torch.Size, torch.dtype, torch.device, AnyGrid]
    position: int = 0


@dataclass(frozen=True)
class SoftStore:
    """What is kept between the steps of one run; never changed, every step gives a new one.

    ``values`` (B, N, D) by sub-layer, ``places`` what they are of.
    """

    values: Mapping[str, Tensor]
    places: Mapping[str, Place]


NOTHING = SoftStore({}, {})


class SoftVisit(Visit):
    """One evaluation of a run that is learned from; ``store`` is what the evaluation after it takes.

    ``weights`` (sub-layers, levels) are y of this step, ``levels`` the choice they stand for, by index.
    """

    def __init__(
        self, sublayers: Sequence[str], levels: Sequence[int], weights: Tensor, before: SoftStore, seed: int
    ) -> None:
        super().__init__(sublayers)
        self._seed = seed
        self._levels = dict(zip(sublayers, levels, strict=True))
        self._weights = dict(zip(sublayers, weights.unbind(), strict=True))
        self._before = before
        self._values: dict[str, Tensor] = {}
        self._places: dict[str, Place] = {}

    @property
    def store(self) -> SoftStore:
        """What is kept after this evaluation."""
        return SoftStore(dict(self._values), dict(self._places))

    def output(self, name: str, grid: AnyGrid, x: Tensor, compute: Compute) -> tuple[Tensor, ...]:
        """The sub-layer's output for tokens x (B, N, D) of ``grid``: see the module.

        ``ValueError`` for a sub-layer of several outputs, which no model of this package has.
        """
        new = compute(None)
        if not isinstance(new, Tensor):
            raise ValueError(f"the sub-layer {name} gives {len(new)} tensors; plans are learned for those of one")
        like = x.shape, x.dtype, x.device, grid
        level, place = self._levels[name], self._before.places.get(name)
        if place is None or place.like != like:
            if level != FULL:
                self.forced.append(name)
            self.done[name] = FULL
            return (self._keep(name, new, Place(like)),)
        self.done[name] = level
        tokens = new.shape[1]
        weights = self._weights[name]
        mask = (weights @ below(grid, self._seed, place.position, tokens, x.device).to(weights)).to(new.dtype)
        moves = NONE < level < FULL and tokens == x.shape[1]  # a Poolingformer's one token has no queue
        after = (place.position + rows_at(level, tokens)) % tokens if moves else place.position
        mixed = torch.lerp(self._before.values[name], new, mask[:, None])  # exact where the mask is 0 or 1
        return (self._keep(name, mixed, Place(like, after)),)

    def _keep(self, name: str, value: Tensor, place: Place) -> Tensor:
        self._values[name], self._places[name] = value, place
        return value


def below(grid: AnyGrid, seed: int, position: int, tokens: int, device: torch.device) -> Tensor:
    """(levels, tokens) float32: 1 where a level takes the token, the queue having come to ``position``.

    ``tokens`` other than those of ``grid`` are one result for all of them, taken at every level above 0.
    """
    counts = torch.tensor([rows_at(level, tokens) for level in range(len(LEVELS))], device=device)
    rank = torch.zeros(tokens, dtype=torch.int64, device=device)
    order = queue(grid, seed).to(device)
    if len(order) == tokens:
        rank[order] = (torch.arange(tokens, device=device) - position) % tokens
    return (rank < counts[:, None]).float()


def straight_through(costs: Tensor, chosen: Tensor, tau: float) -> Tensor:
    """onehot(chosen) + p - detach(p) with p the softmax of ``-costs / tau`` over the last axis.

    ``costs`` (..., levels), infinite where a level may not be taken; ``chosen`` (...) int64 levels. The value is the
    choice exactly, the gradient that of p.
    """
    p = torch.softmax(-costs / tau, dim=-1)
    hot = torch.nn.functional.one_hot(chosen, costs.shape[-1]).to(p.dtype)
    return hot + (p - p.detach())  # the bracket is exactly 0
