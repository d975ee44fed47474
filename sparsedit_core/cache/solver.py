"""The best plan within a budget of MACs: one level for every step and sub-layer, the least harm in sum.

A multiple-choice knapsack. Its Lagrangian dual is solved exactly by sorting: on every item's convex frontier of cost
and harm each step has a slope, harm avoided per MAC, and the steepest ones of all items are taken until the budget
is met. That gives a lower bound, and with what is left spent greedily a solution close to it (:func:`allocate_fast`).
:func:`allocate` goes on: levels that the bound rules out are dropped, the rest is solved by dynamic programming.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .costs import Costs
from .plan import FULL, LEVELS, NONE, CachePlan, Selector

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

ROUNDING = 1e-12
"""Sums of harm that differ by less than this part of their terms are the same number."""
KINDS = ("self", "cross", "mlp", "all")


@dataclass(frozen=True, eq=False)
class Allocation:
    """What a solver found.

    ``choices``  [item] the level taken
    ``value``    sum of harm
    ``spent``    MACs, never above the budget
    ``bound``    no choice within the budget does less harm than this: the optimum of the Lagrangian dual
    ``exact``    ``value`` is known to be the least possible
    """

    choices: Ints
    value: float
    spent: int
    bound: float
    exact: bool

    @property
    def gap(self) -> float:
        """By how much ``value`` may be above the least possible, at most."""
        return self.value - self.bound


def allocate(
    harm: ArrayLike, costs: ArrayLike, budget: int, *, allowed: ArrayLike | None = None, cells: int = 20_000
) -> Allocation:
    """The choice of one level for each item that does the least harm within ``budget``.

    ``harm``     [item, level] finite numbers of any sign
    ``costs``    [item, level] whole numbers from 0: MACs
    ``allowed``  [item, level] the levels that an item may take, all by default
    ``cells``    length of the budget's axis. Costs are counted in their greatest common divisor; where the axis would
                 be longer than this they are rounded up to a larger unit, so the budget holds but the result may miss
                 the optimum by ``gap``

    ``ValueError`` for a budget that nothing meets, and for bad shapes and values.
    """
    problem = _Problem(harm, costs, budget, allowed)
    return problem.solved(cells)


def allocate_fast(harm: ArrayLike, costs: ArrayLike, budget: int, *, allowed: ArrayLike | None = None) -> Allocation:
    """As :func:`allocate` without the dynamic programming: milliseconds, and a ``gap`` of about one item's harm."""
    return _Problem(harm, costs, budget, allowed).relaxed()[0]


def solve_plan(
    harm: ArrayLike,
    costs: Costs,
    times: Sequence[float],
    *,
    family: str,
    budget: float,
    whole: Sequence[str] = ("self",),
    fast: bool = False,
    selector: Selector = "age",
    seed: int = 0,
    shared: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> tuple[CachePlan, Allocation]:
    """The plan of least harm that takes no more than ``budget``, a share of the MACs of a dense sampling.

    ``harm``   [step, sub-layer, level]; the first step is always full and its harm ignored. Harm adds up: for one that
               depends on what the steps before did, see :func:`.aged.solve_aged`
    ``whole``  kinds of sub-layers (``"self"``, ``"cross"``, ``"mlp"``, ``"all"``) that recompute all tokens or none
    ``fast``   :func:`allocate_fast` instead of :func:`allocate`

    The items of the allocation are the sub-layers of the second step, those of the third and so on; its numbers leave
    out the first step and ``costs.outside``. ``ValueError`` for a budget below what these two cost.
    """
    table = np.asarray(harm, np.float64)
    shape = (len(times), len(costs.sublayers), len(LEVELS))
    if table.shape != shape:
        raise ValueError(f"the harm has shape {table.shape}; expected {shape}: steps, sub-layers, levels")
    later = len(times) - 1
    items = table[1:].reshape(-1, len(LEVELS))
    macs, mask = (np.tile(part, (later, 1)) for part in (np.array(costs.macs), allowed_levels(costs.sublayers, whole)))
    room = spendable(costs, len(times), budget)
    found = (allocate_fast if fast else allocate)(items, macs, room, allowed=mask)
    rows = ((FULL,) * shape[1], *map(tuple, found.choices.reshape(later, shape[1]).tolist()))
    plan = CachePlan(
        family, tuple(times), costs.sublayers, rows, budget, selector, seed, shared, dict(provenance or {})
    )
    return plan, found


def spendable(costs: Costs, steps: int, budget: float) -> int:
    """MACs that sub-layers may take after the first step so that the sampling stays within ``budget``.

    ``ValueError`` below what the first step and everything outside the sub-layers take.
    """
    if not 0.0 < budget <= 1.0:
        raise ValueError(f"the budget is {budget!r}; give a share of the dense MACs above 0, at most 1")
    fixed, dense = costs.dense + (steps - 1) * costs.at([NONE] * len(costs.sublayers)), steps * costs.dense
    total = math.floor(Fraction(budget) * dense)
    total += (total + 1) / dense <= budget  # 1 / 3 is a little less than a third, but all of it was meant
    room = total - fixed
    if room < 0:
        least = math.ceil(1e4 * fixed / dense) / 1e4
        raise ValueError(
            f"a budget of {budget:.2%} is less than the first of {steps} steps and what every step computes outside "
            f"the sub-layers; give at least {least:.2%}, or sample more steps"
        )
    return room + (steps - 1) * sum(row[NONE] for row in costs.macs)


def allowed_levels(sublayers: Sequence[str], whole: Sequence[str]) -> Bools:
    """[sub-layer, level] which levels may be taken: all, or none and full for the kinds named in ``whole``."""
    kinds = [name.rpartition(".")[2] for name in sublayers]
    unknown = sorted(set(whole) - {*KINDS, *kinds})
    if unknown or isinstance(whole, str):
        raise ValueError(f"whole names the kinds {unknown or whole!r}; give a list out of {sorted({*KINDS, *kinds})}")
    partly = np.array([kind not in whole and "all" not in whole for kind in kinds])
    ends = np.isin(np.arange(len(LEVELS)), (NONE, FULL))
    return partly[:, None] | ends


class _Problem:
    """A checked knapsack; ``weights`` are the costs above each item's cheapest allowed level, ``room`` what is left."""

    def __init__(self, harm: ArrayLike, costs: ArrayLike, budget: int, allowed: ArrayLike | None) -> None:
        values, weights = np.asarray(harm, np.float64), np.asarray(costs)
        self.allowed: Bools = np.ones(values.shape, bool) if allowed is None else np.asarray(allowed)
        if values.ndim != 2 or not values.shape == weights.shape == self.allowed.shape or not values.shape[1] <= 256:
            raise ValueError(
                f"harm, costs and allowed have the shapes {values.shape}, {weights.shape} and {self.allowed.shape}; "
                "expected the same [item, level], at most 256 levels"
            )
        if self.allowed.dtype != bool or not self.allowed.any(axis=1).all():
            raise ValueError("allowed is no table of true and false, or leaves an item without a level; allow one each")
        if not np.isfinite(values[self.allowed]).all():
            raise ValueError("the harm holds NaN or infinite numbers; give finite ones for all allowed levels")
        if weights.dtype.kind not in "iu" or (weights < 0).any() or weights.max(axis=1).sum(dtype=float) >= 2.0**62:
            raise ValueError("the costs are no whole numbers from 0 with a sum below 2**62; give MACs as integers")
        self.harm: Floats = np.where(self.allowed, values, np.inf)
        self.costs: Ints = weights.astype(np.int64)
        cheapest = np.where(self.allowed, self.costs, np.iinfo(np.int64).max).min(axis=1)
        self.weights: Ints = np.where(self.allowed, self.costs - cheapest[:, None], 0)
        if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or budget < cheapest.sum():
            raise ValueError(f"the budget is {budget!r} MACs; give a whole number, at least {int(cheapest.sum())}")
        self.room = int(budget) - int(cheapest.sum())
        self.items = np.arange(len(values))
        self.noise = ROUNDING * float(np.abs(values[self.allowed]).max(initial=0.0)) * max(len(values), 1)

    def relaxed(self) -> tuple[Allocation, float]:
        """The dual's optimum, filled up greedily, and its multiplier: harm per MAC."""
        path, slopes, extra = self._frontier()
        order = np.argsort(-slopes.ravel(), kind="stable")  # an item's own steps keep their order
        total = np.cumsum(extra.ravel()[order])
        taken = int(np.searchsorted(total, self.room, side="right"))
        multiplier = float(slopes.ravel()[order[taken]]) if taken < len(order) else 0.0
        steps = np.bincount(order[:taken] // max(slopes.shape[1], 1), minlength=len(self.items))
        choices = path[self.items, steps]
        spare = self.room - (int(total[taken - 1]) if taken else 0)
        bound = float(self.harm[self.items, choices].sum()) - multiplier * spare
        return self._result(self._filled(choices), bound), multiplier

    def solved(self, cells: int) -> Allocation:
        """The optimum, unless costs had to be rounded."""
        if isinstance(cells, bool) or not isinstance(cells, int) or cells < 2:
            raise ValueError(f"the budget's axis has {cells!r} cells; give a whole number of at least 2")
        first, multiplier = self.relaxed()
        if first.exact:
            return first
        kept = self._promising(first, multiplier)
        core = np.flatnonzero(kept.sum(axis=1) > 1)
        choices = kept.argmax(axis=1)
        fixed = int(self.weights[self.items, choices].sum()) - int(self.weights[core, choices[core]].sum())
        choices[core], rounded = _knapsack(
            self.harm[core] - self.harm[core, first.choices[core], None], self.weights[core], kept[core],
            self.room - fixed, cells,
        )
        second = self._result(self._filled(choices) if rounded else choices, first.bound, not rounded)
        return second if not rounded or second.value < first.value else first

    def _frontier(self) -> tuple[Ints, Floats, Ints]:
        """The levels on each item's lower convex frontier from the cheapest on, [item, corner]; harm avoided per MAC
        and MACs of each step between them, both 0 after the last."""
        at = np.where(self.allowed & (self.weights == 0), self.harm, np.inf).argmin(axis=1)
        corners, slopes, extra = [at], list[Floats](), list[Ints]()
        for _ in range(self.harm.shape[1] - 1):
            more = self.weights - self.weights[self.items, at, None]
            fewer = self.harm[self.items, at, None] - self.harm
            slope = np.where((more > 0) & (fewer > 0), fewer / np.maximum(more, 1), 0.0)
            best = slope.max(axis=1)
            farthest = np.where((slope == best[:, None]) & (slope > 0), more, 0).argmax(axis=1)
            at = np.where(best > 0, farthest, at)
            extra.append(np.where(best > 0, more[self.items, at], 0))
            slopes.append(np.minimum(best, slopes[-1]) if slopes else best)
            corners.append(at)
        shape = (len(self.items), 0)
        return (
            np.stack(corners, axis=1),
            np.stack(slopes, axis=1) if slopes else np.zeros(shape),
            np.stack(extra, axis=1) if extra else np.zeros(shape, np.int64),
        )

    def _filled(self, choices: Ints) -> Ints:
        """What is left of the room spent on the changes that avoid the most harm per MAC."""
        choices = choices.copy()
        while True:
            left = self.room - int(self.weights[self.items, choices].sum())
            more = self.weights - self.weights[self.items, choices, None]
            fewer = self.harm[self.items, choices, None] - self.harm
            rate = np.where((fewer > 0) & (more <= left), fewer / np.maximum(more, 1), 0.0)
            level = rate.argmax(axis=1)
            best = rate[self.items, level]
            order = np.argsort(-best, kind="stable")[: int((best > 0).sum())]
            if not len(order):
                return choices
            fitting = int(np.searchsorted(np.cumsum(np.maximum(more[order, level[order]], 0)), left, side="right"))
            choices[order[:fitting]] = level[order[:fitting]]

    def _promising(self, known: Allocation, multiplier: float) -> Bools:
        """Levels that a better choice than ``known`` may hold: not ruled out by the bound, not beaten by another."""
        priced = self.harm + multiplier * self.weights
        reduced = priced - priced.min(axis=1, keepdims=True)
        kept: Bools = self.allowed & (known.bound + reduced <= known.value + self.noise)
        kept[self.items, known.choices] = True
        for level in range(kept.shape[1]):  # one after the other, so that of equal ones the last is left
            harm, weight = self.harm[:, level, None], self.weights[:, level, None]
            beaten = kept & (self.harm <= harm) & (self.weights <= weight)
            beaten[:, level] = False
            kept[:, level] &= ~beaten.any(axis=1)
        return kept

    def _result(self, choices: Ints, bound: float, exact: bool = False) -> Allocation:
        value = float(self.harm[self.items, choices].sum())
        bound = min(bound, value)
        spent = int(self.costs[self.items, choices].sum())
        return Allocation(choices, value, spent, bound, exact or value - bound <= self.noise)


def _knapsack(harm: Floats, weights: Ints, kept: Bools, room: int, cells: int) -> tuple[Ints, bool]:
    """Dynamic programming over the budget's axis: the choices, and whether costs were rounded up to fit ``cells``."""
    least = np.where(kept, weights, np.iinfo(np.int64).max).min(axis=1)
    weights = np.where(kept, weights - least[:, None], 0)
    room = min(room - int(least.sum()), int(weights.max(axis=1).sum()))
    unit = max(int(np.gcd.reduce(weights, axis=None)), 1)
    rounded = room // unit >= cells
    if rounded:
        unit *= -(-(room // unit) // (cells - 1))
    weights, room = -(-weights // unit), room // unit
    best, table = np.zeros(room + 1), np.zeros((len(harm), room + 1), np.uint8)
    for values, sizes, levels, row in zip(harm, weights, kept, table, strict=True):
        order = sorted(np.flatnonzero(levels).tolist(), key=lambda level: sizes[level])
        new = best + values[order[0]]  # the cheapest weighs nothing
        row.fill(order[0])
        for level in order[1:]:
            size = int(sizes[level])
            if size > room:
                break
            other = best[: room + 1 - size] + values[level]
            better = other < new[size:]
            np.copyto(new[size:], other, where=better)
            np.copyto(row[size:], level, where=better)
        best = new
    choices = np.zeros(len(harm), np.int64)
    for item in range(len(harm) - 1, -1, -1):
        choices[item] = table[item, room]
        room -= int(weights[item, choices[item]])
    return choices, rounded
