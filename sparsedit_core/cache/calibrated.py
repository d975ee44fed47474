"""From a calibration to a plan: how much an error counts by time and depth, and trials that settle it.

An error early in the sampling changes what is drawn, one at the end a few pixels: what a measured change does to the
picture cannot be read off the change alone. So it is weighed by ``(time + 0.05) ** power * exp(slope * depth)``, and
a few weightings (:data:`WEIGHTINGS`) are tried: the user's own runs are repeated under the plan of each, and the one
whose results come closest to the dense ones is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from .aged import solve_aged
from .calibrate import Calibration, Calibrator
from .costs import Costs
from .plan import LEVELS, CachePlan, Selector
from .solver import Allocation

_EQUAL = 1e-12  # mean squared error of samples that are the same
FIRST_TIME = 0.05  # added to the time: at 0 an error still counts


@dataclass(frozen=True)
class Weighting:
    """How an error counts: with the ``power`` of diffusion time, and e to the ``slope`` from first block to last."""

    power: float = 1.0
    slope: float = 0.0

    def of(self, times: Sequence[float], count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Weights (steps, sub-layers)."""
        time = (np.asarray(times, dtype=np.float64) + FIRST_TIME) ** self.power
        depth = np.linspace(-0.5, 0.5, count) if count > 1 else np.zeros(1)
        weights: np.ndarray[Any, np.dtype[np.float64]] = time[:, None] * np.exp(self.slope * depth)
        return weights


WEIGHTINGS = (
    Weighting(),
    Weighting(2.0, -1.0),
    Weighting(0.0, 0.0),
    Weighting(1.5, 0.0),
    Weighting(0.5, -1.0),
    Weighting(1.0, -1.0),
    Weighting(2.0, 0.0),
    Weighting(3.0, -1.0),
)
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Choices:
    """What is asked of a plan beside its budget: see :class:`.plan.CachePlan`.

    ``whole`` are the kinds of sub-layers that recompute all tokens or none, ``("all",)`` all of them.
    """

    whole: tuple[str, ...] = ("all",)
    selector: Selector = "age"
    seed: int = 0
    shared: bool = True


def calibrated_plan(
    calibration: Calibration,
    costs: Costs,
    budget: float,
    choices: Choices | None = None,
    weighting: Weighting | None = None,
) -> tuple[CachePlan, Allocation]:
    """The plan of least weighed change within ``budget``, a share of the dense MACs; it carries its calibration.

    ``ValueError`` for a budget below what must be computed.
    """
    choices, weighting = choices or Choices(), weighting or Weighting()
    steps, count = len(calibration.times), len(calibration.sublayers)
    weights = weighting.of(calibration.times, count)
    # the queue refreshes tokens whatever their change; the others go after it
    left = np.tile(1.0 - np.asarray(LEVELS), (count, 1)) if choices.selector == "age" else calibration.left
    assert weights.shape == (steps, count)
    return solve_aged(
        calibration.change * weights[:, :, None],
        left,
        costs,
        calibration.times,
        family=calibration.family,
        budget=budget,
        whole=choices.whole,
        selector=choices.selector,
        seed=choices.seed,
        shared=choices.shared,
        provenance={
            "made_by": "calibrate",
            "calibration": calibration_json(calibration),
            "weighting": asdict(weighting),
            "whole": list(choices.whole),
        },
    )


def tried_plan(
    calibration: Calibration,
    costs: Costs,
    budget: float,
    run: Callable[[CachePlan], Tensor],
    reference: Tensor,
    *,
    choices: Choices | None = None,
    trials: int = len(WEIGHTINGS),
) -> CachePlan:
    """The best plan of the first ``trials`` weightings: ``run`` samples under a plan, ``reference`` is what the dense
    model made of the same noise.

    The provenance tells the :func:`typical_error` of every trial.
    """
    found: list[tuple[float, CachePlan]] = []
    errors: list[dict[str, float]] = []
    seen: set[str] = set()
    for weighting in WEIGHTINGS[: max(trials, 1)]:
        plan, _ = calibrated_plan(calibration, costs, budget, choices, weighting)
        if trials < 2:
            return plan
        if plan.hash in seen:
            continue
        seen.add(plan.hash)
        error = typical_error(run(plan), reference)
        errors.append({**asdict(weighting), "error": error})
        found.append((error, plan))
    best = min(found, key=lambda each: each[0])[1]
    return replace(best, provenance={**best.provenance, "trials": errors})


def typical_error(samples: Tensor, reference: Tensor) -> float:
    """The mean squared error of each of the samples (B, ...), and of these the geometric mean.

    Not their mean: of a few samples the one that came out as another picture would decide alone.
    """
    errors = (samples - reference).double().square().flatten(1).mean(dim=1)
    return float(errors.clamp_min(_EQUAL).log().mean().exp())


def calibrate(
    calibrator: Calibrator,
    costs: Costs,
    budget: float,
    run: Callable[[CachePlan | Calibrator], Tensor],
    *,
    choices: Choices | None = None,
    trials: int = len(WEIGHTINGS),
) -> CachePlan:
    """Measure one dense run and give the best of the plans that are tried: ``run`` samples under either."""
    reference = run(calibrator)
    return tried_plan(calibrator.calibration(), costs, budget, run, reference, choices=choices, trials=trials)


def with_budget(plan: CachePlan, costs: Costs, budget: float) -> CachePlan:
    """A calibrated plan solved again for another budget, with the weighting that its trials chose.

    ``ValueError`` for a plan that carries no calibration.
    """
    if not carries_calibration(plan):
        raise ValueError(
            "the plan carries no calibration, so it cannot be solved for another budget; take a calibrated plan, or "
            "keep the plan's own budget"
        )
    choices = Choices(tuple(plan.provenance["whole"]), plan.selector, plan.seed, plan.shared)
    weighting = Weighting(**plan.provenance["weighting"])
    kept = calibration_from_json(plan.provenance["calibration"], plan)
    again, _ = calibrated_plan(kept, costs, budget, choices, weighting)
    return replace(again, provenance={**plan.provenance, "solved_again": True})


def carries_calibration(plan: CachePlan) -> bool:
    """Whether a plan can be solved for another budget."""
    return isinstance(plan.provenance.get("calibration"), Mapping)


def calibration_json(calibration: Calibration) -> dict[str, Any]:
    """Plain values; what a plan holds already (times, sub-layers) is left out. Six digits, NaN as ``None``."""
    change = [[[_plain(value) for value in ages] for ages in row] for row in calibration.change.tolist()]
    left = [[_plain(value) for value in row] for row in calibration.left.tolist()]
    return {"change": change, "left": left, "pictures": calibration.pictures}


def calibration_from_json(data: Mapping[str, Any], plan: CachePlan) -> Calibration:
    """The calibration that a plan carries; ``ValueError`` for other shapes."""
    try:
        change = np.array(data["change"], dtype=np.float64)
        left = np.array(data["left"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the plan's calibration cannot be read ({error}); calibrate again") from error
    expected = len(plan.times), len(plan.sublayers)
    if change.ndim != 3 or change.shape[:2] != expected or left.shape != (expected[1], len(LEVELS)):
        raise ValueError(
            f"the plan's calibration has the shapes {change.shape} and {left.shape}, expected {expected} with ages and "
            f"{(expected[1], len(LEVELS))}; calibrate again"
        )
    return Calibration(plan.family, plan.sublayers, plan.times, change, left, int(data.get("pictures", 0)))


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{value:.6g}")
