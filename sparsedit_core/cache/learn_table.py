"""The table of costs that is learned, and the choice it stands for: always within the budget (PAPERS 2).

Costs C are free numbers of every (step after the first, sub-layer, level); lower is better. The choice is the exact
solution of the knapsack over them (:func:`.solver.allocate`), solved again in every iteration. In the paper's first
stage a second table says which steps are full; :meth:`CostTable.merge` then dissolves it into the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .costs import Costs
from .learn_visit import straight_through
from .plan import FULL, LEVELS, CachePlan
from .solver import Bools, Ints, allocate, allowed_levels, spendable

CELLS = 4000
"""Length of the solver's axis: rounded costs keep the budget, and the table is not known to better than this."""
SPREAD = 0.05
"""Cost by which evenly spaced steps are preferred as full ones before anything is learned."""


@dataclass(frozen=True, eq=False)
class Choice:
    """``levels`` [step][sub-layer] by index, the first step full, and ``weights``: y of every step (sub-layers,
    levels), whose gradient is that of the tables."""

    levels: tuple[tuple[int, ...], ...]
    weights: tuple[Tensor, ...]


class CostTable:
    """Costs ``layers`` (steps - 1, sub-layers, levels) and, while ``full_steps`` is not 0, ``steps`` (steps - 1,
    levels none and full), both float32 that require gradients.

    ``full_steps`` after the first are computed whole in the first stage. ``ValueError`` where the budget does not hold
    them, and for what :func:`.solver.spendable` and :func:`.solver.allowed_levels` refuse.
    """

    def __init__(
        self, costs: Costs, steps: int, budget: float, whole: Sequence[str], *, full_steps: int = 0, tau: float = 1.0
    ) -> None:
        if steps < 2:
            raise ValueError(f"the sampling has {steps} step; the first is always full, so give 2 or more")
        self.costs, self.tau, self.full_steps = costs, tau, full_steps
        self.room = spendable(costs, steps, budget)
        self.allowed: Bools = np.tile(allowed_levels(costs.sublayers, whole), (steps - 1, 1, 1))
        self.macs = np.array(costs.macs, np.int64)
        whole_steps = full_steps * int(self.macs[:, FULL].sum())
        if not 0 <= full_steps < steps or whole_steps > self.room:
            most = min(steps - 1, self.room // int(self.macs[:, FULL].sum()))
            raise ValueError(
                f"{full_steps} full steps beside the first do not fit {steps} steps at a budget of {budget:.0%}; give "
                f"0 .. {most}"
            )
        forbidden = torch.from_numpy(np.where(self.allowed, 0.0, np.inf)).float()
        self._forbidden = forbidden
        self.layers = torch.zeros_like(forbidden).requires_grad_()
        steps_table = torch.zeros(steps - 1, 2)
        if full_steps:
            evenly = np.linspace(0, steps, full_steps + 2)[1:-1].round().astype(int) - 1
            steps_table[evenly, 1] = -SPREAD
        self.steps = steps_table.requires_grad_()

    def choose(self) -> Choice:
        """The best levels within the budget by the tables as they are now."""
        table = self._table()
        if not self.full_steps:
            chosen = self._solved(self.allowed)
            weights = straight_through(table, torch.from_numpy(chosen), self.tau)
            return self._choice(chosen, weights)
        full = self._full()
        allowed = self.allowed.copy()
        allowed[full] = False
        allowed[full, :, FULL] = True
        chosen = self._solved(allowed)
        others = np.where(full[:, None], table.detach().argmin(dim=-1).numpy(), chosen)  # what full steps are instead
        soft = straight_through(table, torch.from_numpy(others), self.tau)
        is_full = straight_through(self.steps, torch.from_numpy(full.astype(np.int64)), self.tau)[:, 1, None, None]
        one = torch.nn.functional.one_hot(torch.tensor(FULL), len(LEVELS)).float()
        return self._choice(chosen, is_full * one + (1 - is_full) * soft)

    def merge(self, delta: float) -> None:
        """End the first stage: ``delta`` off the full level of the chosen full steps, and one table from here on."""
        full = torch.from_numpy(self._full())
        with torch.no_grad():
            self.layers[full, :, FULL] -= delta
        self.full_steps = 0

    def begin(self, levels: Sequence[Sequence[int]], margin: float) -> None:
        """Set the costs so that the choice is ``levels`` [step][sub-layer], as far as allowed and within the budget.

        At a price of 1 for the MACs of a mean sub-layer every other level is ``margin`` worse than the chosen one:
        that much has to be learned before it is taken instead. What the levels leave of the budget is spent too.
        """
        chosen = np.array(levels, np.int64)[1:, :, None]
        chosen = np.where(np.take_along_axis(self.allowed, chosen, axis=2), chosen, FULL)
        behind = np.full(self.allowed.shape, margin)
        np.put_along_axis(behind, chosen, 0.0, axis=2)
        with torch.no_grad():
            self.layers.copy_(torch.from_numpy(behind - self.macs / self.macs[:, FULL].mean()))

    def _table(self) -> Tensor:
        return self.layers + self._forbidden

    def _full(self) -> Bools:
        """Which steps after the first are full: the cheapest by the step table."""
        gain = (self.steps[:, 1] - self.steps[:, 0]).detach().numpy()
        full = np.zeros(len(gain), bool)
        full[np.argsort(gain, kind="stable")[: self.full_steps]] = True
        return full

    def _solved(self, allowed: Bools) -> Ints:
        items = self.layers.detach().double().numpy().reshape(-1, len(LEVELS))
        macs = np.tile(self.macs, (len(self.layers), 1))
        found = allocate(items, macs, self.room, allowed=allowed.reshape(macs.shape), cells=CELLS)
        return found.choices.reshape(self.layers.shape[:2])

    def _choice(self, chosen: Ints, weights: Tensor) -> Choice:
        first = torch.zeros_like(weights[0])
        first[:, FULL] = 1.0
        rows = ((FULL,) * chosen.shape[1], *map(tuple, chosen.tolist()))
        return Choice(rows, (first, *weights.unbind()))


def levels_for(plan: CachePlan, times: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """The plan's levels at other ``times``, the first step full."""
    return ((FULL,) * len(plan.sublayers), *(plan.row(time) for time in times[1:]))
