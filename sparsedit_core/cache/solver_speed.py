"""How long the solvers take for models of real size, and how close they come, on random harm."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from .aged import solve_aged
from .costs import Costs
from .costs_flux import FluxShape, flux_costs
from .costs_wan import WanShape, wan_costs
from .plan import LEVELS
from .solver import solve_plan

FLUX_DEV = FluxShape(3072, 12288, 19, 38, 64, 64, 4096, 768, True)
"""FLUX.1-dev; schnell is the same without the embedded guidance."""
WAN_1B, WAN_14B = WanShape(1536, 8960, 30, 64, 64, 4096), WanShape(5120, 13824, 40, 64, 64, 4096)
"""Wan2.1 from text, of 1.3 and of 14 billion weights."""


@dataclass(frozen=True)
class RealCase:
    """A model at a size that people use, its steps, and the costs of one evaluation."""

    name: str
    steps: int
    costs: Costs


def real_cases() -> list[RealCase]:
    """FLUX at 1024 px, Wan at 832 x 480 and 33 or 81 frames."""
    flux = flux_costs(FLUX_DEV, (64, 64), 512)
    return [
        RealCase("FLUX-schnell 1024 px", 4, flux),
        RealCase("FLUX-dev 1024 px", 20, flux),
        RealCase("Wan2.1-1.3B 480p, 33 frames", 30, wan_costs(WAN_1B, 9 * 30 * 52)),
        RealCase("Wan2.1-14B 480p, 81 frames", 50, wan_costs(WAN_14B, 21 * 30 * 52)),
    ]


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
