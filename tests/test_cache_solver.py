"""The budgeted choice of levels: against brute force, its bound, its budget; plans made of it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedit_core.cache.costs import Costs
from sparsedit_core.cache.plan import FULL, LEVELS
from sparsedit_core.cache.solver import Allocation, allocate, allocate_fast, solve_plan

SOLVERS = [allocate, allocate_fast]
harms = st.one_of(st.floats(-50, 50, allow_subnormal=False), st.integers(-3, 3).map(float))


@st.composite
def knapsacks(draw: st.DrawFn, most: int = 2000) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Harm, costs in any order, a budget that can be met, allowed levels."""
    items, levels = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    table = st.lists(st.lists(harms, min_size=levels, max_size=levels), min_size=items, max_size=items)
    harm = np.array(draw(table))
    factor = draw(st.sampled_from([1, 7, 10**9]))
    costs = np.array([[factor * draw(st.integers(0, most)) for _ in range(levels)] for _ in range(items)])
    allowed = np.array([[draw(st.booleans()) for _ in range(levels)] for _ in range(items)])
    allowed[np.arange(items), [draw(st.integers(0, levels - 1)) for _ in range(items)]] = True
    low, high = least(costs, allowed), int(np.where(allowed, costs, 0).max(axis=1).sum())
    return harm, costs, draw(st.integers(low, high + factor)), allowed


def least(costs: np.ndarray, allowed: np.ndarray) -> int:
    return int(np.where(allowed, costs, costs.max() + 1).min(axis=1).sum())


def brute_force(harm: np.ndarray, costs: np.ndarray, budget: int, allowed: np.ndarray) -> float:
    """The least harm of all choices within the budget."""
    best = np.inf
    for choice in product(*(np.flatnonzero(row) for row in allowed)):
        if sum(int(costs[i, level]) for i, level in enumerate(choice)) <= budget:
            best = min(best, float(sum(harm[i, level] for i, level in enumerate(choice))))
    return best


def check(found: Allocation, harm: np.ndarray, costs: np.ndarray, budget: int, allowed: np.ndarray) -> None:
    """What holds of every result, whoever found it."""
    items = np.arange(len(harm))
    assert allowed[items, found.choices].all()
    assert found.spent == sum(int(cost) for cost in costs[items, found.choices])
    assert found.spent <= budget
    assert found.value == pytest.approx(harm[items, found.choices].sum(), abs=1e-9)
    assert found.bound <= found.value
    assert found.gap == found.value - found.bound


@settings(max_examples=400)
@given(knapsacks())
def test_the_least_harm_of_all_choices(case: Any) -> None:
    harm, costs, budget, allowed = case
    found, wanted = allocate(harm, costs, budget, allowed=allowed), brute_force(*case)
    check(found, *case)
    assert found.exact
    assert found.value == pytest.approx(wanted, abs=1e-9)
    assert found.bound <= wanted + 1e-9


@settings(max_examples=300)
@given(knapsacks(), st.integers(2, 40))
def test_the_fast_mode_and_few_cells_keep_the_budget_and_tell_their_gap(case: Any, cells: int) -> None:
    harm, costs, budget, allowed = case
    wanted = brute_force(*case)
    fast = allocate_fast(harm, costs, budget, allowed=allowed)
    coarse = allocate(harm, costs, budget, allowed=allowed, cells=cells)
    for found in (fast, coarse):
        check(found, *case)
        assert wanted - 1e-9 <= found.value <= wanted + found.gap + 1e-9
        assert not found.exact or found.value == pytest.approx(wanted, abs=1e-9)
    assert coarse.value <= fast.value + 1e-9


@settings(max_examples=100)
@given(knapsacks(), st.integers(0, 3000))
def test_a_larger_budget_does_no_more_harm(case: Any, more: int) -> None:
    harm, costs, budget, allowed = case
    wide = allocate(harm, costs, budget + more, allowed=allowed)
    assert wide.value <= allocate(harm, costs, budget, allowed=allowed).value + 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=100)
@given(case=knapsacks(), factor=st.integers(2, 1000))
def test_the_unit_of_the_costs_does_not_matter(solver: Any, case: Any, factor: int) -> None:
    harm, costs, budget, allowed = case
    plain = solver(harm, costs, budget, allowed=allowed)
    scaled = solver(harm, factor * costs, factor * budget, allowed=allowed)
    assert scaled.value == pytest.approx(plain.value, abs=1e-9)
    assert scaled.bound == pytest.approx(plain.bound, abs=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_harms_the_same_at_every_level_takes_the_cheapest(solver: Any) -> None:
    found = solver(np.full((50, 5), 0.3), np.arange(5) + np.zeros((50, 1), int), 120)
    assert not found.choices.any()
    assert (found.spent, found.gap, found.exact) == (0, 0.0, True)
    assert found.value == pytest.approx(15.0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_items_share_the_budget_to_the_last_mac(solver: Any) -> None:
    found = solver(np.tile([4.0, 3.0, 2.0, 1.0, 0.0], (30, 1)), np.tile(10 * np.arange(5), (30, 1)), 777)
    assert found.spent == 770
    assert found.value == pytest.approx(120 - 77)
    assert found.bound == pytest.approx(120 - 77.7)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_budget_for_everything_takes_the_least_harm_of_each_item(solver: Any) -> None:
    harm = np.random.default_rng(0).normal(size=(40, 5))
    costs = np.random.default_rng(1).integers(0, 10**13, (40, 5))
    found = solver(harm, costs, int(costs.max(axis=1).sum()))
    assert (found.choices == harm.argmin(axis=1)).all()
    assert (found.gap, found.exact) == (0.0, True)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_budget_for_the_cheapest_levels_only_takes_them(solver: Any) -> None:
    costs = np.array([[5, 3, 9], [10**13, 10**13 + 1, 2]])
    found = solver([[0.0, 9.0, -5.0], [0.0, 1.0, 7.0]], costs, 5)
    assert found.choices.tolist() == [1, 2]
    assert found.exact


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95), st.booleans())
def test_many_items_with_large_costs_come_close_to_the_bound(seed: int, share: float, ties: bool) -> None:
    random = np.random.default_rng(seed)
    harm = np.sort(random.integers(0, 9, (400, 5)) if ties else random.random((400, 5)), axis=1)[:, ::-1].astype(float)
    costs = np.arange(5) * random.choice([1_234_567_891, 3_333_333_333_337, 99_999_999_977], (400, 1))
    budget = int(share * costs.max(axis=1).sum())
    found, fast = allocate(harm, costs, budget), allocate_fast(harm, costs, budget)
    for each in (found, fast):
        check(each, harm, costs, budget, np.ones_like(costs, bool))
        assert each.gap <= harm.max()  # the dual leaves at most one item's step to be rounded down
    assert found.value <= fast.value


def test_no_items_are_no_harm() -> None:
    found = allocate(np.zeros((0, 5)), np.zeros((0, 5), int), 3)
    assert (len(found.choices), found.value, found.spent, found.exact) == (0, 0.0, 0, True)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"harm": [1.0, 2.0]}, "shapes"),
        ({"harm": [[1.0, 2.0, 3.0]]}, "shapes"),
        ({"allowed": [[True]]}, "shapes"),
        ({"harm": [[1.0, float("nan")]]}, "NaN"),
        ({"harm": [[1.0, float("inf")]]}, "finite"),
        ({"costs": [[1.0, 2.0]]}, "integers"),
        ({"costs": [[-1, 2]]}, "from 0"),
        ({"costs": [[1, 2**62]]}, "below"),
        ({"allowed": [[False, False]]}, "without a level"),
        ({"allowed": [[0, 1]]}, "true and false"),
        ({"budget": 0}, "at least 1"),
        ({"budget": 1.5}, "whole number"),
        ({"budget": True}, "whole number"),
    ],
)
def test_bad_values_are_one_sentence(solver: Any, change: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {"harm": [[1.0, 0.0]], "costs": [[1, 2]], "budget": 2} | change
    with pytest.raises(ValueError, match=words):
        solver(**values)


def test_the_axis_needs_two_cells() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        allocate([[1.0, 0.0]], [[1, 2]], 2, cells=1)


def test_harm_of_forbidden_levels_is_not_looked_at() -> None:
    found = allocate([[float("nan"), 2.0]], [[0, 1]], 1, allowed=[[False, True]])
    assert found.choices.tolist() == [1]


COSTS = Costs(
    ("0.self", "0.cross", "0.mlp"), ((0, 30, 40, 50, 60), (0, 12, 14, 16, 18), (0, 10, 20, 30, 40)), outside=7
)
TIMES = (1.0, 0.7, 0.4)


def harm_table(seed: int = 0) -> np.ndarray:
    table = np.random.default_rng(seed).random((len(TIMES), 3, len(LEVELS)))
    table[0] = np.nan  # nobody reads it
    return table


@settings(max_examples=60)
@given(st.integers(0, 1000), st.floats(0.38, 1.0), st.sampled_from([("self",), (), ("all",), ("mlp", "self")]))
def test_a_plan_is_the_best_table_within_its_share(seed: int, budget: float, whole: tuple[str, ...]) -> None:
    costs, harm = Costs(("0.self", "0.mlp"), (COSTS.macs[0], COSTS.macs[2]), outside=7), harm_table(seed)[:, :2]
    plan, found = solve_plan(harm, costs, TIMES, family="dit", budget=budget, whole=whole)
    assert plan.share(costs.macs, costs.outside) <= budget
    choices = [(0, FULL) if kind in whole or "all" in whole else range(FULL + 1) for kind in ("self", "mlp")]
    room = budget * 3 * costs.dense - costs.dense - 2 * costs.outside
    best = np.inf
    for levels in product(*choices, *choices):
        if sum(costs.macs[i % 2][level] for i, level in enumerate(levels)) <= room:
            best = min(best, sum(harm[1 + i // 2, i % 2, level] for i, level in enumerate(levels)))
    assert found.exact
    assert found.value == pytest.approx(best)
    assert found.value == pytest.approx(sum(harm[t, i, plan.table[t][i]] for t in (1, 2) for i in range(2)))
    assert found.choices.tolist() == [level for row in plan.table[1:] for level in row]
    assert all(row[i] in choices[i] for row in plan.table for i in range(2))


def test_a_plan_holds_what_it_was_made_with() -> None:
    plan, _ = solve_plan(
        harm_table(), COSTS, TIMES, family="pixart", budget=0.6, fast=True, selector="change", seed=3, shared=False,
        provenance={"way": "test"},
    )
    assert (plan.family, plan.times, plan.sublayers, plan.budget) == ("pixart", TIMES, COSTS.sublayers, 0.6)
    assert (plan.selector, plan.seed, plan.shared, plan.provenance) == ("change", 3, False, {"way": "test"})
    assert plan.table[0] == (FULL,) * 3


def test_a_sampling_of_one_step_is_full() -> None:
    plan, found = solve_plan(harm_table()[:1], COSTS, TIMES[:1], family="pixart", budget=1.0)
    assert (plan.table, found.value) == (((FULL,) * 3,), 0.0)


def test_the_least_feasible_share_is_told_and_works() -> None:
    least = (COSTS.dense + 2 * COSTS.outside) / (3 * COSTS.dense)
    with pytest.raises(ValueError, match=r"at least 37.0\d%"):
        solve_plan(harm_table(), COSTS, TIMES, family="pixart", budget=0.3)
    plan, _ = solve_plan(harm_table(), COSTS, TIMES, family="pixart", budget=least + 1e-9)
    assert plan.table[1:] == ((0, 0, 0), (0, 0, 0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"harm": np.zeros((2, 3, 5))}, "shape"),
        ({"budget": 0.0}, "above 0"),
        ({"budget": float("nan")}, "above 0"),
        ({"budget": 1.1}, "at most 1"),
        ({"whole": ("mpl",)}, "mpl"),
        ({"whole": "self"}, "give a list"),
    ],
)
def test_bad_plans_are_one_sentence(change: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {"harm": harm_table(), "costs": COSTS, "times": TIMES, "family": "pixart", "budget": 0.5}
    with pytest.raises(ValueError, match=words):
        solve_plan(**values | change)
