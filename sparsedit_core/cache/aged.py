"""The best plan when the harm of reuse grows with the age of what is reused: each sub-layer's steps hang together.

The state of a sub-layer is the mean age of its kept output in evaluations, in quarters: 0 after a full computation,
and after a step at share s of what was ``age`` old before, ``(1 - s) * (age + 1)``. For a given price of a MAC its
best levels are a shortest path over steps and ages, found exactly for all sub-layers at once. The price is the one at
which the Lagrangian dual is largest; between the two plans that share it, and beyond, what is left of the budget is
spent greedily.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .costs import Costs
from .plan import FULL, LEVELS, NONE, CachePlan, Selector
from .solver import ROUNDING, Allocation, Bools, Floats, Ints, allowed_levels, spendable

OLDEST = 12
"""Age in evaluations from which on harm grows no more."""
PARTS = 4
"""Ages are told apart by this part of an evaluation."""
ROUNDS = 200
"""More prices than this are never tried; a few dozen were always enough."""


def solve_aged(
    change: ArrayLike,
    left: ArrayLike,
    costs: Costs,
    times: Sequence[float],
    *,
    family: str,
    budget: float,
    whole: Sequence[str] = ("self",),
    selector: Selector = "age",
    seed: int = 0,
    shared: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> tuple[CachePlan, Allocation]:
    """The plan of least measured harm that takes no more than ``budget``, a share of the MACs of a dense sampling.

    ``change``  [step, sub-layer, age - 1] the harm at that step if all tokens reuse an output 1, 2 .. evaluations old,
                not negative; the first step is always full and its values ignored. NaN where it was not measured: it
                is then that of the next smaller age, in proportion to age, and so are ages beyond the last one up to
                :data:`OLDEST`. A sub-layer with nothing measured at a step is computed in full there
    ``left``    [sub-layer, level] or [step, sub-layer, level] the share of that harm that remains when the level's
                share of tokens is refreshed: 1 at level 0, 0 at full
    ``whole``   kinds of sub-layers that recompute all tokens or none, as in :func:`.solver.solve_plan`

    Ages between whole ones are interpolated, and rounded to quarters when the state moves on. The allocation's
    ``value`` is the harm of the plan by these rules, ``bound`` what no plan can go below. ``ValueError`` for a budget
    below what must be computed, and for bad shapes and values.
    """
    steps, count = len(times), len(costs.sublayers)
    harm, measured = _by_age(change, steps, count)
    allowed = np.tile(allowed_levels(costs.sublayers, whole), (steps, 1, 1))
    allowed[~measured, :FULL] = False
    room = spendable(costs, steps, budget)
    walks = _Walks(harm[1:], _shares(left, steps, count)[1:], np.array(costs.macs, np.int64), allowed[1:])
    found = walks.within(room) if steps > 1 else Allocation(np.zeros(0, np.int64), 0.0, 0, 0.0, True)
    rows = ((FULL,) * count, *map(tuple, found.choices.reshape(steps - 1, count).tolist()))
    plan = CachePlan(
        family, tuple(times), costs.sublayers, rows, budget, selector, seed, shared, dict(provenance or {})
    )
    return plan, found


@dataclass(frozen=True, eq=False)
class _Found:
    """Levels [step, sub-layer] with the harm and the MACs of every sub-layer over all steps."""

    levels: Ints
    harm: Floats
    macs: Ints

    @property
    def total(self) -> tuple[float, int]:
        return float(self.harm.sum()), int(self.macs.sum())


class _Walks:
    """All sub-layers' ways through the steps after the first.

    ``harm`` [step, sub-layer, age] of reusing everything, ``left`` [step, sub-layer, level] what a level leaves of it,
    ``macs`` [sub-layer, level], ``allowed`` [step, sub-layer, level].
    """

    def __init__(self, harm: Floats, left: Floats, macs: Ints, allowed: Bools) -> None:
        self.macs, self.allowed = macs, allowed
        self.steps, self.count, states = harm.shape
        self.harm: Floats = harm[:, :, None] * left[..., None]  # [step, sub-layer, level, age]
        self.noise = ROUNDING * float(np.abs(self.harm).max(initial=0.0)) * max(self.steps * self.count, 1)
        level, age = np.arange(len(LEVELS))[:, None], np.arange(states) + PARTS
        self.after: Ints = np.minimum((2 * (FULL - level) * age + FULL) // (2 * FULL), states - 1)  # [level, age]

    def within(self, room: int) -> Allocation:
        """The best levels found that take at most ``room`` MACs, and the dual's bound."""
        least = np.where(self.allowed, self.macs, np.iinfo(np.int64).max).argmin(axis=2)
        low, high = self._found(least), self._best(0.0)
        if low.total[1] > room:
            raise ValueError(
                f"the budget leaves {room} MACs, but {low.total[1]} are of sub-layers that must be computed in full, "
                "because nothing was measured for them; raise the budget"
            )
        if high.total[1] <= room:
            return self._result(high, high.total[0])
        bound = -np.inf
        for _ in range(ROUNDS):
            (cheap, few), (dear, many) = low.total, high.total
            price = (cheap - dear) / (many - few)
            found = self._best(price)
            value, macs = found.total
            bound = max(bound, value + price * (macs - room))
            if value + price * macs >= cheap + price * few - self.noise:
                break  # both are best at this price: no other gives a larger bound
            low, high = (found, high) if macs <= room else (low, found)
        return self._result(self._raised(self._mixed(low, high, room), room), bound)

    def _best(self, price: float) -> _Found:
        """Every sub-layer's least harm plus price of MACs, by going backwards through steps and ages."""
        states = self.harm.shape[-1]
        ahead = np.zeros((self.count, states))
        take = np.zeros((self.steps, self.count, states), np.int64)
        priced = np.where(self.allowed, price * self.macs, np.inf)
        for step in range(self.steps - 1, -1, -1):
            best = np.full_like(ahead, np.inf)
            for level in range(len(LEVELS)):
                total = self.harm[step, :, level] + ahead[:, self.after[level]] + priced[step, :, level, None]
                better = total < best
                np.copyto(best, total, where=better)
                np.copyto(take[step], level, where=better)
            ahead = best
        items, age = np.arange(self.count), np.zeros(self.count, np.int64)
        levels = np.zeros((self.steps, self.count), np.int64)
        for step in range(self.steps):
            levels[step] = take[step, items, age]
            age = self.after[levels[step], age]
        return self._found(levels)

    def _found(self, levels: Ints) -> _Found:
        items = np.arange(self.count)
        return _Found(levels, self._walked(levels, items), self.macs[items, levels].sum(axis=0))

    def _walked(self, levels: Ints, items: Ints) -> Floats:
        """The harm of each column of levels [step, walk], walked by the sub-layer ``items`` names."""
        age, total = np.zeros(len(items), np.int64), np.zeros(len(items))
        for step, row in enumerate(levels):
            total += self.harm[step, items, row, age]
            age = self.after[row, age]
        return total

    def _mixed(self, low: _Found, high: _Found, room: int) -> _Found:
        """``low``, with as many sub-layers taken from ``high`` as fit, those first that gain most for their MACs."""
        gain, more = low.harm - high.harm, high.macs - low.macs
        left = room - low.total[1]
        levels = low.levels.copy()
        for item in np.argsort(-gain / np.maximum(more, 1), kind="stable"):
            if gain[item] > 0 and more[item] <= left:
                levels[:, item] = high.levels[:, item]
                left -= int(more[item])
        return self._found(levels)

    def _raised(self, found: _Found, room: int) -> _Found:
        """One step of one sub-layer after the other raised to a higher level while there is room and a gain."""
        levels = found.levels.copy()
        gain, more = self._raises(levels, np.arange(self.count))  # [sub-layer, step, level]
        left = room - found.total[1]
        while True:
            rate = np.where((gain > self.noise) & (more <= left), gain / np.maximum(more, 1), 0.0)
            item, step, level = np.unravel_index(rate.argmax(), rate.shape)
            if rate[item, step, level] <= 0:
                return self._found(levels)
            left -= int(more[item, step, level])
            levels[step, item] = level
            gain[item], more[item] = (part[0] for part in self._raises(levels, np.array([item])))

    def _raises(self, levels: Ints, items: Ints) -> tuple[Floats, Ints]:
        """What raising one step of a sub-layer's levels avoids in harm, none where it may not be, and its MACs."""
        shape = (len(items), self.steps, len(LEVELS))
        item, step, level = (axis.ravel() for axis in np.indices(shape))
        walks = levels[:, items[item]]
        walks[step, np.arange(len(step))] = level
        before = self._walked(levels[:, items], items)
        now = levels[step, items[item]]
        possible = (level > now) & self.allowed[step, items[item], level]
        gain = np.where(possible, before[item] - self._walked(walks, items[item]), 0.0)
        return gain.reshape(shape), (self.macs[items[item], level] - self.macs[items[item], now]).reshape(shape)

    def _result(self, found: _Found, bound: float) -> Allocation:
        value, macs = found.total
        bound = min(bound, value)
        return Allocation(found.levels.ravel(), value, macs, bound, value - bound <= self.noise)


def _by_age(change: ArrayLike, steps: int, count: int) -> tuple[Floats, Bools]:
    """Harm [step, sub-layer, age in parts from 1 on] and whether [step, sub-layer] was measured."""
    table = np.array(change, np.float64)
    if table.ndim != 3 or table.shape[:2] != (steps, count) or not 1 <= table.shape[2] <= OLDEST:
        raise ValueError(f"change has shape {table.shape}; expected ({steps}, {count}, 1..{OLDEST}): steps, "
                         "sub-layers, ages")
    table[0] = 0.0
    measured: Bools = np.asarray(~np.isnan(table).all(axis=2))
    if np.isnan(table[measured][:, 0]).any() or (table < 0).any() or np.isinf(table).any():
        raise ValueError("change is negative, infinite, or NaN at age 1 but not at all ages; give the harm of each age")
    table[~measured] = 0.0
    ages = [table[..., 0]]
    for age in range(2, max(min(OLDEST, steps - 1), 1) + 1):
        longer = ages[-1] * (age / (age - 1))
        known = table[..., age - 1] if age <= table.shape[2] else np.full_like(longer, np.nan)
        ages.append(np.where(np.isnan(known), longer, known))
    whole = np.stack(ages, axis=2)
    place = np.arange(PARTS * (len(ages) - 1) + 1)
    low, part = place // PARTS, place % PARTS / PARTS
    high = np.minimum(low + 1, len(ages) - 1)
    return whole[..., low] * (1 - part) + whole[..., high] * part, measured


def _shares(left: ArrayLike, steps: int, count: int) -> Floats:
    """[step, sub-layer, level] checked shares of harm that remain."""
    shares = np.array(left, np.float64)
    if shares.shape not in ((count, len(LEVELS)), (steps, count, len(LEVELS))):
        raise ValueError(f"left has shape {shares.shape}; expected ({count}, {len(LEVELS)}) or ({steps}, {count}, "
                         f"{len(LEVELS)}): steps, sub-layers, levels")
    shares = np.array(np.broadcast_to(shares, (steps, count, len(LEVELS))))
    ends = shares[1:, :, (NONE, FULL)]
    if not np.isfinite(shares[1:]).all() or (shares[1:] < -1e-6).any() or not np.allclose(ends, (1.0, 0.0), atol=1e-6):
        raise ValueError("left is negative, not finite, not 1 at level 0 or not 0 at full; give shares that remain")
    shares[..., NONE], shares[..., FULL] = 1.0, 0.0
    return shares.clip(min=0.0)
