"""Plans by rule: nothing is measured or learned. They are what a calibrated or learned plan is compared with.

* ``uniform``: every step after the first has the same mix of two neighbouring levels. Which sub-layers have the higher
  one moves on by one from step to step, so that none is left out for good.
* ``fora``: everything is computed at every n-th step and reused in between (FORA, arXiv 2407.01425).
* ``toca``: as ``fora``, but in between the MLPs and the reading of the text are computed for a share of the tokens that
  depends on depth, time and kind as in ToCa (arXiv 2410.05317, PAPERS 2), self-attention is reused whole.

Ours: steps between full ones may alternate (interval 2.5: every second and third), so that plans of all budgets can be
had; shares are rounded to the nearest level; ToCa's shorter intervals towards the image are left out; and its factors
for FLUX hold for each stream from its first to its last block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .costs import Costs
from .plan import FULL, LEVELS, CachePlan
from .solver import Floats, Ints, spendable

NEAR = 0.01
"""A plan this close below its budget, as a share of the dense MACs, is close enough to keep ToCa's usual interval."""
SHARES = tuple(i / 100 for i in range(1, 101))
"""ToCa's shares that are tried."""


@dataclass(frozen=True)
class Factors:
    """What ToCa multiplies its share with: at the first and last step, at the first and last block, by kind.

    A kind that is not named is reused whole. ``interval`` is ToCa's usual one.
    """

    step: tuple[float, float]
    layer: tuple[float, float]
    kinds: Mapping[str, float]
    interval: int


DIT = Factors((0.6, 1.4), (1.8, 0.2), {"mlp": 2.5}, 4)
TEXT = Factors((1.9, 0.1), (1.6, 0.4), {"cross": 0.6, "mlp": 1.6}, 3)
"""Of PixArt, and of all models that read a text by cross-attention."""
FLUX = Factors((1.0, 1.0), (1.5, 0.5), {"mlp": 0.4, "block": 1.6}, 4)


def rule_plan(name: str, costs: Costs, times: Sequence[float], family: str, budget: float) -> CachePlan:
    """The plan of a rule (:data:`RULES`) that comes closest to ``budget``, a share of the dense MACs, from below.

    For ``toca`` the interval is the one nearest to ToCa's usual one that comes within :data:`NEAR`. The provenance
    holds the rule and its factors. ``ValueError`` for another name and for a budget that the first step exceeds.
    """
    if name not in RULES:
        raise ValueError(f"there is no rule {name!r}; choose one of {', '.join(RULES)}")
    return replace(RULES[name](costs, times, family, budget), budget=budget)


def uniform(costs: Costs, times: Sequence[float], *, family: str, budget: float) -> CachePlan:
    """The plan whose steps after the first are alike, as close to ``budget`` as they come without exceeding it.

    All sub-layers have the highest level that the budget allows them all; some, evenly spread over the depth and moving
    on by one from step to step, the next one.
    """
    count, later = len(costs.sublayers), len(times) - 1
    macs, room = np.array(costs.macs, np.int64), spendable(costs, len(times), budget)
    common = max(level for level in range(FULL + 1) if later * int(macs[:, level].sum()) <= room)
    levels = np.full((later, count), common)
    raised = 0
    if common < FULL:
        place = (np.arange(count) + np.arange(later)[:, None]) % count
        some = np.arange(count)[:, None, None]  # so many of the sub-layers are raised
        higher = (place + 1) * some // count - place * some // count  # [some, step, sub-layer] 1 where raised
        total = (higher * (macs[:, common + 1] - macs[:, common])).sum(axis=(1, 2)) + later * int(macs[:, common].sum())
        raised = int(np.where(total <= room, total, -1).argmax())
        levels = common + higher[raised]
    found = {"level": LEVELS[common], "raised": raised}
    return _plan(levels, costs, times, family, {"rule": "uniform", **found}, budget)


def fora(costs: Costs, times: Sequence[float], *, family: str, interval: float) -> CachePlan:
    """The plan that computes every ``interval``-th step in full, the first included, and reuses all in between.

    An interval may lie between whole numbers; ``ValueError`` below 1.
    """
    levels = np.where(_full_steps(len(times), interval)[1:, None], FULL, 0) + np.zeros(len(costs.sublayers), np.int64)
    return _plan(levels, costs, times, family, {"rule": "fora", "interval": interval})


def toca(costs: Costs, times: Sequence[float], *, family: str, interval: float, share: float) -> CachePlan:
    """The plan of :func:`fora` that recomputes ``share`` times ToCa's factors (:func:`factors_of`) in between.

    ``ValueError`` for an interval below 1 and a share that is not from 0 to 1.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"ToCa's share is {share!r}; give one of the tokens from 0 to 1")
    levels = _toca_levels(_toca_weights(costs.sublayers, len(times)), interval, share)
    return _plan(levels, costs, times, family, {"rule": "toca", "interval": interval, "share": share})


def factors_of(sublayers: Sequence[str]) -> Factors:
    """ToCa's factors for a model with these sub-layers."""
    kinds = {name.rpartition(".")[2] for name in sublayers}
    return FLUX if "block" in kinds else TEXT if "cross" in kinds else DIT


def _uniform_rule(costs: Costs, times: Sequence[float], family: str, budget: float) -> CachePlan:
    return uniform(costs, times, family=family, budget=budget)


def _fora_rule(costs: Costs, times: Sequence[float], family: str, budget: float) -> CachePlan:
    each = costs.dense - costs.outside
    full = min(1 + spendable(costs, len(times), budget) // max(each, 1), len(times))
    return fora(costs, times, family=family, interval=len(times) / full)


def _toca_rule(costs: Costs, times: Sequence[float], family: str, budget: float) -> CachePlan:
    room, dense = spendable(costs, len(times), budget), len(times) * costs.dense
    macs, items = np.array(costs.macs, np.int64), np.arange(len(costs.sublayers))
    weights, usual = _toca_weights(costs.sublayers, len(times)), factors_of(costs.sublayers).interval
    steps = len(times)
    intervals = [*range(2, steps + 1), *(steps / full for full in range(steps // 2 + 1, steps + 1))]
    best: tuple[float, float] = steps, 0.0  # at worst only the first step is full
    least = room
    for interval in sorted(intervals, key=lambda interval: (abs(interval - usual), interval)):
        for share in SHARES:
            spare = room - int(macs[items, _toca_levels(weights, interval, share)].sum())
            if 0 <= spare < least:
                best, least = (interval, share), spare
        if least <= NEAR * dense:
            break
    return toca(costs, times, family=family, interval=best[0], share=best[1])


RULES: Mapping[str, Callable[[Costs, Sequence[float], str, float], CachePlan]] = {
    "uniform": _uniform_rule,
    "fora": _fora_rule,
    "toca": _toca_rule,
}
"""The rules by name."""


def _full_steps(steps: int, interval: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """[step] whether everything is computed."""
    if not math.isfinite(interval) or interval < 1:
        raise ValueError(f"the interval of full steps is {interval!r}; give a number of steps, at least 1")
    full = np.zeros(steps, bool)
    full[[math.ceil(i * interval - 1e-9) for i in range(math.ceil(steps / interval - 1e-9))]] = True
    return full


def _toca_weights(sublayers: Sequence[str], steps: int) -> Floats:
    """[step, sub-layer] after the first step: what ToCa's share is multiplied with."""
    factors = factors_of(sublayers)
    streams: dict[str, list[str]] = {}
    for name in sublayers:
        block = name.rpartition(".")[0]
        stream = streams.setdefault(block.rpartition(".")[0], [])
        if block not in stream:
            stream.append(block)
    row = []
    for name in sublayers:
        block, _, kind = name.rpartition(".")
        stream = streams[block.rpartition(".")[0]]
        depth = stream.index(block) / max(len(stream) - 1, 1)
        row.append(factors.kinds.get(kind, 0.0) * _between(factors.layer, depth))
    time = np.array([_between(factors.step, step / max(steps - 1, 1)) for step in range(1, steps)])
    weights: Floats = time[:, None] * np.array(row)
    return weights


def _between(ends: tuple[float, float], part: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * part


def _toca_levels(weights: Floats, interval: float, share: float) -> Ints:
    """[step, sub-layer] levels after the first step."""
    partly = np.minimum(np.floor(share * weights * FULL + 0.5), FULL).astype(np.int64)
    return np.where(_full_steps(len(weights) + 1, interval)[1:, None], FULL, partly)


def _plan(
    levels: Ints, costs: Costs, times: Sequence[float], family: str, provenance: dict[str, Any],
    budget: float | None = None,
) -> CachePlan:
    """The plan with these levels after the first step; without a budget it is what the plan takes."""
    rows = ((FULL,) * len(costs.sublayers), *map(tuple, levels.tolist()))
    plan = CachePlan(family, tuple(times), costs.sublayers, rows, provenance=provenance)
    return replace(plan, budget=plan.share(costs.macs, costs.outside) if budget is None else budget)
