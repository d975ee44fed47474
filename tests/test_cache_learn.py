"""Learning a plan: the tables, budgets, starts, distances, the command."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from cli_models import Cli
from hypothesis import given, settings
from hypothesis import strategies as st
from learn_models import CAPTIONS, EPS, FLOW, LABELS, PIXELS, Table, flow_model, hard, tables
from torch import Tensor

from sparsedit_core import save_checkpoint
from sparsedit_core.cache.costs import sublayer_costs
from sparsedit_core.cache.learn import learn
from sparsedit_core.cache.learn_loss import JudgeDistance, ScalesDistance, lpips_distance, own_distance
from sparsedit_core.cache.learn_optim import TableAdam
from sparsedit_core.cache.learn_options import Iteration, LearnOptions
from sparsedit_core.cache.learn_start import calibrated_start
from sparsedit_core.cache.learn_table import CostTable, levels_for
from sparsedit_core.cache.plan import FULL, LEVELS, NONE, CachePlan, read_plan
from sparsedit_core.checkpoint import Loaded
from sparsedit_core.sampling import SampleOptions, initial_noise, sample


def options(**changes: Any) -> LearnOptions:
    return replace(LearnOptions(0.6, 4, first=3, second=4, batch=2, pictures=4, held=2, every=2), **changes)


@pytest.mark.parametrize("budget", [0.45, 0.6, 0.83])
@pytest.mark.parametrize("loaded", [FLOW, EPS], ids=["flow", "eps"])
def test_no_iteration_is_over_the_budget_and_the_model_stays_as_it_is(loaded: Loaded, budget: float) -> None:
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    asked: Any = LABELS if loaded is FLOW else CAPTIONS
    rows: list[Iteration] = []
    found = learn(loaded, asked, own_distance(loaded), options(budget=budget, full_steps=0), progress=rows.append)
    assert [(row.stage, row.number) for row in rows] == [(0, 0), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (2, 4)]
    assert all(0 < row.share <= budget for row in rows)
    costs = sublayer_costs(loaded.config, (4, 4), None, None if loaded is FLOW else CAPTIONS.mask.shape[1])
    assert found.plan.share(costs.macs, costs.outside) <= budget
    compared = [row for row in rows if row.held_loss is not None]
    assert [(row.stage, row.number) for row in compared] == [(0, 0), (1, 2), (1, 3), (2, 2), (2, 4)]
    assert found.plan.provenance["found"]["held_loss"] == min(row.held_loss for row in compared)  # type: ignore[type-var]
    for name, value in loaded.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_the_kept_plan_does_on_held_out_noise_what_the_log_says(mean: Any) -> None:
    saved: list[CachePlan] = []
    found = learn(FLOW, LABELS, ScalesDistance(), options(first=0, mean=mean), save=saved.append)
    assert saved[-1] == found.plan
    assert saved[-1].provenance == found.plan.provenance
    assert len(saved) == sum(row.best for row in found.rows)
    noise = torch.cat([initial_noise(FLOW, 1, seed=2000, first=number) for number in (0, 1)])
    dense, cached = (
        sample(FLOW, noise, LABELS, SampleOptions(4, cache=plan)).images for plan in (None, found.plan)
    )
    one, other = ScalesDistance()(cached, dense).tolist()
    loss = (one + other) / 2 if mean == "arithmetic" else ((one + 1e-6) * (other + 1e-6)) ** 0.5 - 1e-6
    assert loss == pytest.approx(found.plan.provenance["found"]["held_loss"], rel=1e-5)


def test_the_budget_goes_where_the_pictures_need_it() -> None:
    """Of a model in which one sub-layer alone acts, this one is computed and nothing else has to be."""
    loaded = flow_model()
    width, acting = loaded.config.hidden_size, 1
    with torch.no_grad():
        for number, block in enumerate(loaded.model.blocks):
            last: Any = block.adaLN_modulation[1]
            for part in (2, 5):  # the gates
                if (number, part) != (acting, 5):
                    last.weight[part * width : (part + 1) * width] = 0
                    last.bias[part * width : (part + 1) * width] = 0
    costs = sublayer_costs(loaded.config, (4, 4))
    mlp = costs.sublayers.index(f"{acting}.mlp")
    budget = (costs.dense + 3 * (costs.outside + costs.macs[mlp][FULL])) / (4 * costs.dense) + 1e-9
    found = learn(
        loaded, LABELS, ScalesDistance(), options(budget=budget, first=0, second=12, second_rate=0.5, every=1)
    )
    assert [row[mlp] for row in found.plan.table] == [FULL] * 4
    assert found.plan.provenance["found"]["held_loss"] < 1e-9 < found.plan.provenance["start_held"]["loss"]


def table_of(budget: float = 0.6, full_steps: int = 0) -> CostTable:
    return CostTable(sublayer_costs(FLOW.config, (4, 4)), 5, budget, ("self",), full_steps=full_steps)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2), st.integers(0, 2**31))
def test_the_first_stage_computes_as_many_steps_in_full_as_were_asked_for(count: int, seed: int) -> None:
    table = table_of(0.7, count)
    with torch.no_grad():
        table.steps.normal_(generator=torch.Generator().manual_seed(seed))
        table.layers.normal_(generator=torch.Generator().manual_seed(seed + 1))
    choice = table.choose()
    gain = (table.steps[:, 1] - table.steps[:, 0]).detach()
    for step in gain.argsort()[:count].tolist():
        assert set(choice.levels[step + 1]) == {FULL}
    for levels, weights in zip(choice.levels, choice.weights, strict=True):
        assert torch.equal(weights.detach(), hard([list(levels)])[0])


def test_merging_keeps_the_full_steps_until_something_else_is_learned() -> None:
    table = table_of(0.7, 2)
    before = table.choose().levels
    full = [step for step, row in enumerate(before) if set(row) == {FULL}]
    table.merge(10.0)
    after = table.choose().levels
    assert len(full) == 3
    assert all(set(after[step]) == {FULL} for step in full)
    assert table.full_steps == 0


def test_both_tables_learn_in_the_first_stage() -> None:
    table = table_of(0.7, 1)
    by = torch.randn(5, 6, len(LEVELS), generator=torch.Generator().manual_seed(0))
    (torch.stack(table.choose().weights) * by).sum().backward()
    assert table.steps.grad is not None
    assert table.layers.grad is not None
    others = [step for step, row in enumerate(table.choose().levels[1:]) if set(row) != {FULL}]
    assert (table.steps.grad != 0).all()
    assert (table.layers.grad[others].abs().amax(dim=(1, 2)) > 0).all()


@settings(max_examples=20, deadline=None)
@given(tables(6).filter(lambda table: len(table) == 5))
def test_a_start_is_the_first_choice(table: Table) -> None:
    costs = sublayer_costs(FLOW.config, (4, 4))
    whole = [[level if place % 2 else FULL * (level > 1) for place, level in enumerate(row)] for row in table]
    plan = CachePlan("dit", (1.0, 0.8, 0.6, 0.4, 0.2), costs.sublayers, tuple(map(tuple, whole)))
    own = CostTable(costs, 5, min(plan.share(costs.macs, costs.outside), 1.0), ("self",))
    own.begin(levels_for(plan, plan.times), 0.5)
    assert own.choose().levels == plan.table


def test_a_calibration_is_a_start_within_the_budget() -> None:
    plan = calibrated_start(FLOW, LABELS, options(), trials=2)
    costs = sublayer_costs(FLOW.config, (4, 4))
    assert 0.5 < plan.share(costs.macs, costs.outside) <= 0.6
    found = learn(FLOW, LABELS, ScalesDistance(), options(first=None, second=2), start=plan)
    assert found.rows[0].share <= 0.6
    assert found.plan.provenance["start"]["hash"] == plan.hash
    assert {row.stage for row in found.rows} == {0, 2}


@pytest.mark.parametrize("distance", [JudgeDistance(), ScalesDistance()], ids=lambda each: type(each).__name__)
def test_distances_are_zero_of_equal_pictures_alone_and_differentiable(distance: Callable[..., Tensor]) -> None:
    a = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    b = a.clone()
    b[1] += 0.1
    b.requires_grad_()
    found = distance(a, b)
    assert found.tolist()[0] == 0.0 < found.tolist()[1]
    found.sum().backward()
    assert b.grad is not None
    assert torch.isfinite(b.grad).all()


def test_the_distance_of_latents_is_the_square_at_three_scales() -> None:
    a = torch.zeros(1, 4, 4, 4)
    b = torch.zeros(1, 4, 4, 4)
    b[..., ::2, :] = 2.0  # rows of 2 and 0: half of the squares, and 1 everywhere once averaged
    assert float(ScalesDistance()(a, b)) == pytest.approx(2.0 + 1.0 + 1.0)


class SquaredError(torch.nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean(dim=(1, 2, 3), keepdim=True)


def test_lpips_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "lpips.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(SquaredError()).save(str(file))
    distance = lpips_distance(file, FLOW)
    a = torch.zeros(2, 3, 8, 8)
    assert distance(a, a + 0.5).tolist() == [0.25, 0.25]
    assert distance.name == "LPIPS (lpips.pt)"
    with pytest.raises(ValueError, match="RGB pictures"):
        lpips_distance(file, EPS)
    with pytest.raises(ValueError, match="no LPIPS file"):
        lpips_distance(tmp_path / "none.pt", FLOW)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 1}, "2 or more"),
        ({"batch": 0}, "1 or more"),
        ({"tau": 0.0}, "above 0"),
        ({"budget": 0.01}, "at least"),
        ({"full_steps": 3}, "give 0 .. 1"),
    ],
)
def test_bad_options_are_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        learn(FLOW, LABELS, ScalesDistance(), options(**changes))


def test_models_with_a_layout_and_strange_starts_are_refused() -> None:
    model = tiny.random_model(tiny.config("1+1x[1,1,1,0]+0", in_channels=3, learn_sigma=False))
    sparse = Loaded(model=model, config=model.config, prediction="flow", latent=PIXELS)
    with pytest.raises(ValueError, match="dense models"):
        learn(sparse, LABELS, ScalesDistance(), options())
    other = CachePlan("pixart", (1.0,), ("0.self",), ((FULL,),))
    with pytest.raises(ValueError, match="the plan is for a pixart"):
        learn(FLOW, LABELS, ScalesDistance(), options(), start=other)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "model.safetensors", tmp_path / "plan.json"
    save_checkpoint(file, FLOW)
    words = ("learn", file, out, "--budget", "0.6", "--steps", "4", "--second", "3", "--batch", "2", "--held", "2")
    result = Cli(capsys)(*words, "--every", "1", "--json")
    assert result.code == 0, result.err
    plan = read_plan(out)
    known = plan.provenance
    assert result.json["found"] == known["found"]
    assert known["distance"].startswith("pixel MSE")
    assert known["command"].startswith("sparsedit learn")
    assert known["start"]["made_by"] == "calibrate"
    assert "calibration" not in known["start"]
    assert known["options"]["budget"] == 0.6
    lines = [json.loads(line) for line in out.with_suffix(".log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["number"]) for line in lines] == [(0, 0), (2, 1), (2, 2), (2, 3)]
    assert sample(FLOW, initial_noise(FLOW, 2), LABELS, SampleOptions(4, cache=plan)).cache_bytes > 0

    again = Cli(capsys)(*words, "--start", out, "--first", "1")
    assert again.code == 0, again.err
    assert "on held-out noise" in again.out
    assert read_plan(out).provenance["start"]["found"] == known["found"]
    bad = Cli(capsys)("learn", file, out, "--captions", file)
    assert bad.code == 2
    assert "--captions is for a PixArt" in bad.err


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(1e-8, 1e8))
def test_steps_keep_the_sizes_of_gradients_beside_each_other_and_not_their_unit(
    gradient: list[float], unit: float
) -> None:
    """Under one gradient over and over steps come to be it, divided by its root mean square, whatever its unit."""
    wanted = torch.tensor(gradient, dtype=torch.float64)
    if float(wanted.abs().max()) < 1e-3:
        return
    table = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = TableAdam([table], lr=0.1)
    come = sum(1 - 0.9**count for count in (1, 2, 3, 4))
    for _ in range(4):
        table.grad = unit * wanted
        optimizer.step()
    step = wanted / wanted.square().mean().sqrt()
    torch.testing.assert_close(table.detach(), -0.1 * come * step, rtol=1e-6, atol=1e-9)


def test_rates_fall_to_the_last_iteration_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[list[float]] = []

    class Watched(TableAdam):
        def step(self, closure: None = None) -> None:
            rates.append([group["lr"] for group in self.param_groups])

    monkeypatch.setattr("sparsedit_core.cache.learn.TableAdam", Watched)
    learn(FLOW, LABELS, ScalesDistance(), options(full_steps=1, first=2, second=2, every=9))
    assert rates == [[1.0, 0.01], [0.5, 0.005], [0.1], [0.05]]


def test_without_a_better_plan_the_second_stage_goes_back_and_halves_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    before: list[Tensor] = []

    class Worse(TableAdam):
        """Takes away one sub-layer after the other."""

        def step(self, closure: None = None) -> None:
            (group,) = self.param_groups
            (table,) = group["params"]
            rates.append(group["lr"])
            before.append(table.detach().clone())
            with torch.no_grad():
                table[:, : len(rates), NONE] -= 100

    monkeypatch.setattr("sparsedit_core.cache.learn.TableAdam", Worse)
    learn(FLOW, LABELS, ScalesDistance(), options(first=0, second=5, every=1, patience=2, decay=False))
    assert rates == [0.1, 0.1, 0.05, 0.05, 0.025]
    assert all(torch.equal(before[0], before[number]) for number in (2, 4))
