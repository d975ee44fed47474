"""A layout for a dense model under a MAC budget: measure blocks, search exactly, check the best in one piece.

This is a forward-only proxy. It knows how much the prediction of the untrained model changes, not how well
fine-tuning repairs it: take the suggestion as a place to start from, and let a short fine-tuning decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..backbone import Backbone
from ..config import BackboneConfig
from ..cost import macs
from ..layout import SegmentLayout
from ..schedule import PruningSchedule
from .moments import Moment
from .search import Candidate, best_layouts, layout_macs, role_costs
from .sensitivity import MEASURED, Sensitivity, assembled_changes

SHORTLIST = 12
"""Candidates of the search that are measured in one piece."""

PROXY = (
    "a forward-only proxy: it measures how much the untrained model's prediction changes, not what fine-tuning "
    "repairs; compare the candidates after a short fine-tuning"
)


@dataclass(frozen=True)
class Measured:
    """A layout and the squared relative change of the prediction with all its blocks in their roles at once, mean over
    times; the candidate's ``predicted`` is what its blocks alone let expect."""

    candidate: Candidate
    change: float

    def to_json(self, dense: int) -> dict[str, Any]:
        """Plain values; changes are relative to the prediction's norm, ``dense`` is the dense model's MACs."""
        return {
            "layout": str(self.candidate.layout),
            "mean_macs": self.candidate.macs,
            "ratio_to_dense": self.candidate.macs / dense,
            "predicted_change": math.sqrt(max(self.candidate.predicted, 0.0)),
            "measured_change": math.sqrt(self.change),
        }


@dataclass(frozen=True)
class Suggestion:
    """Layouts within a budget, the one that changes the prediction least first.

    ``against``  layouts that were asked for beside them, whatever they cost
    ``budget``   share of the dense model's executed MACs, mean over diffusion time; ``dense`` is that model's MACs
    """

    candidates: tuple[Measured, ...]
    against: tuple[Measured, ...]
    budget: float
    dense: int
    sensitivity: Sensitivity

    @property
    def layout(self) -> SegmentLayout:
        """The suggested one."""
        return self.candidates[0].candidate.layout

    def to_json(self) -> dict[str, Any]:
        """Plain values; changes are relative to the prediction's norm, the roots of the squared ones."""
        return {
            "note": PROXY,
            "layout": str(self.layout),
            "budget": self.budget,
            "dense_macs": self.dense,
            "candidates": [found.to_json(self.dense) for found in self.candidates],
            "against": [found.to_json(self.dense) for found in self.against],
            "sparse_grids": [list(grid) for grid in self.sensitivity.grids],
            "block_changes": {
                role: [[math.sqrt(value) for value in values] for values in at_times]
                for role, at_times in self.sensitivity.roles.items()
            },
        }


def check_budget(budget: float) -> float:
    """The budget itself; ``ValueError`` unless it is a share above 0, at most 1."""
    if not 0.0 < budget <= 1.0:
        raise ValueError(f"the budget is {budget:g}; give a share of the dense model's MACs above 0, at most 1")
    return budget


def check_affordable(config: BackboneConfig, schedule: PruningSchedule, budget: float) -> None:
    """``ValueError`` where even the cheapest layout of this depth costs more than ``budget`` of the dense model."""
    depth, dense = config.depth, _dense_macs(config)
    nothing = Sensitivity((0.5,), ((1, 1),), ((0.0,) * (depth + 1),), {role: ((0.0,) * depth,) for role in MEASURED})
    # with no error anywhere the best is the cheapest
    cheapest = best_layouts(nothing, role_costs(config, schedule), math.inf)[0]
    if cheapest.macs > check_budget(budget) * dense:
        raise ValueError(
            f"the budget is {budget:g} of the dense model's MACs, but the cheapest layout of {depth} blocks, "
            f"{cheapest.layout}, costs {cheapest.macs / dense:.3f} under this schedule; give a larger budget or higher "
            "pruning rates"
        )


def _dense_macs(config: BackboneConfig) -> int:
    return macs(replace(config, layout=None), factor=1).total


def suggest_layout(
    model: Backbone,
    moments: Sequence[Moment],
    schedule: PruningSchedule,
    sensitivity: Sensitivity,
    budget: float,
    *,
    against: Sequence[SegmentLayout] = (),
    progress: Callable[[int], object] | None = None,
) -> Suggestion:
    """The best layouts of a dense model that cost at most ``budget`` of it under ``schedule``.

    ``sensitivity`` was measured at ``moments`` under the same schedule. The search gives the best layout by the sum
    of its blocks' effects for every number of Poolingformers and modules; the :data:`SHORTLIST` best of those are
    measured in one piece, because the effects of blocks that follow each other are not quite independent, and sorted
    by that. The layouts ``against`` are measured beside them. ``progress`` is called with 1 after each of these
    evaluations. ``ValueError`` where nothing fits.
    """
    config = model.config
    dense = _dense_macs(config)
    found = best_layouts(sensitivity, role_costs(config, schedule), check_budget(budget) * dense)[:SHORTLIST]
    others = [Candidate(one, sensitivity.predicted(one), layout_macs(config, one, schedule)) for one in against]
    layouts = [candidate.layout for candidate in (*found, *others)]
    changes = assembled_changes(model, moments, schedule, layouts, progress=progress)
    measured = [Measured(*pair) for pair in zip((*found, *others), changes, strict=True)]
    candidates = sorted(measured[: len(found)], key=lambda one: (one.change, one.candidate.macs))
    return Suggestion(tuple(candidates), tuple(measured[len(found) :]), budget, dense, sensitivity)
