"""The plan by age against every plan there is, told apart by a plain walk in fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedit_core.cache.aged import OLDEST, solve_aged
from sparsedit_core.cache.costs import Costs
from sparsedit_core.cache.plan import FULL, LEVELS, CachePlan
from sparsedit_core.cache.solver_speed import solver_speed

LEFT = [[1.0, 0.6, 0.3, 0.1, 0.0], [1.0, 0.75, 0.5, 0.25, 0.0]]
COSTS = Costs(("0.self", "0.mlp"), ((0, 55, 70, 85, 100), (0, 30, 60, 90, 120)), outside=11)


def harm_at(values: np.ndarray, age: Fraction) -> float:
    """Interpolated by hand: missing ages in proportion to the next smaller one that there is."""

    def whole(number: int) -> float:
        number = min(number, OLDEST)
        known = max(a for a in range(1, number + 1) if a <= len(values) and not np.isnan(values[a - 1]))
        return float(values[known - 1]) * number / known

    low = int(age)
    part = float(age - low)
    return whole(low) * (1 - part) + (whole(low + 1) * part if part else 0.0)


def walk(levels: Any, change: np.ndarray, left: Any) -> float:
    """Harm of one sub-layer over the steps after the first; ``change`` [step, age - 1], ``left`` [level]."""
    age, total = Fraction(0), 0.0
    for step, level in enumerate(levels, start=1):
        old = min(age + 1, Fraction(OLDEST))
        total += float(left[level]) * harm_at(change[step], old)
        quarters = (1 - Fraction(level, FULL)) * old * 4
        age = Fraction(int(quarters + Fraction(1, 2)), 4)
    return total


def harm_of(plan: CachePlan, change: np.ndarray, left: Any = LEFT) -> float:
    columns = list(zip(*plan.table[1:], strict=True))
    return sum(walk(levels, change[:, i], left[i]) for i, levels in enumerate(columns))


def times_of(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps)]


@st.composite
def changes(draw: st.DrawFn, steps: int, count: int = 2) -> np.ndarray:
    """Random harms by age, some not measured."""
    ages = draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    table = random.lognormal(0, 1, (steps, count, 1)) * np.arange(1, ages + 1) ** draw(st.floats(0, 2))
    if draw(st.booleans()):
        table = np.round(table)
    holes = random.random(table.shape) < draw(st.sampled_from([0.0, 0.4]))
    holes[..., 0] = False
    table[holes] = np.nan
    table[0] = np.nan
    return table


@settings(max_examples=60)
@given(st.data(), st.integers(2, 4), st.floats(0.6, 1.0), st.sampled_from([("self",), (), ("all",)]))
def test_bound_best_and_found_are_in_order(data: Any, steps: int, budget: float, whole: tuple[str, ...]) -> None:
    change = data.draw(changes(steps))
    plan, found = solve_aged(change, LEFT, COSTS, times_of(steps), family="dit", budget=budget, whole=whole)
    ways = []
    for i, kind in enumerate(("self", "mlp")):
        levels = (0, FULL) if kind in whole or "all" in whole else range(FULL + 1)
        rows = list(product(levels, repeat=steps - 1))
        ways.append([(walk(row, change[:, i], LEFT[i]), sum(COSTS.macs[i][level] for level in row)) for row in rows])
    harms, macs = (np.add.outer(*(np.array([way[k] for way in each]) for each in ways)) for k in (0, 1))
    room = budget * steps * COSTS.dense - COSTS.dense - (steps - 1) * COSTS.outside
    best = harms[macs <= room].min()
    assert found.value == pytest.approx(harm_of(plan, change))
    assert plan.share(COSTS.macs, COSTS.outside) <= budget
    assert found.spent == plan.macs(COSTS.macs) - COSTS.dense + COSTS.outside
    assert found.choices.tolist() == [level for row in plan.table[1:] for level in row]
    assert found.bound - 1e-9 <= best <= found.value + 1e-9
    assert not found.exact or found.value == pytest.approx(best)
    if "all" in whole:
        assert {level for row in plan.table for level in row} <= {0, FULL}


@settings(max_examples=20)
@given(st.data(), st.floats(0.3, 0.95))
def test_many_sub_layers_come_close_to_the_bound(data: Any, budget: float) -> None:
    steps, count = 9, 24
    change = data.draw(changes(steps, count))
    names = tuple(f"{i // 2}.{('self', 'mlp')[i % 2]}" for i in range(count))
    costs = Costs(names, tuple(COSTS.macs[i % 2] for i in range(count)), 50)
    left = [LEFT[i % 2] for i in range(count)]
    plan, found = solve_aged(change, left, costs, times_of(steps), family="dit", budget=budget)
    assert found.value == pytest.approx(harm_of(plan, change, left))
    assert plan.share(costs.macs, costs.outside) <= budget
    longest = max(walk([0] * (steps - 1), change[:, i], left[i]) for i in range(count))
    assert found.gap <= longest + 1e-9  # the dual leaves at most one sub-layer's way between its two plans


@settings(max_examples=30)
@given(st.data())
def test_ages_after_many_partial_steps_are_those_of_the_plain_walk(data: Any) -> None:
    steps, count = 9, 6
    change = data.draw(changes(steps, count))
    costs = Costs(tuple(f"{i}.mlp" for i in range(count)), ((0, 10, 21, 500, 600),) * count, 0)
    left = [[1.0, 0.5, 0.2, 0.2, 0.0]] * count
    budget = (600 + 8 * data.draw(st.integers(8, 20))) / (9 * 600)  # room for a quarter or a half at every step
    plan, found = solve_aged(change, left, costs, times_of(steps), family="dit", budget=budget)
    assert {level for row in plan.table[1:] for level in row} & {1, 2}
    assert found.value == pytest.approx(harm_of(plan, change, left))


def test_room_for_nothing_reuses_everything_and_harm_stops_growing() -> None:
    steps = 16
    change = np.tile([1.0, 3.0], (steps, 2, 1))
    least = (COSTS.dense + (steps - 1) * COSTS.outside) / (steps * COSTS.dense)
    plan, found = solve_aged(change, LEFT, COSTS, times_of(steps), family="dit", budget=least + 1e-9)
    assert set(plan.table[1:]) == {(0, 0)}
    wanted = 1 + 3 + sum(3 * age / 2 for age in range(3, OLDEST + 1)) + 3 * (3 * OLDEST / 2)
    assert found.value == pytest.approx(2 * wanted)
    assert found.spent == 0
    assert found.exact
    with pytest.raises(ValueError, match="give at least"):
        solve_aged(change, LEFT, COSTS, times_of(steps), family="dit", budget=least - 1e-3)


def test_a_whole_budget_leaves_no_harm() -> None:
    plan, found = solve_aged(np.ones((4, 2, 2)), LEFT, COSTS, times_of(4), family="dit", budget=1.0, selector="change")
    assert set(plan.table) == {(FULL, FULL)}
    assert (found.value, found.bound, found.exact, plan.selector) == (0.0, 0.0, True, "change")


def test_one_refresh_of_five_steps_stands_where_it_halves_the_ages() -> None:
    costs = Costs(("0.mlp",), ((0, 100, 100, 100, 100),), outside=0)
    change = np.tile(np.arange(1.0, 6.0), (6, 1, 1))  # harm is age: 1+2+0+1+2 is least with one refresh
    plan, found = solve_aged(change, LEFT[1:], costs, times_of(6), family="dit", budget=2 / 6, whole=("all",))
    assert [row[0] for row in plan.table] == [4, 0, 0, 4, 0, 0]
    assert (found.value, found.spent) == (6.0, 100)


def test_what_was_not_measured_is_computed() -> None:
    change = np.ones((4, 2, 2))
    change[2, 1] = np.nan
    plan, _ = solve_aged(change, LEFT, COSTS, times_of(4), family="dit", budget=0.5)
    assert plan.table[2][1] == FULL
    with pytest.raises(ValueError, match="nothing was measured"):
        solve_aged(change, LEFT, COSTS, times_of(4), family="dit", budget=0.3)


def test_shares_may_differ_from_step_to_step() -> None:
    left = np.tile(LEFT, (3, 1, 1))
    same = solve_aged(np.ones((3, 2, 1)), left, COSTS, times_of(3), family="dit", budget=0.7, whole=())
    assert same[0] == solve_aged(np.ones((3, 2, 1)), LEFT, COSTS, times_of(3), family="dit", budget=0.7, whole=())[0]
    left[1, :, 1:] = 0.0  # a quarter is as good as everything at the second step
    plan, found = solve_aged(np.ones((3, 2, 1)), left, COSTS, times_of(3), family="dit", budget=0.5, whole=())
    assert all(level == 1 for level in plan.table[1])
    assert found.value < same[1].value + 2


def test_a_sampling_of_one_step_is_full() -> None:
    plan, found = solve_aged(np.ones((1, 2, 3)), LEFT, COSTS, [1.0], family="dit", budget=1.0)
    assert plan.table == ((FULL, FULL),)
    assert found.value == 0.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"change": np.ones((3, 2, 2))}, "change has shape"),
        ({"change": np.ones((4, 2, OLDEST + 1))}, "change has shape"),
        ({"change": -np.ones((4, 2, 2))}, "negative"),
        ({"change": np.full((4, 2, 2), np.inf)}, "infinite"),
        ({"change": np.tile([np.nan, 1.0], (4, 2, 1))}, "NaN at age 1"),
        ({"left": np.ones((2, 4))}, "left has shape"),
        ({"left": np.tile([1.0, 0.5, 0.5, 0.5, 0.5], (2, 1))}, "not 0 at full"),
        ({"left": np.tile([1.0, -0.5, 0.5, 0.5, 0.0], (2, 1))}, "negative"),
        ({"whole": ("mpl",)}, "mpl"),
    ],
)
def test_bad_values_are_one_sentence(values: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {"change": np.ones((4, 2, 2)), "left": LEFT, "costs": COSTS, "times": times_of(4)}
    with pytest.raises(ValueError, match=words):
        solve_aged(**good | values, family="dit", budget=0.7)


def test_levels_are_the_quarters_that_ages_are_counted_in() -> None:
    assert LEVELS == (0, 0.25, 0.5, 0.75, 1)


def test_the_speed_of_all_solvers_is_told() -> None:
    found = solver_speed(COSTS, 5, 0.6)
    assert [each.solver for each in found] == ["exact", "fast", "by age"]
    assert all(each.seconds > 0 and 0 <= each.gap < 1 and each.share <= 0.6 for each in found)
    assert found[0].exact
    assert found[0].gap <= found[1].gap
