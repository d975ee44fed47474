"""How long the solvers take for a model and a number of steps, and how close they come, on random harm."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from .aged import solve_aged
from .costs import Costs
from .plan import LEVELS
from .solver import solve_plan


@dataclass(frozen=True)
class SolverSpeed:
    """``gap`` is the allocation's as a share of its value, ``share`` the plan's MACs as a share of dense ones."""

    solver: str
    seconds: float
    gap: float
    exact: bool
    share: float


def solver_speed(costs: Costs, steps: int, budget: float = 0.5, seed: int = 0) -> list[SolverSpeed]:
    """Each solver once on a plan of ``steps`` steps: exact, fast, and by age.

    Harm falls with the level and is log-normal over steps and sub-layers; that by age grows with its square root.
    """
    random = np.random.default_rng(seed)
    shape = (steps, len(costs.sublayers))
    scale = random.lognormal(0.0, 1.0, (*shape, 1))
    harm = scale * np.sort(random.random((*shape, len(LEVELS))), axis=-1)[..., ::-1]
    change, left = scale * np.arange(1, 6) ** 0.5, np.tile(1.0 - np.array(LEVELS), (shape[1], 1))
    times = [1.0 - step / steps for step in range(steps)]
    found = []
    for solver in ("exact", "fast", "by age"):
        start = time.perf_counter()
        if solver == "by age":
            plan, result = solve_aged(change, left, costs, times, family="any", budget=budget)
        else:
            plan, result = solve_plan(harm, costs, times, family="any", budget=budget, fast=solver == "fast")
        seconds = time.perf_counter() - start
        gap = result.gap / result.value if result.value else 0.0
        found.append(SolverSpeed(solver, seconds, gap, result.exact, plan.share(costs.macs, costs.outside)))
    return found
