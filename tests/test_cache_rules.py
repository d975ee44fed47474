"""Plans by rule: their budget, FORA's MACs in closed form, ToCa's shape over depth and time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedit_core.cache.costs import Costs
from sparsedit_core.cache.plan import FULL, LEVELS, CachePlan
from sparsedit_core.cache.rules import DIT, FLUX, RULES, TEXT, factors_of, fora, rule_plan, toca, uniform

ROWS = {"self": (0, 55, 70, 85, 100), "cross": (0, 12, 14, 16, 18), "mlp": (0, 30, 60, 90, 120)}


def costs_of(kinds: tuple[str, ...], blocks: int, outside: int = 11) -> Costs:
    names = tuple(f"{block}.{kind}" for block in range(blocks) for kind in kinds)
    return Costs(names, tuple(ROWS[kind] for _ in range(blocks) for kind in kinds), outside)


def times_of(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps)]


def share_of(plan: CachePlan, costs: Costs) -> float:
    return plan.share(costs.macs, costs.outside)


COSTS = costs_of(("self", "cross", "mlp"), 6)
KINDS = st.sampled_from([("self", "mlp"), ("self", "cross", "mlp")])


@settings(max_examples=150)
@given(st.sampled_from(sorted(RULES)), KINDS, st.integers(1, 8), st.integers(1, 24), st.floats(0.01, 1.0))
def test_a_rule_stays_within_its_budget(
    name: str, kinds: tuple[str, ...], blocks: int, steps: int, budget: float
) -> None:
    costs = costs_of(kinds, blocks)
    least = (costs.dense + (steps - 1) * costs.outside) / (steps * costs.dense)
    if budget < least - 1e-9:
        with pytest.raises(ValueError, match="give at least"):
            rule_plan(name, costs, times_of(steps), "dit", budget)
        return
    plan = rule_plan(name, costs, times_of(steps), "dit", min(budget + 2e-9, 1.0))
    assert share_of(plan, costs) <= plan.budget
    assert plan.provenance["rule"] == name
    again = dict(plan.provenance)
    made = {"uniform": uniform, "fora": fora, "toca": toca}[again.pop("rule")]
    if name == "uniform":
        again = {"budget": plan.budget}
    assert made(costs, times_of(steps), family="dit", **again).table == plan.table


@given(st.integers(1, 60), st.integers(1, 70))
def test_fora_costs_its_full_steps_and_what_is_outside(steps: int, interval: int) -> None:
    plan = fora(COSTS, times_of(steps), family="pixart", interval=interval)
    full = -(-steps // interval)
    assert plan.macs(COSTS.macs, COSTS.outside) == full * COSTS.dense + (steps - full) * COSTS.outside
    assert [set(row) for row in plan.table] == [{0 if step % interval else FULL} for step in range(steps)]
    assert plan.budget == share_of(plan, COSTS)


def test_a_fora_of_a_budget_has_as_many_full_steps_as_fit() -> None:
    for full in range(1, 21):
        exact = (full * COSTS.dense + (20 - full) * COSTS.outside) / (20 * COSTS.dense)
        for budget in (exact, min(exact + 0.9 / 20 * (1 - COSTS.outside / COSTS.dense), 1.0)):
            table = rule_plan("fora", COSTS, times_of(20), "pixart", budget).table
            steps = [step for step, row in enumerate(table) if row[0]]
            assert len(steps) == full
            gaps = {b - a for a, b in zip(steps, [*steps[1:], 20], strict=True)}
            assert max(gaps) - min(gaps) <= 1  # as even as whole steps can be


@settings(max_examples=60)
@given(st.integers(2, 12), st.integers(2, 30), st.floats(0, 1))
def test_uniform_has_one_mix_of_two_levels_and_leaves_little(blocks: int, steps: int, part: float) -> None:
    costs = costs_of(("mlp",), blocks)  # all alike: the mix is the same at each step to the last MAC
    least = (costs.dense + (steps - 1) * costs.outside) / (steps * costs.dense)
    budget = min(least + part * (1 - least) + 1e-9, 1.0)
    plan = uniform(costs, times_of(steps), family="dit", budget=budget)
    mixes = {tuple(sorted(row)) for row in plan.table[1:]}
    assert len(mixes) == 1
    levels = sorted(set(mixes.pop()))
    assert len(levels) == 1 or levels[1] == levels[0] + 1
    spare = budget * steps * costs.dense - plan.macs(costs.macs, costs.outside)
    if part < 1:
        assert spare < 30 * (steps - 1) + 1e-3  # one more at every step would not have fit


def test_uniform_gives_every_sub_layer_its_turn() -> None:
    costs = costs_of(("self", "mlp"), 10)
    plan = uniform(costs, times_of(21), family="dit", budget=0.2)
    counts = np.count_nonzero(np.array(plan.table[1:]), axis=0)
    assert plan.provenance["level"] == 0.0
    assert counts.min() == counts.max() == plan.provenance["raised"]


def test_toca_follows_its_factors() -> None:
    costs, steps = costs_of(("self", "cross", "mlp"), 28), 20
    plan = toca(costs, times_of(steps), family="pixart", interval=3, share=0.3)
    for step, row in enumerate(plan.table):
        for name, level in zip(costs.sublayers, row, strict=True):
            block, kind = name.split(".")
            factor = {"self": 0.0, "cross": 0.6, "mlp": 1.6}[kind]
            wanted = 0.3 * factor * (1.6 - 1.2 * int(block) / 27) * (1.9 - 1.8 * step / 19)
            if step % 3 == 0:
                assert level == FULL
            else:
                assert abs(LEVELS[level] - min(wanted, 1.0)) <= 0.125 + 1e-9
    middle = np.array(plan.table)[1::3]
    assert middle[0, 2::3].sum() > middle[-1, 2::3].sum()  # a model with text: less towards the image


def test_toca_of_a_model_without_text_grows_towards_the_image() -> None:
    plan = toca(costs_of(("self", "mlp"), 28), times_of(20), family="dit", interval=4, share=0.1)
    table = np.array(plan.table)[1::4]
    assert not table[:, ::2].any()
    assert table[0, 1::2].sum() < table[-1, 1::2].sum()
    assert (np.diff(table[:, 1::2], axis=1) <= 0).all()  # and falls with depth


def test_the_factors_are_the_models() -> None:
    assert factors_of(("0.self", "0.mlp")) is DIT
    assert factors_of(("0.self", "0.cross", "0.mlp")) is TEXT
    assert factors_of(("double.0.self", "double.0.mlp", "single.0.block")) is FLUX


def test_streams_of_flux_have_depths_of_their_own() -> None:
    names = (*(f"double.{i}.{kind}" for i in range(19) for kind in ("self", "mlp")),
             *(f"single.{i}.block" for i in range(38)))
    costs = Costs(names, ((0, 10, 20, 30, 40),) * len(names), 5)
    plan = toca(costs, times_of(8), family="flux", interval=4, share=0.5)
    row = dict(zip(names, plan.table[1], strict=True))
    assert [row[f"double.{i}.mlp"] for i in (0, 18)] == [1, 0]  # .5 x .4 x 1.5 = .3, .5 x .4 x .5 = .1
    assert [row[f"single.{i}.block"] for i in (0, 37)] == [4, 2]  # 1.2, .4
    assert row["double.3.self"] == 0


@pytest.mark.parametrize("budget", [0.3, 0.4, 0.5, 0.6, 0.7, 0.9])
@pytest.mark.parametrize("kinds", [("self", "mlp"), ("self", "cross", "mlp")])
def test_rules_come_close_to_usual_budgets(kinds: tuple[str, ...], budget: float) -> None:
    costs = costs_of(kinds, 10)
    for name, spare in (("uniform", 0.03), ("toca", 0.011), ("fora", 0.05)):
        assert budget - spare <= share_of(rule_plan(name, costs, times_of(20), "dit", budget), costs) <= budget


def test_four_steps_are_enough_for_a_rule_that_recomputes_in_between() -> None:
    for name in ("uniform", "toca"):
        plan = rule_plan(name, COSTS, times_of(4), "pixart", 0.5)
        assert 0.45 <= share_of(plan, COSTS) <= 0.5


def test_bad_values_are_one_sentence() -> None:
    times = times_of(5)
    with pytest.raises(ValueError, match="no rule 'best'; choose one of uniform, fora, toca"):
        rule_plan("best", COSTS, times, "pixart", 0.5)
    for interval in (0.9, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="at least 1"):
            fora(COSTS, times, family="pixart", interval=interval)
    with pytest.raises(ValueError, match="from 0 to 1"):
        toca(COSTS, times, family="pixart", interval=2, share=1.5)
    with pytest.raises(ValueError, match="above 0"):
        rule_plan("uniform", COSTS, times, "pixart", 0.0)
