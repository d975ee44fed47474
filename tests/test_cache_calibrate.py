"""Calibration: what it measures against the definition, the plans made of it, and the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_models import LAYOUT, SCHEDULE, Cli, save_pixels
from PIL import Image
from torch import Tensor

import sparsedit_core as sd
from sparsedit_core.cache.calibrate import AGES, Calibrator
from sparsedit_core.cache.calibrated import (
    WEIGHTINGS,
    Choices,
    Weighting,
    calibrated_plan,
    calibration_from_json,
    tried_plan,
    typical_error,
    with_budget,
)
from sparsedit_core.cache.costs import Costs, sublayer_costs, sublayer_names
from sparsedit_core.cache.plan import FULL, CachePlan, read_plan
from sparsedit_core.cache.scheduled import scheduled_macs
from sparsedit_core.sampling import SampleOptions, evaluation_times, initial_noise, sample


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> sd.Loaded:
    return sd.load_checkpoint(save_pixels(tmp_path_factory.mktemp("models") / "dense.safetensors"))


def costs_of(loaded: sd.Loaded) -> Costs:
    return sublayer_costs(loaded.config, (8, 8))


def calibrated(loaded: sd.Loaded, steps: int = 6, **options: Any) -> tuple[Calibrator, Tensor]:
    calibrator = Calibrator(loaded.family, sublayer_names(loaded.config))
    noise, labels = initial_noise(loaded, 2), torch.tensor([1, 5])
    images = sample(loaded, noise, labels, SampleOptions(steps=steps, cache=calibrator, **options)).images
    return calibrator, images


def test_changes_are_those_of_the_gated_outputs_as_a_share_of_the_stream() -> None:
    torch.manual_seed(0)
    calibrator = Calibrator("dit", ("0.self", "0.mlp"))
    outputs, streams, gate = torch.randn(4, 2, 9, 3), torch.randn(4, 2, 9, 3), torch.randn(2, 1, 3)
    for number, time in enumerate((1.0, 0.7, 0.4, 0.1)):
        probe = calibrator.evaluation(time)
        for name in calibrator.sublayers:
            out = probe.branch(streams[number], name, (3, 3), lambda _, n=number: outputs[n], gate)
            assert torch.equal(out, torch.addcmul(streams[number], gate, outputs[number])), "nothing is changed"
    found = calibrator.calibration()
    assert found.times == (1.0, 0.7, 0.4, 0.1)
    for step in range(4):
        for age in range(1, AGES + 1):
            value = found.change[step, 0, age - 1]
            if age > step:
                assert np.isnan(value)
                continue
            error = (gate * (outputs[step] - outputs[step - age])).square().mean()
            assert value == pytest.approx(float(error / streams[step].square().mean()), rel=1e-4)
    left = []
    for step in (2, 3):  # the change of the step by the order of the change before
        now, before = ((gate * (outputs[s] - outputs[s - 1])).square().mean(-1) for s in (step, step - 1))
        order = before.argsort(dim=1, descending=True)
        left.append([1 - float(now.gather(1, order[:, :n]).sum() / now.sum()) for n in (0, 3, 5, 7, 9)])
    np.testing.assert_allclose(found.left[0], np.mean(left, axis=0), atol=1e-5)


def test_a_run_that_is_measured_is_the_dense_run(dense: sd.Loaded) -> None:
    calibrator, images = calibrated(dense)
    plain = sample(dense, initial_noise(dense, 2), torch.tensor([1, 5]), SampleOptions(steps=6)).images
    assert torch.equal(images, plain)
    found = calibrator.calibration()
    assert found.times == tuple(round(time, 6) for time in evaluation_times("flow", 6))
    assert np.isnan(found.change[0]).all()
    assert (found.change[1:, :, 0] > 0).all()


def test_runs_are_not_compared_with_each_other(dense: sd.Loaded) -> None:
    once, _ = calibrated(dense)
    noise, labels = initial_noise(dense, 2), torch.tensor([1, 5])
    sample(dense, noise, labels, SampleOptions(steps=6, cache=once))
    again, _ = calibrated(dense)
    np.testing.assert_allclose(once.calibration().change, again.calibration().change)


def test_too_few_steps_are_refused(dense: sd.Loaded) -> None:
    calibrator, _ = calibrated(dense, steps=1)
    with pytest.raises(ValueError, match="at least two steps"):
        calibrator.calibration()


def test_plans_stay_within_their_budget_and_can_be_solved_again(dense: sd.Loaded) -> None:
    calibration, costs = calibrated(dense)[0].calibration(), costs_of(dense)
    for budget in (0.4, 0.6, 0.9):
        plan, allocation = calibrated_plan(calibration, costs, budget)
        assert plan.share(costs.macs, costs.outside) <= budget
        assert {level for row in plan.table for level in row} <= {0, FULL}, "whole sub-layers by default"
        assert allocation.bound <= allocation.value + 1e-9
    data = json.loads(json.dumps(plan.to_json()))
    back = calibration_from_json(CachePlan.from_json(data).provenance["calibration"], plan)
    np.testing.assert_allclose(back.change, calibration.change, rtol=1e-5)
    less = with_budget(CachePlan.from_json(data), costs, 0.4)
    assert less == calibrated_plan(calibration, costs, 0.4)[0]
    partly = calibrated_plan(calibration, costs, 0.5, Choices(whole=("self",), selector="change"))[0]
    assert partly.selector == "change"
    assert all(level in (0, FULL) for row in partly.table for level in row[::2])
    with pytest.raises(ValueError, match="carries no calibration"):
        with_budget(replace(plan, provenance={}), costs, 0.5)
    wrong = {**plan.provenance["calibration"], "left": [[1, 0]]}
    with pytest.raises(ValueError, match="calibrate again"):
        calibration_from_json(wrong, plan)


def test_the_weighting_is_its_formula() -> None:
    weights = Weighting(2.0, 1.0).of((1.0, 0.5), 3)
    expected = [[(time + 0.05) ** 2 * np.exp(depth) for depth in (-0.5, 0, 0.5)] for time in (1.0, 0.5)]
    np.testing.assert_allclose(weights, expected)


def test_the_trial_with_the_least_error_is_kept(dense: sd.Loaded) -> None:
    calibration, costs = calibrated(dense)[0].calibration(), costs_of(dense)
    plans = [calibrated_plan(calibration, costs, 0.5, None, weighting)[0] for weighting in WEIGHTINGS]
    wanted = plans[3]

    def run(plan: CachePlan) -> Tensor:
        return torch.tensor([[0.5, 0.5], [0.5, -0.5], [9.0, 9.0]] if plan == wanted else [[2.0, 2.0]] * 3)

    best = tried_plan(calibration, costs, 0.5, run, torch.zeros(3, 2))
    assert best == wanted, "one picture that went another way does not decide"
    assert min(trial["error"] for trial in best.provenance["trials"]) == pytest.approx((0.25 * 0.25 * 81) ** (1 / 3))
    assert typical_error(torch.ones(2, 3), torch.ones(2, 3)) == pytest.approx(1e-12)
    alone = tried_plan(calibration, costs, 0.5, lambda _: pytest.fail("one trial needs no run"), Tensor(), trials=1)
    assert alone == plans[0]


def test_commands_make_change_draw_and_follow_plans(cli: Cli, tmp_path: Path) -> None:
    model = save_pixels(tmp_path / "dense.safetensors")
    out, png = tmp_path / "plan.json", tmp_path / "plan.png"
    fast = ("--steps", 5, "--threads", 1)
    made = cli("calibrate", model, out, "--classes", "0-1", "--budget", "60%", "--draw", png, "--json", *fast)
    assert made.code == 0, made.err
    assert made.json["share_of_dense"] <= 0.6
    assert Image.open(png).size == (900, 600)
    assert read_plan(out).provenance["command"].startswith("sparsedit calibrate")
    changed = cli("plan", model, tmp_path / "less.json", "--plan", out, "--budget", "0.45", "--json")
    assert changed.json["share_of_dense"] <= 0.45
    ruled = cli("plan", model, tmp_path / "fora.json", "--rule", "fora", "--steps", 5, "--budget", "60%")
    assert "made by rule fora" in ruled.out
    pictures = tmp_path / "pictures.png"
    drawn = cli("sample", model, "--classes", 3, "--cache", out, "--out", pictures, "--cfg", 1, "--json", *fast)
    assert drawn.code == 0, drawn.err
    full = cli("sample", model, "--classes", 3, "--out", pictures, "--cfg", 1, "--json", *fast).json
    assert drawn.json["macs"] == made.json["macs"]
    assert drawn.json["macs"] < full["macs"]
    assert drawn.json["cache_bytes"] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--rule", "fora", "--plan", "x.json"), "say where the plan comes from"),
        ((), "say where the plan comes from"),
        (("--plan", "missing.json"), "missing.json"),
        (("--rule", "fora", "--budget", "0"), "no share of the dense MACs"),
        (("--rule", "fora", "--budget", "10%"), "budget"),
    ],
)
def test_bad_questions_are_one_sentence(cli: Cli, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    model, out = save_pixels(tmp_path / "dense.safetensors"), tmp_path / "plan.json"
    found = cli("plan", model, out, "--steps", 5, *words)
    assert found.code == 2
    assert told in found.err
    assert len(found.err.strip().splitlines()) == 1
    assert not out.exists()


def test_a_sparse_model_follows_plans_too(tmp_path: Path) -> None:
    loaded = sd.load_checkpoint(save_pixels(tmp_path / "sparse.safetensors", LAYOUT))
    names = sublayer_names(loaded.config)
    table = [[FULL] * len(names), *[[0] * len(names)] * 5]
    plan = CachePlan("dit", evaluation_times("flow", 6), names, tuple(map(tuple, table)))
    samples = sample(loaded, initial_noise(loaded, 2), torch.tensor([1, 5]), SampleOptions(steps=6, cache=plan))
    grids = [evaluation.sparse for evaluation in samples.evaluations]
    assert len(set(grids)) > 1
    for before, evaluation in zip(samples.evaluations, samples.evaluations[1:], strict=False):
        assert evaluation.recomputed is not None
        assert (evaluation.recomputed > 0) == (before.sparse != evaluation.sparse), "a new grid is recomputed"
    told = scheduled_macs(plan, loaded.config, (8, 8), [SCHEDULE.grid(time, (8, 8)) for time in plan.times])
    assert told.macs == samples.macs, "what was announced is what ran"
    assert told.dense_macs == sum(evaluation.dense_macs for evaluation in samples.evaluations) // 2
    changes = sum(a.sparse != b.sparse for a, b in zip(samples.evaluations, samples.evaluations[1:], strict=False))
    assert told.forced > 0 and told.forced % changes == 0  # noqa: PT018
