"""The search is exact: against every layout there is, with random errors and the costs of the cost module."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import config

from sparsedit_core.analysis.search import best_layouts, layout_macs, role_costs
from sparsedit_core.analysis.sensitivity import MEASURED, Sensitivity
from sparsedit_core.config import DiTConfig
from sparsedit_core.cost import MODELS, macs
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.schedule import PRESETS, PruningSchedule
from sparsedit_core.schedule_cost import schedule_macs

SCHEDULE = PruningSchedule(rate_noise=0.9, rate_clean=0.5, levels=None)


def every_layout(depth: int) -> Iterator[SegmentLayout]:
    """All layouts with a module, dense blocks at the end counted to the top but for one."""

    def modules(rest: int) -> Iterator[tuple[tuple[int, int, int, int], ...]]:
        yield ()
        for g in range(1, rest):
            for s in range(rest - g):
                for r in range(1, rest - g - s + 1):
                    for d in range(rest - g - s - r + 1):
                        for more in modules(rest - g - s - r - d):
                            yield ((g, s, r, d), *more)

    for bottom in range(depth):
        for found in modules(depth - bottom):
            top = depth - bottom - sum(map(sum, found))
            if found:
                yield SegmentLayout(bottom, found, top)


def sensitivity(depth: int, seed: int) -> Sensitivity:
    draw = random.Random(seed)

    def values(count: int) -> tuple[float, ...]:
        return tuple(draw.random() ** 3 for _ in range(count))

    pooled = tuple((0.0, *values(depth)) for _ in range(2))
    roles = {role: tuple(values(depth) for _ in range(2)) for role in MEASURED}
    return Sensitivity((0.75, 0.25), ((2, 2), (3, 3)), pooled, roles)


def wide(depth: int) -> DiTConfig:
    return config(depth=depth, input_size=(16, 16))


@given(st.integers(2, 6), st.integers(0, 10**6), st.floats(0.45, 1.05))
@settings(max_examples=25, deadline=None)
def test_the_best_of_every_number_of_poolingformers_and_modules(depth: int, seed: int, budget: float) -> None:
    found, shape = sensitivity(depth, seed), wide(depth)
    room = budget * macs(shape, factor=1).total
    best: dict[tuple[int, int], float] = {}
    for layout in every_layout(depth):
        if layout_macs(shape, layout, SCHEDULE) <= room * (1 + 1e-12):
            key = layout.bottom, len(layout.modules)
            best[key] = min(best.get(key, float("inf")), found.predicted(layout))
    costs = role_costs(shape, SCHEDULE)
    if not best:
        with pytest.raises(ValueError, match="no layout"):
            best_layouts(found, costs, room)
        return
    candidates = best_layouts(found, costs, room)
    assert [one.predicted for one in candidates] == sorted(one.predicted for one in candidates)
    got = {(one.layout.bottom, len(one.layout.modules)): one.predicted for one in candidates}
    assert got == pytest.approx(best)
    for one in candidates:
        assert one.layout.depth == depth
        assert one.predicted == pytest.approx(found.predicted(one.layout))
        assert one.macs == pytest.approx(layout_macs(shape, one.layout, SCHEDULE))
        assert one.macs <= room * (1 + 1e-9)


@pytest.mark.parametrize("schedule", [SCHEDULE, PRESETS["256 fast"], PruningSchedule(0.9, 0.5, start=0.25)])
def test_blocks_cost_what_the_model_costs(schedule: PruningSchedule) -> None:
    shape = MODELS["DiT-B/2"]
    costs = role_costs(shape, schedule)
    layout = SegmentLayout.parse("2+1x[2,2,1,1]+1x[1,0,1,1]+1")
    expected = costs.outside + 2 * (costs.pooled + costs.enter + costs.sparse + costs.recovery) + costs.generation
    expected += 3 * costs.dense
    assert layout_macs(shape, layout, schedule) == pytest.approx(expected)
    dense = macs(shape).total
    assert costs.outside + 12 * costs.dense == pytest.approx(dense)


def test_the_mean_over_time_is_that_of_many_evaluations() -> None:
    layout, schedule = SegmentLayout.parse("1+2x[1,2,1,1]+1"), PRESETS["256 fast"]
    shape = MODELS["DiT-B/2"]
    middles = [(i + 0.5) / 4000 for i in range(4000)]
    sampled = schedule_macs(shape, schedule, middles, layout=layout).mean
    assert layout_macs(shape, layout, schedule) == pytest.approx(sampled, rel=1e-4)


def test_a_budget_below_everything_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no layout of 4 blocks .* larger budget"):
        best_layouts(sensitivity(4, 0), role_costs(wide(4), SCHEDULE), 1000.0)


def test_a_block_that_matters_stays_dense_and_one_that_does_not_is_given_up() -> None:
    """Errors that leave one good answer: everything is free but changing block 0 or 5, or generation in any but 1."""
    free, dear = 0.0, 1.0
    roles = {
        "generation": tuple(free if i == 1 else dear for i in range(6)),
        "sparse": tuple(free if i in (2, 3) else dear for i in range(6)),
        "recovery": tuple(free if i == 4 else dear for i in range(6)),
    }
    pooled = tuple(0.001 if k == 1 else free if k == 0 else dear for k in range(7))
    found = Sensitivity((0.5,), ((2, 2),), (pooled,), {role: (roles[role],) for role in MEASURED})
    shape = wide(6)
    target = SegmentLayout.parse("1+1x[1,2,1,1]+0")
    room = layout_macs(shape, target, SCHEDULE)
    best = best_layouts(found, role_costs(shape, SCHEDULE), room)[0]
    assert (best.layout, best.predicted) == (target, pytest.approx(0.001))
