"""The nodes of the token cache on ComfyUI's own FLUX, Wan2.1 and PixArt."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from cache_core_run_checks import CONTEXT, POOLED, SCHEDULERS, SHAPES, WAN_CONTEXT, family, models, text
from cache_node_checks import CACHE, PLAN, SAMPLING
from comfy_pack import outputs, run
from load_checks import error_of
from pixart import text as pixart_text
from sampling import sample
from scheduled import records


def conditions(kind: str) -> tuple[Any, Any]:
    pooled = {"pooled_output": torch.ones(1, POOLED), "guidance": 3.5}
    if kind == "flux":
        return text(5, CONTEXT, 1, **pooled), text(5, CONTEXT, 2, **pooled)
    return (text(6, WAN_CONTEXT, 1), text(6, WAN_CONTEXT, 2)) if kind == "wan" else (pixart_text(7), pixart_text(7))


def settings(model: Any) -> tuple[dict[str, Any], Any]:
    """What a run of the model takes, and its empty latent."""
    kind = family(model)
    latent = torch.zeros(1, model.model.latent_format.latent_channels, *SHAPES[kind])
    given = {"conditions": conditions(kind), "size": SHAPES[kind], "scheduler": SCHEDULERS[kind]}
    return given, {"samples": latent}


def check_rules_make_plans_that_run() -> None:
    for model, _ in models():
        given, latent = settings(model)
        for rule in ("uniform", "fora", "toca"):
            wanted = PLAN | {"source": f"rule: {rule}", "scheduler": given["scheduler"], "budget": 0.7}
            plan, picture, words = outputs("SparseDiTCachePlan", model=model, latent=latent, **wanted)
            assert plan.family == family(model)
            assert picture.shape == (1, 600, 900, 3)
            assert "% of dense MACs" in words
            patched = run("SparseDiTTokenCache", model=model, plan=plan, **CACHE)
            assert torch.isfinite(sample(patched, **given)).all()
            times = [evaluation.time for evaluation in records(patched)[-1].evaluations]
            torch.testing.assert_close(torch.tensor(times), torch.tensor(plan.times))


def check_calibrated_plans_beat_reusing_everything() -> None:
    for model, _ in models():
        given, latent = settings(model)
        positive, negative = given["conditions"]
        how = SAMPLING | {"scheduler": given["scheduler"], "budget": 0.7, "trials": 1, "selector": "age"}
        plan, _, _ = outputs(
            "SparseDiTCalibrate", model=model, positive=positive, negative=negative, latent_image=latent,
            partly=True, **how,
        )  # fmt: skip
        dense = sample(model, **given)

        def error(rows: Any, model: Any = model, given: Any = given, plan: Any = plan, dense: Any = dense) -> float:
            other = dataclasses.replace(plan, table=rows) if rows else plan
            found = sample(run("SparseDiTTokenCache", model=model, plan=other, **CACHE), **given)
            return float((found - dense).norm())

        nothing = [plan.table[0], *[[0] * len(plan.sublayers)] * (len(plan.times) - 1)]
        assert 0 < error(None) < error(nothing), family(model)


def check_a_plan_for_another_model_is_refused() -> None:
    found = {family(model): model for model, _ in models()}
    given, latent = settings(found["flux"])
    plan = outputs("SparseDiTCachePlan", model=found["flux"], latent=latent, **PLAN)[0]
    for kind in ("wan", "pixart"):
        words = error_of(lambda: run("SparseDiTTokenCache", model=found[kind], plan=plan, **CACHE))  # noqa: B023
        assert "the plan is for a flux" in words
    both = dataclasses.replace(plan, selector="entropy")
    assert torch.isfinite(sample(run("SparseDiTTokenCache", model=found["flux"], plan=both, **CACHE), **given)).all()
