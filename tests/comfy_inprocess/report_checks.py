"""The account of a run: complete, the same from run to run but for the seconds, and of the right runs."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from comfy_pack import node, pack
from load_checks import error_of
from lora_checks import logged
from sampling import cancelled, sample
from scheduled import apply, load, load_dense, records, schedule, spied

TIMED = ("seconds", "measured_speedup")


def report(model: Any) -> dict[str, Any]:
    """Text, picture and parsed JSON of the report node."""
    latent = {"samples": torch.zeros(1, 4, 2, 2)}
    same, text, picture, data = node("SparseDiTReport").execute(model=model, latent=latent).result
    assert same is latent
    return {"text": text, "picture": picture, "json": json.loads(data)}


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if key not in TIMED}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def check_every_evaluation_is_in_the_report() -> None:
    wanted = schedule()
    model, calls = spied(apply(load(), wanted))
    sample(model, (1, 2), batch=2, sampler="heun", steps=3)
    (run,) = report(model)["json"]["runs"]
    assert [row["timestep"] for row in run["evaluations"]] == [t for t, *_ in calls]
    assert [tuple(row["sparse_grid"]) for row in run["evaluations"]] == [grid for _, grid, *_ in calls]
    assert all(row["images"] == 4 for row in run["evaluations"])
    cost = pack("sparsedit_core.cost")
    config = model.model.sparsedit.config
    for row in run["evaluations"]:
        one = cost.macs(config, (16, 16), sparse_grid=tuple(row["sparse_grid"]), factor=1)
        assert row["macs"] == 4 * one.total
        assert row["flops"] == 8 * one.total
        assert row["seconds"] > 0
        assert math.isclose(row["time"], row["timestep"] / 999)
    assert run["macs"] == sum(row["macs"] for row in run["evaluations"])
    assert 0 < run["ratio_to_dense"] < 1


def check_seeds_change_nothing_but_the_seconds() -> None:
    reports = []
    for seed in (1, 2):
        model = apply(load(), schedule())
        sample(model, seed=seed, steps=3)
        reports.append(report(model))
    first, second = reports
    assert without_seconds(first["json"]) == without_seconds(second["json"])
    assert first["picture"].shape == (1, 600, 900, 3)
    assert "% of dense" in first["text"]


def check_halves_computed_apart_are_one_evaluation() -> None:
    together, apart = apply(load(), schedule()), apply(load(), schedule())
    sample(together, steps=3)
    apart.add_object_patch("memory_required", lambda *args, **kwargs: 1e18)
    spy, calls = spied(apart)
    sample(spy, steps=3)
    assert {shape[0] for _, _, shape, _ in calls} == {1}
    assert without_seconds(report(spy)["json"]) == without_seconds(report(together)["json"])


def check_what_a_cache_skips_is_not_counted() -> None:
    from comfy_extras.nodes_easycache import EasyCacheNode

    plain = apply(load(), schedule())
    cached = EasyCacheNode.execute(plain, 100.0, 0.0, 1.0, False).result[0]
    spy, calls = spied(cached)
    sample(spy, steps=6)
    (run,) = report(spy)["json"]["runs"]
    done = [row for row in run["evaluations"] if row["macs"]]
    assert len(run["evaluations"]) == 6
    assert 0 < len(done) == len(calls) < 6
    assert "skipped" in report(spy)["text"]


def check_dense_models_report_too() -> None:
    model = load_dense()
    sample(model, steps=2)
    (run,) = report(model)["json"]["runs"]
    assert run["ratio_to_dense"] == 1
    assert run["layout"] is None
    assert run["evaluations"][0]["sparse_grid"] is None


def check_the_dense_run_of_the_session_is_the_measure() -> None:
    runs = pack("nodes.runs")
    runs._runs.clear()
    model = apply(load(), schedule())
    sample(model, steps=3)
    assert report(model)["json"]["runs"][0]["measured_speedup"] is None
    assert "measured" not in report(model)["text"]
    sample(load_dense(), steps=2)
    (run,) = report(model)["json"]["runs"]
    dense, sparse = (record.evaluations[1:] for record in reversed(runs.finished()))
    means = [sum(row.seconds for row in rows) / len(rows) for rows in (dense, sparse)]
    assert math.isclose(run["measured_speedup"]["factor"], means[0] / means[1])
    assert run["measured_speedup"]["dense_model"] == "dense.safetensors"
    assert run["setting"] == "float32 on cpu"
    assert "than the dense run of dense.safetensors" in report(model)["text"]


def check_a_run_is_one_line_in_the_log() -> None:
    model = apply(load(), schedule())
    lines = infos_of(lambda: sample(model, sampler="heun", steps=3))
    (run,) = records(model)
    assert lines == [f"scheduled.safetensors: {run.summary()}"]
    assert f"3x3 to 7x7 of 8x8 tokens, 5 evaluations, {100 * run.ratio:.1f} % of dense MACs" in lines[0]
    assert infos_of(lambda: cancelled(model, 2, lambda clone: sample(clone, steps=3))) == []


def infos_of(call: Callable[[], object]) -> list[str]:
    """What the pack logs as information meanwhile."""
    return [record.getMessage() for record in logged(call, logging.INFO) if record.levelno == logging.INFO]


def check_progress_is_shown_on_the_executing_node_only() -> None:
    from comfy_execution.utils import CurrentNodeContext

    progress = pack("nodes.progress")
    shown: list[tuple[str, str]] = []
    kept = progress.show_on, progress.PAUSE
    progress.show_on = lambda node_id, text: shown.append((node_id, text))
    try:
        model = apply(load(), schedule())
        plain = sample(model, sampler="heun", steps=3)
        assert shown == [], "a script shows nothing"
        with CurrentNodeContext("prompt", "77"):
            progress.PAUSE = 1e9
            assert torch.equal(sample(model, sampler="heun", steps=3), plain)
            assert len(shown) == 2, "the first evaluation, and the end"
            shown.clear()
            progress.PAUSE = 0.0
            sample(model, sampler="heun", steps=3)
        run = records(model)[-1]
        assert {node_id for node_id, _ in shown} == {"77"}
        assert [text.partition(",")[0] for _, text in shown[:-1]] == [f"evaluation {n}" for n in range(1, 6)]
        first = run.evaluations[0]
        share = 100 * first.macs / first.dense_macs
        tokens = f"{first.grid_name} of 8x8 tokens ({first.tokens / 64:.0%})"
        assert shown[0][1] == f"evaluation 1, time 1.00: {tokens}, {share:.1f} % of dense MACs so far"
        assert shown[-1][1] == run.headline()
        assert f"{100 * run.ratio:.1f} % of dense MACs so far" in shown[-2][1]
        shown.clear()
        with CurrentNodeContext("prompt", "77"):
            cancelled(model, 2, lambda clone: sample(clone, steps=3))
        assert shown[-1] == ("77", ""), "a cancelled run leaves no text"
    finally:
        progress.show_on, progress.PAUSE = kept


def check_no_run_says_what_to_connect() -> None:
    assert "connect the MODEL" in error_of(lambda: report(apply(load(), schedule())))


def check_only_the_samplers_before_the_report_count() -> None:
    runs, run = pack("nodes.runs"), pack("nodes.report")
    model = apply(load(), schedule())
    sample(model, steps=2)
    record = records(model)[0]
    like = record.source, record.config, record.schedule, ""
    for prompt, sampler in (("old", "3"), ("old", "5.0.1"), ("new", "3"), ("new", "4")):
        runs.publish(runs.Published("token", prompt, sampler, record))
    graph = {
        "9": {"inputs": {"model": ["1", 0], "latent": ["7", 0]}},
        "7": {"inputs": {"samples": ["3", 0], "mask": ["5", 0], "size": [1, 2]}},
        "3": {"inputs": {"seed": 1}}, "5": {"inputs": {}}, "4": {"inputs": {}}, "1": {"inputs": {}},
    }  # fmt: skip
    for item in graph.values():
        item["class_type"] = "KSampler"
    dynprompt = SimpleNamespace(get_node=graph.__getitem__, has_node=graph.__contains__)
    before = run.sampled_by(SimpleNamespace(dynprompt=dynprompt, unique_id="9"))
    assert set(before) == {"1", "7", "3", "5"}
    assert len(runs.find("token", like, before)) == 2, "the newest of 3, and the old one of 5"
    assert len(runs.find("a token that is gone", like, before)) == 2
    assert runs.find("a token that is gone", ("other", *like[1:]), before) == []
    for text, found in ((runs.node_text(dynprompt, "3"), 1), ("what had this number in another workflow", 0)):
        runs.publish(runs.Published(f"token {found}", "new", "3", record, text))
        assert len(runs.find(f"token {found}", ("other", *like[1:]), before)) == found


def check_the_registry_is_bounded() -> None:
    runs = pack("nodes.runs")
    model = load_dense()
    sample(model, steps=1)
    published = runs.Published("many", "", "", records(model)[0])
    for _ in range(2 * runs.KEPT_RUNS):
        runs.publish(published)
    assert len(runs.find("many", ("", None, None, ""))) == runs.KEPT_RUNS
