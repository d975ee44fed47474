"""What it changes when one block of a dense model plays another role, the others staying dense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..backbone import Backbone
from ..layout import Role, SegmentLayout
from ..schedule import PruningSchedule
from ..tokens import Grid
from .moments import Moment
from .surrogate import Surrogate
from .toy import relative_change

MEASURED: tuple[Role, ...] = ("generation", "sparse", "recovery")
"""Roles measured block by block; Poolingformers come from the toy experiment, where they are measured together."""


@dataclass(frozen=True)
class Sensitivity:
    """Squared relative changes of a dense model's prediction, for each time and block.

    ``grids``   the sparse grid at each of ``times``
    ``pooled``  [time][k] with Poolingformers in the first k blocks together, k = 0 .. depth
    ``roles``   role -> [time][block] with that block alone in the role (see surrogate.py)
    """

    times: tuple[float, ...]
    grids: tuple[Grid, ...]
    pooled: tuple[tuple[float, ...], ...]
    roles: dict[Role, tuple[tuple[float, ...], ...]]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.pooled[0]) - 1

    def mean_pooled(self) -> list[float]:
        """Mean over times for the first k blocks, k = 0 .. depth."""
        return [fmean(values) for values in zip(*self.pooled, strict=True)]

    def mean(self, role: Role) -> list[float]:
        """Mean over times for every block."""
        return [fmean(values) for values in zip(*self.roles[role], strict=True)]

    def predicted(self, layout: SegmentLayout) -> float:
        """The layout's squared relative change if the effects of its blocks are independent: their sum.

        Dense blocks change nothing, nor do recovery blocks after the first of a module: they read dense tokens.
        """
        layout.check_depth(self.depth)
        means = {role: self.mean(role) for role in MEASURED}
        total = self.mean_pooled()[layout.bottom]
        for role, start, end in layout.runs():
            if role in means:
                total += sum(means[role][start : start + 1 if role == "recovery" else end])
        return total


def measure_sensitivity(
    model: Backbone,
    moments: Sequence[Moment],
    schedule: PruningSchedule,
    pooled: Sequence[Sequence[float]],
    *,
    progress: Callable[[int], object] | None = None,
) -> Sensitivity:
    """Measure a dense model on the grids of ``schedule``: 3 * depth evaluations a moment, half a model each on average.

    ``pooled`` is ``first`` of the toy experiment at the same moments. ``progress`` is called with 1 after each
    evaluation. ``ValueError`` for a SparseDiT.
    """
    surrogate = Surrogate(model)
    found: dict[Role, list[tuple[float, ...]]] = {role: [] for role in MEASURED}
    grids = []
    for moment in moments:
        run = surrogate.record(moment)
        grids.append(schedule.grid(moment.time, run.dense))
        dense: list[Role] = ["dense"] * surrogate.depth
        before = surrogate.predict(run, dense, grids[-1])
        for role in MEASURED:
            changes = []
            for number in range(surrogate.depth):
                roles = [*dense[:number], role, *dense[number + 1 :]]
                changes.append(relative_change(surrogate.predict(run, roles, grids[-1]), before))
                if progress is not None:
                    progress(1)
            found[role].append(tuple(changes))
    times = tuple(moment.time for moment in moments)
    roles_found = {role: tuple(values) for role, values in found.items()}
    return Sensitivity(times, tuple(grids), tuple(map(tuple, pooled)), roles_found)


def assembled_changes(
    model: Backbone,
    moments: Sequence[Moment],
    schedule: PruningSchedule,
    layouts: Sequence[SegmentLayout],
    *,
    progress: Callable[[int], object] | None = None,
) -> list[float]:
    """What :meth:`Sensitivity.predicted` predicts, measured: all blocks of each layout in their roles together.

    Squared relative change of the dense model's prediction, mean over the moments, still without any training.
    """
    surrogate = Surrogate(model)
    changes: list[list[float]] = [[] for _ in layouts]
    for moment in moments:
        run = surrogate.record(moment)
        grid = schedule.grid(moment.time, run.dense)
        before = surrogate.predict(run, ["dense"] * surrogate.depth, grid)
        for layout, values in zip(layouts, changes, strict=True):
            values.append(relative_change(surrogate.predict(run, layout.roles, grid), before))
            if progress is not None:
                progress(1)
    return [fmean(values) for values in changes]
