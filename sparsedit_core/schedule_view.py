"""Everything an editor of pruning schedules shows, as plain JSON values; it only has to place them on a screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .config import BackboneConfig
from .convert import default_layout
from .cost import MODELS
from .said import Said
from .schedule import Grid, PruningSchedule
from .schedule_cost import ScheduleCost, even_times, schedule_macs

SAMPLES = 200
UNKNOWN = "DiT-XL/2"
"""The model whose cost is told where none is connected, with its default layout."""


@dataclass(frozen=True)
class ViewedModel:
    """The model a schedule is looked at with; ``trained`` is the schedule it was trained under, if any is stored;
    not ``known``, it stands in for one that is."""

    name: str
    config: BackboneConfig
    trained: PruningSchedule | None = None
    known: bool = True

    @classmethod
    def unknown(cls) -> ViewedModel:
        """:data:`UNKNOWN` with its default layout."""
        config = MODELS[UNKNOWN]
        return cls(UNKNOWN, replace(config, layout=default_layout(config)), known=False)


def schedule_view(
    schedule: PruningSchedule,
    dense: Grid,
    steps: int,
    *,
    model: ViewedModel | None = None,
    seconds: Mapping[Grid | None, float] | None = None,
) -> dict[str, Any]:
    """What there is to show of ``schedule`` for a picture of ``dense`` tokens sampled in ``steps`` even steps.

    ``model``    ``None`` tells the cost of :data:`UNKNOWN` and no trained range
    ``seconds``  measured seconds of an evaluation by grid (:func:`.measured.grid_seconds`)

    Densities are shares of the dense tokens, times 1 (noise) to 0 (image). What is told in words is a
    :class:`.said.Said`. ``ValueError`` as of the schedule, the grid and the steps.
    """
    shown = model or ViewedModel.unknown()
    times = even_times(steps)
    evaluations = [(time, schedule.grid(time, dense)) for time in times]
    buckets = schedule.buckets(dense)
    sparse = shown.config.layout is not None
    outside = _outside(schedule, shown.config, shown.trained) if shown.known and sparse else None
    cost = _cost(schedule, shown.config, steps, dense) if sparse else None
    return {
        "dense": list(dense),
        "curve": [[time, 1.0 - schedule.rate(time)] for time in (i / SAMPLES for i in range(SAMPLES, -1, -1))],
        "buckets": _stairs(buckets, dense),
        "evaluations": [
            {"time": time, "grid": list(grid), "density": _density(grid, dense)} for time, grid in evaluations
        ],
        "limits": {"low": schedule.rate_clean, "high": schedule.rate_noise},
        "trained": _trained(model, dense) if model is not None and sparse else None,
        "summary": _summary([grid for _, _, grid in buckets], dense),
        "cost": None if cost is None else _cost_words(cost, shown) | {"per_evaluation": _shares(cost)},
        "measured": None if cost is None or seconds is None else measured_speed(cost, seconds),
        "warning": outside.to_json() if outside else None,
    }


def measured_speed(cost: ScheduleCost, seconds: Mapping[Grid | None, float]) -> dict[str, Any] | None:
    """How many times faster than dense the evaluations of ``cost`` are by measured ``seconds``, and against what.

    Dense is the dense model (key ``None``) or else the same model on the full grid. ``None`` unless all grids were
    measured.
    """
    against = None if None in seconds else cost.dense_grid
    if against not in seconds or any(grid not in seconds for grid in cost.grids):
        return None
    mean = sum(seconds[grid] for grid in cost.grids) / len(cost.grids)
    factor = seconds[against] / mean
    said = Said("measured_dense" if against is None else "measured_full", {"factor": f"{factor:.2f}"})
    return {"factor": factor} | said.to_json()


def trained_rates(config: BackboneConfig, trained: PruningSchedule | None) -> tuple[float, float]:
    """Lowest and highest rate that a sparse model knows: of its stored schedule, or of its one token grid."""
    if trained is not None:
        return whole_rates(trained)
    rate = 1 - min(config.sparse_side**2 / (config.grid[0] * config.grid[1]), 1.0)
    return rate, rate


def whole_rates(schedule: PruningSchedule) -> tuple[float, float]:
    """Lowest and highest rate over the whole sampling, the parts without the schedule (rate 0) included."""
    whole = (schedule.start, schedule.end) == (0.0, 1.0)
    return schedule.rate_clean if whole else 0.0, schedule.rate_noise


def outside_note(schedule: PruningSchedule, config: BackboneConfig, trained: PruningSchedule | None) -> str:
    """What is worth knowing when ``schedule`` leaves the rates of training; empty when it does not.

    Without a stored schedule the model knows one token grid: that of ``config.sparse_side`` at its own size.
    """
    said = _outside(schedule, config, trained)
    return said.words if said else ""


def _outside(schedule: PruningSchedule, config: BackboneConfig, trained: PruningSchedule | None) -> Said | None:
    (low, high), known = whole_rates(schedule), trained_rates(config, trained)
    if known[0] - 0.005 <= low and high <= known[1] + 0.005:
        return None
    figures = {"known_low": f"{known[0]:.2f}", "low": f"{low:.2f}", "high": f"{high:.2f}"}
    if trained is not None:
        return Said("outside_range", figures | {"known_high": f"{known[1]:.2f}"})
    return Said("outside_grid", figures | {"side": str(config.sparse_side)})


def _trained(model: ViewedModel, dense: Grid) -> dict[str, Any]:
    low, high = trained_rates(model.config, model.trained)
    buckets = [] if model.trained is None else _stairs(model.trained.buckets(dense), dense)
    return {"densities": [1.0 - high, 1.0 - low], "buckets": buckets}


def _cost(schedule: PruningSchedule, config: BackboneConfig, steps: int, dense: Grid) -> ScheduleCost:
    size = dense[0] * config.patch_size, dense[1] * config.patch_size
    return schedule_macs(config, schedule, steps, size, factor=1)


def _cost_words(cost: ScheduleCost, model: ViewedModel) -> dict[str, Any]:
    figures = {"percent": f"{100 * cost.ratio:.1f}", "factor": f"{1 / cost.ratio:.2f}", "name": model.name}
    return {"ratio": cost.ratio} | Said("cost" if model.known else "cost_unknown", figures).to_json()


def _shares(cost: ScheduleCost) -> list[float]:
    return [count / cost.dense for count in cost.macs]


def _stairs(buckets: list[tuple[float, float, Grid]], dense: Grid) -> list[dict[str, Any]]:
    return [{"from": a, "to": b, "grid": list(grid), "density": _density(grid, dense)} for a, b, grid in buckets]


def _density(grid: Grid, dense: Grid) -> float:
    return grid[0] * grid[1] / (dense[0] * dense[1])


def _summary(grids: list[Grid], dense: Grid) -> dict[str, Any]:
    sizes = {"least": min(grids), "most": max(grids), "dense": dense}
    figures = {name: f"{rows}x{columns}" for name, (rows, columns) in sizes.items()}
    return Said("grid" if figures["least"] == figures["most"] else "grids", figures).to_json()
