"""The best layout under a MAC budget, exactly: dynamic programming over the roles of the blocks.

The error of a layout is a sum over its blocks and so is its cost, so a layout is a path through the blocks. From
every block on, only those continuations are kept that no other one beats in both error and cost (a Pareto front);
the best path under any budget is made of such continuations. The number of modules is part of the state, so that one
pass gives the best layout for every pair (Poolingformers, modules).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..config import BackboneConfig
from ..cost import macs
from ..layout import SegmentLayout
from ..schedule import PruningSchedule
from ..tokens import Grid
from .sensitivity import Sensitivity


@dataclass(frozen=True)
class RoleCosts:
    """Executed MACs of one block in each role, mean over diffusion time, and of all that is no block.

    ``enter`` is the first generation block of a module with the pooling, ``generation`` a further one; ``recovery``
    is the first of a module. A further recovery block costs a dense block and the fusion, and changes nothing: it
    never pays, so that it is not searched.
    """

    pooled: float
    enter: float
    generation: float
    sparse: float
    recovery: float
    dense: float
    outside: float


def role_costs(config: BackboneConfig, schedule: PruningSchedule) -> RoleCosts:
    """From ``cost.macs`` of small layouts on every grid of the schedule, weighted by the time it is used."""
    once, twice = SegmentLayout(1, ((1, 1, 1, 1),), 0), SegmentLayout(1, ((2, 1, 1, 1),), 0)

    def costs(grid: Grid) -> RoleCosts:
        one, two = (
            macs(replace(config, depth=layout.depth, layout=layout), sparse_grid=grid, factor=1)
            for layout in (once, twice)
        )
        roles = one.roles
        return RoleCosts(
            roles["pooled"],
            roles["generation"],
            two.roles["generation"] - roles["generation"],
            roles["sparse"],
            roles["recovery"],
            roles["dense"],
            roles["outside"],
        )

    parts = [(end - start, costs(grid)) for start, end, grid in schedule.buckets(config.grid)]
    names = RoleCosts.__dataclass_fields__
    return RoleCosts(**{name: sum(share * getattr(part, name) for share, part in parts) for name in names})


def layout_macs(config: BackboneConfig, layout: SegmentLayout, schedule: PruningSchedule) -> float:
    """Executed MACs of an evaluation of ``config`` with a layout, mean over diffusion time under the schedule."""
    sparse = replace(config, layout=layout)
    buckets = schedule.buckets(config.grid)
    return sum((end - start) * macs(sparse, sparse_grid=grid, factor=1).total for start, end, grid in buckets)


@dataclass(frozen=True)
class Candidate:
    """A layout, its predicted squared relative change, and its executed MACs (mean over time)."""

    layout: SegmentLayout
    predicted: float
    macs: float


@dataclass(frozen=True)
class _Path:
    """A continuation to the last block: what it costs, its error, the role of its first block, and how it goes on."""

    macs: float
    error: float
    role: str
    rest: _Path | None


def best_layouts(sensitivity: Sensitivity, costs: RoleCosts, budget: float) -> list[Candidate]:
    """The best layout for every number of Poolingformers and modules (1 or more), the smallest error first.

    ``budget`` is in MACs of one evaluation, ``costs.outside`` included. ``ValueError`` where no layout is that cheap.
    """
    fronts = _fronts(sensitivity, costs, budget - costs.outside)
    pooled = sensitivity.mean_pooled()
    found = []
    for bottom, by_modules in enumerate(fronts):
        spent = costs.outside + bottom * costs.pooled
        for front in by_modules.values():
            fitting = [path for path in front if spent + path.macs <= budget * (1 + 1e-12)]
            if fitting:
                best = min(fitting, key=lambda path: (path.error, path.macs))
                layout = _layout(bottom, best)
                found.append(Candidate(layout, pooled[bottom] + best.error, spent + best.macs))
    if not found:
        raise ValueError(
            f"no layout of {sensitivity.depth} blocks with a sparse-dense module costs at most {budget:.4g} MACs under "
            "this schedule; give a larger budget or higher pruning rates"
        )
    return sorted(found, key=lambda candidate: (candidate.predicted, candidate.macs))


Fronts = dict[int, list[_Path]]  # by number of modules that begin in the continuation


def _fronts(sensitivity: Sensitivity, costs: RoleCosts, room: float) -> list[Fronts]:
    """For every block number: the continuations that begin a module there."""
    generation, sparse, recovery = (sensitivity.mean(role) for role in ("generation", "sparse", "recovery"))
    depth = sensitivity.depth
    # continuations from the block after the current one: with a dense block or a module, with a sparse or recovery
    # block, and these or a further generation block
    dense: Fronts = {0: [_Path(0.0, 0.0, "", None)]}
    on_sparse: Fronts = {}
    generating: Fronts = {}
    entering: list[Fronts] = []

    def extend(paths: Iterable[_Path], role: str, cost: float, error: float) -> list[_Path]:
        longer = (_Path(path.macs + cost, path.error + error, role, path) for path in paths)
        return [path for path in longer if path.macs <= room * (1 + 1e-12)]

    for i in reversed(range(depth)):
        enter = {m + 1: extend(paths, "G", costs.enter, generation[i]) for m, paths in generating.items()}
        entering.append(_pruned(enter))
        now_dense = {m: extend(paths, "d", costs.dense, 0.0) for m, paths in dense.items()}
        for m, paths in enter.items():
            now_dense.setdefault(m, []).extend(paths)
        now_sparse = {m: extend(paths, "r", costs.recovery, recovery[i]) for m, paths in dense.items()}
        for m, paths in on_sparse.items():
            now_sparse.setdefault(m, []).extend(extend(paths, "s", costs.sparse, sparse[i]))
        now_generating = {m: list(paths) for m, paths in now_sparse.items()}
        for m, paths in generating.items():
            now_generating.setdefault(m, []).extend(extend(paths, "g", costs.generation, generation[i]))
        dense, on_sparse, generating = _pruned(now_dense), _pruned(now_sparse), _pruned(now_generating)
    return entering[::-1]


def _pruned(fronts: Fronts) -> Fronts:
    """Without the paths that another one beats, and without empty entries."""
    result: Fronts = {}
    for modules, paths in fronts.items():
        kept: list[_Path] = []
        for path in sorted(paths, key=lambda path: (path.macs, path.error)):
            if not kept or path.error < kept[-1].error:
                kept.append(path)
        if kept:
            result[modules] = kept
    return result


def _layout(bottom: int, path: _Path) -> SegmentLayout:
    """The layout of a path; of the dense blocks at its end one belongs to the last module, the others are the top."""
    modules: list[list[int]] = []
    step: _Path | None = path
    while step is not None and step.role:
        if step.role == "G":
            modules.append([0, 0, 0, 0])
        modules[-1]["gsrd".index(step.role.lower())] += 1
        step = step.rest
    top = max(modules[-1][3] - 1, 0)
    modules[-1][3] -= top
    return SegmentLayout(bottom, tuple((g, s, r, d) for g, s, r, d in modules), top)
