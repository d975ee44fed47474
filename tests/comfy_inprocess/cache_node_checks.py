"""The nodes of the token cache: a plan by rule, by calibration, from a file; saved, changed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from comfy_pack import node, outputs, pack, run
from sampling import sample
from scheduled import load, load_dense, records

SAMPLING = {"seed": 3, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
PLAN = {"source": "rule: fora", "budget": 0.6, "steps": 4, "scheduler": "normal"}
CACHE = {"memory_limit": 0.0, "start_percent": 0.0, "end_percent": 1.0}


def conditions() -> tuple[Any, Any]:
    blank = torch.zeros(1, 1, 1)
    return [[blank, {"class_label": torch.tensor([1])}]], [[blank, {}]]


def calibrated(model: Any, **values: Any) -> tuple[Any, Any, str]:
    positive, negative = conditions()
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    settings = SAMPLING | {"budget": 0.6, "trials": 2, "selector": "age", "partly": False} | values
    return outputs(
        "SparseDiTCalibrate", model=model, positive=positive, negative=negative, latent_image=latent, **settings
    )


def raises(words: str, *arguments: Any, **keywords: Any) -> None:
    told = ""
    try:
        run(*arguments, **keywords)
    except ValueError as error:
        told = str(error)
    assert words in told


def check_a_rule_follows_the_steps_of_the_sampler() -> None:
    model = load_dense()
    plan, picture, text = outputs("SparseDiTCachePlan", model=model, **PLAN)
    patched = run("SparseDiTTokenCache", model=model, plan=plan, **CACHE)
    sample(patched)
    times = [round(evaluation.time, 5) for evaluation in records(patched)[-1].evaluations]
    assert times == [round(time, 5) for time in plan.times]
    assert picture.shape == (1, 600, 900, 3)
    assert "% of dense MACs" in text
    assert plan.share(*costs(model)) <= 0.6
    assert records(patched)[-1].ratio <= 0.6 + 1e-9, "what ran is what the plan says"


def costs(model: Any) -> tuple[Any, Any]:
    found = pack("sparsedit_core.cache.costs").sublayer_costs(model.model.sparsedit.config, (8, 8))
    return found.macs, found.outside


def check_no_plan_computes_everything() -> None:
    model = load_dense()
    assert torch.equal(sample(run("SparseDiTTokenCache", model=model, **CACHE)), sample(model))


def check_a_calibrated_plan_stays_within_its_budget_and_takes_others() -> None:
    for model in (load_dense(), load()):
        plan, picture, text = calibrated(model)
        assert plan.share(*costs(model)) <= 0.6 if model.model.sparsedit.layout is None else True
        assert "trials" in text
        assert len(plan.provenance["trials"]) >= 1
        assert picture.shape == (1, 600, 900, 3)
        less, _, _ = outputs("SparseDiTCachePlan", model=model, plan=plan, **PLAN | {"budget": 0.45})
        assert less.budget == 0.45
        assert less.times == plan.times
        assert sum(map(sum, less.table)) < sum(map(sum, plan.table))
    again, _, _ = calibrated(load_dense())
    assert again.hash == calibrated(load_dense())[0].hash, "the same inputs give the same plan"


def check_calibrating_leaves_no_trace() -> None:
    model = load_dense()
    before = sample(model)
    calibrated(model, partly=True, selector="change", trials=1)
    assert torch.equal(sample(model), before)


def check_a_saved_plan_comes_back() -> None:
    import folder_paths

    plans = pack("nodes.plans")
    model = load_dense()
    plan, _, _ = calibrated(model)
    path = Path(run("SparseDiTSavePlan", plan=plan, name="a plan"))
    second = Path(run("SparseDiTSavePlan", plan=plan, name="a plan"))
    assert path != second
    assert path.exists() and second.exists()  # noqa: PT018
    assert json.loads(path.read_text())["family"] == "dit"
    folder_paths.filename_list_cache.clear()
    assert path.name in plans.plan_names()
    read, _, _ = outputs("SparseDiTCachePlan", model=model, **PLAN | {"source": path.name, "budget": plan.budget})
    assert read.hash == plan.hash
    path.write_text("{")
    node = pack("nodes.cache_plan").SparseDiTCachePlan
    told = node.validate_inputs(source=path.name)
    assert "holds no cache plan" in told
    assert str(path.parent) not in told, "errors name no folder of the machine"
    path.unlink()
    second.unlink()
    assert "press R" in node.validate_inputs(source=path.name)
    assert "no folder" in pack("nodes.save_plan").SparseDiTSavePlan.validate_inputs(name="../x")


def check_plans_of_other_models_are_refused() -> None:
    plan, _, _ = outputs("SparseDiTCachePlan", model=load_dense(), **PLAN)
    other = pack("sparsedit_core.cache.plan").CachePlan("dit", (1.0, 0.5), ("0.self", "0.mlp"), ((4, 4), (0, 0)))
    raises("the plan is for a dit with 2 sub-layers", "SparseDiTTokenCache", model=load_dense(), plan=other, **CACHE)
    sample(run("SparseDiTTokenCache", model=load(), plan=plan, **CACHE))  # a sparse model of as many blocks


def check_schedule_and_cache_are_independent_of_their_order() -> None:
    pruning = pack("sparsedit_core.schedule").PruningSchedule(0.8, 0.3)
    model = load()
    plan, _, _ = outputs("SparseDiTCachePlan", model=model, **PLAN)
    first = run("SparseDiTTokenCache", model=model, plan=plan, **CACHE)
    first = run("SparseDiTApplySchedule", model=first, schedule=pruning)
    second = run("SparseDiTApplySchedule", model=model, schedule=pruning)
    second = run("SparseDiTTokenCache", model=second, plan=plan, **CACHE)
    assert torch.equal(sample(first), sample(second))
    grids = {evaluation.sparse for evaluation in records(second)[-1].evaluations}
    assert len(grids) > 1
    words = outputs("SparseDiTCachePlan", model=second, **PLAN)[2]
    share = 100 * records(second)[-1].ratio
    assert f"{share:.1f} % of dense MACs (the sparse model alone" in words, "changes of grid are counted beforehand"
    off = run("SparseDiTTokenCache", model=second, **CACHE)
    alone = run("SparseDiTApplySchedule", model=model, schedule=pruning)
    assert torch.equal(sample(off), sample(alone)), "a cache taken off again"


def check_the_live_picture_is_the_nodes_own() -> None:
    import base64
    import io

    from PIL import Image

    view = pack("nodes.plan_view")
    model = load_dense("viewed.safetensors")
    result = node("SparseDiTCachePlan").execute(model=model, **PLAN)
    values = {"values": dict(PLAN)}
    token = result.ui["sparsedit_plan"][0]
    for known in ({"checkpoint": "viewed.safetensors"}, {"token": token}):
        answer = view.plan_view(values | known)
        assert answer["words"] == result.result[2]
        assert Image.open(io.BytesIO(base64.b64decode(answer["picture"]))).size == (900, 600)
    moved = view.plan_view({"values": PLAN | {"budget": 0.3}, "token": token})
    assert moved["words"] != result.result[2]
    assert view.plan_view(values)["picture"] is None, "of an unknown model no rule is drawn"
    assert view.plan_view(values | {"checkpoint": "viewed.safetensors", "linked": True})["picture"] is None
    plan, _, _ = calibrated(model)
    linked = node("SparseDiTCachePlan").execute(model=model, plan=plan, **PLAN).ui["sparsedit_plan"][0]
    less = view.plan_view({"values": PLAN | {"budget": 0.4}, "token": linked, "linked": True})
    expected, _, text = outputs("SparseDiTCachePlan", model=model, plan=plan, **PLAN | {"budget": 0.4})
    assert less["words"] == text
    assert expected.budget == 0.4
    for wrong in ({"budget": 0}, {"budget": True}, {"steps": 1}, {"scheduler": "x"}, {"source": 3}, {"source": "gone"}):
        try:
            view.plan_view({"values": PLAN | wrong, "token": token})
        except ValueError:
            continue
        raise AssertionError(wrong)


def check_what_cannot_be_calibrated_is_told_before_sampling() -> None:
    told = []
    for wrong in ({"selector": "entropy"}, {"steps": 1}):
        try:
            calibrated(load_dense(), **wrong)
        except ValueError as error:
            told.append(str(error))
    assert "reads none" in told[0]
    assert "at least 2" in told[1]
