"""All of it in one go: attention maps, the toy experiment and, of a dense model, a suggested layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..checkpoint import Loaded
from ..layout import Role, SegmentLayout
from ..schedule import PruningSchedule
from ..tokens import Grid
from .maps import BlockMaps, attention_layers, attention_maps, block_roles
from .moments import Moment, sparse_grid_at
from .sensitivity import MEASURED, measure_sensitivity
from .suggest import SHORTLIST, Suggestion, check_affordable, suggest_layout
from .toy import ToyResult, toy_experiment

Progress = Callable[[int], object]
Stage = Callable[[int, str, str], AbstractContextManager[Progress]]
"""``stage(total, label, unit)`` around each part of the work gives what is called with the amount done."""


@dataclass(frozen=True)
class Analysis:
    """``maps`` [time][block] and ``toy`` [time] of a model with the ``roles`` of its blocks; ``grids`` its sparse grid
    at each time (None: dense); ``suggestion`` None for a SparseDiT, and where none was asked for."""

    times: tuple[float, ...]
    samples: int
    dense_grid: Grid
    grids: tuple[Grid | None, ...]
    roles: tuple[Role, ...]
    maps: tuple[tuple[BlockMaps, ...], ...]
    toy: tuple[ToyResult, ...]
    suggestion: Suggestion | None

    def to_json(self) -> dict[str, Any]:
        """Plain values; lists are [time], [time][block] or, of the toy experiment, [time][first k blocks]."""
        return {
            "times": list(self.times),
            "samples": self.samples,
            "dense_grid": list(self.dense_grid),
            "sparse_grids": [grid and list(grid) for grid in self.grids],
            "roles": list(self.roles),
            "attention": [
                {
                    "block": maps.block,
                    "role": maps.role,
                    "time": maps.time,
                    "queries": list(maps.queries),
                    "keys": list(maps.keys),
                    **maps.statistics.to_json(),
                }
                for at_time in self.maps
                for maps in at_time
            ],
            "toy": {
                "first_blocks_uniform": [[math.sqrt(value) for value in result.first] for result in self.toy],
                "one_block_uniform": [[math.sqrt(value) for value in result.single] for result in self.toy],
            },
            "suggestion": self.suggestion and self.suggestion.to_json(),
        }


def quiet(total: int, label: str, unit: str) -> AbstractContextManager[Progress]:  # noqa: ARG001
    """The :data:`Stage` that shows nothing."""
    return nullcontext(lambda _: None)


def check_request(
    loaded: Loaded, schedule: PruningSchedule | None, budget: float | None, against: Sequence[SegmentLayout] = ()
) -> None:
    """``ValueError`` where :func:`analyze` would refuse to suggest; needs no moments, so it can be asked early."""
    if budget is not None and loaded.layout is not None:
        raise ValueError(
            f"the model is a SparseDiT already (layout {loaded.layout}); a layout is suggested for the dense model "
            "that it came from: give that one, or leave the budget out"
        )
    if budget is not None:
        if schedule is None:
            raise ValueError("a layout is suggested for a pruning schedule; give one, e.g. rates 0.86 and 0.61")
        check_affordable(loaded.config, schedule, budget)
    elif against:
        raise ValueError("layouts to compare are measured beside a suggested one; give a budget and a dense model")
    for layout in against:
        layout.check_depth(loaded.config.depth)


def analyze(
    loaded: Loaded,
    moments: Sequence[Moment],
    schedule: PruningSchedule | None = None,
    budget: float | None = None,
    *,
    against: Sequence[SegmentLayout] = (),
    stage: Stage = quiet,
) -> Analysis:
    """Look into a model at ``moments`` (see moments.py).

    ``schedule`` gives a SparseDiT its sparse grids (None: its own), and a dense model those that a layout is suggested
    for; ``budget`` is the suggestion's share of the dense model's executed MACs, None for no suggestion; the layouts
    ``against`` are measured beside it. ``ValueError`` for a budget without a schedule or with a SparseDiT, for layouts
    without a budget or of another depth, and where no layout is that cheap.
    """
    check_request(loaded, schedule, budget, against)
    model, depth = loaded.model, loaded.config.depth
    grids = tuple(sparse_grid_at(loaded, moment, schedule) for moment in moments)
    maps = []
    with stage(len(moments), "attention maps", "times") as progress:
        for moment, grid in zip(moments, grids, strict=True):
            maps.append(tuple(attention_maps(model, moment, grid)))
            progress(1)
    with stage(2 * len(attention_layers(model)) * len(moments), "toy experiment", "evaluations") as progress:
        toy = [toy_experiment(model, m, grid, progress=progress) for m, grid in zip(moments, grids, strict=True)]
    suggestion = None
    if budget is not None and schedule is not None:
        pooled = [result.first for result in toy]
        with stage(len(MEASURED) * depth * len(moments), "roles of blocks", "evaluations") as progress:
            sensitivity = measure_sensitivity(model, moments, schedule, pooled, progress=progress)
        with stage((SHORTLIST + len(against)) * len(moments), "candidates", "evaluations") as progress:
            suggestion = suggest_layout(
                model, moments, schedule, sensitivity, budget, against=against, progress=progress
            )
    return Analysis(
        times=tuple(moment.time for moment in moments),
        samples=len(moments[0].x),
        dense_grid=model.token_grid(*moments[0].x.shape[-2:]),
        grids=grids,
        roles=block_roles(model),
        maps=tuple(maps),
        toy=tuple(toy),
        suggestion=suggestion,
    )
