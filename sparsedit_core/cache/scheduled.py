"""A plan on a sparse model whose token grid moves: every change of grid computes what it touches in full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..config import BackboneConfig
from ..tokens import Grid
from .costs import sublayer_costs, sublayer_grids
from .plan import FULL, CachePlan


@dataclass(frozen=True)
class Scheduled:
    """MACs of one picture over all steps: under the plan, of the sparse model without it, of the dense model.

    ``forced`` counts the entries of the plan's table that a change of grid makes full.
    """

    macs: int
    sparse_macs: int
    dense_macs: int
    forced: int

    @property
    def share(self) -> float:
        """Share of the dense model's MACs."""
        return self.macs / self.dense_macs

    @property
    def sparse_share(self) -> float:
        """That of the sparse model without the plan."""
        return self.sparse_macs / self.dense_macs


def scheduled_macs(
    plan: CachePlan, config: BackboneConfig, dense: Grid, grids: Sequence[Grid], caption_tokens: int | None = None
) -> Scheduled:
    """The account of a plan whose step i runs on the sparse grid ``grids[i]``, as the run will count it.

    A sub-layer whose own tokens are on another grid than at the step before has nothing to reuse. ``ValueError`` for
    another number of grids than steps.
    """
    if len(grids) != len(plan.times):
        raise ValueError(f"there are {len(grids)} grids for {len(plan.times)} steps; give one each")
    plain = sublayer_costs(replace(config, layout=None), dense, None, caption_tokens).dense
    macs = sparse = forced = 0
    before: dict[str, Grid] = {}
    for row, grid in zip(plan.table, grids, strict=True):
        costs = sublayer_costs(config, dense, grid, caption_tokens)
        places = sublayer_grids(config, dense, grid)
        moved = [bool(before) and before[name] != places[name] for name in plan.sublayers]
        forced += sum(level < FULL and moves for level, moves in zip(row, moved, strict=True))
        macs += costs.at([FULL if moves else level for level, moves in zip(row, moved, strict=True)])
        sparse += costs.dense
        before = places
    return Scheduled(macs, sparse, plain * len(grids), forced)
