"""A token cache on the models of this pack: the plan acts, nothing stays, and the record counts it."""

from __future__ import annotations

import logging
from typing import Any

import torch
from comfy_pack import pack
from lora_checks import everywhere, logged, lora, with_lora
from sampling import cancelled, sample
from scheduled import apply, load, load_dense, records, schedule

FULL, NONE = 4, 0


def plan(model: Any, *rows: int, **values: Any) -> Any:
    """Every sub-layer at level ``rows[i]`` in step i of as many evenly spaced ones; the first is full."""
    adapter = pack("nodes.cache_own").OwnAdapter(model.model.sparsedit.config)
    steps = len(rows) + 1
    times = [1 - step / steps for step in range(steps)]
    table = [[level] * len(adapter.sublayers) for level in (FULL, *rows)]
    return pack("sparsedit_core.cache.plan").CachePlan(adapter.family, times, adapter.sublayers, table, **values)


def cached(model: Any, wanted: Any, **settings: Any) -> Any:
    """A clone under a plan."""
    adapter = pack("nodes.cache_own").OwnAdapter(model.model.sparsedit.config)
    clone = model.clone()
    made = pack("nodes.cache_run").CacheSettings(adapter, wanted, **settings)
    pack("nodes.schedule_patch").attach_cache(clone, made, "")
    return clone


def check_a_full_plan_changes_nothing() -> None:
    for model in (load_dense(), load(), load(flow=True, name="flow.safetensors")):
        size = {"size": (16, 12)}
        expected = sample(model, **size)
        assert torch.equal(sample(cached(model, plan(model, FULL, FULL, FULL)), **size), expected)


def check_on_off_on_and_other_sizes_leave_no_trace() -> None:
    model = load_dense()
    patched = cached(model, plan(model, 0, 2, 1))
    first, plain = sample(patched, batch=2), sample(model, batch=2)
    assert not torch.equal(first, plain), "the plan does something"
    sample(patched, size=(20, 12))
    sample(patched, cfg=1.0, sampler="heun")
    assert torch.equal(sample(model, batch=2), plain)
    assert torch.equal(sample(patched, batch=2), first)
    cancelled(patched, 3, lambda each: sample(each, batch=2))
    assert torch.equal(sample(patched, batch=2), first)


def check_samplers_img2img_and_halves_apart() -> None:
    model = load_dense()
    patched = cached(model, plan(model, 0, 1, 2))
    for sampler in ("euler", "heun", "dpm_2", "dpmpp_2m", "uni_pc", "ddim", "dpmpp_sde"):
        assert torch.isfinite(sample(patched, sampler=sampler)).all(), sampler
    assert torch.isfinite(sample(patched, denoise=0.5, latent=torch.randn(1, 4, 16, 16))).all()
    first = records(patched)[-1].evaluations[0]
    assert first.recomputed == 1.0, "the first evaluation of a run is full wherever it starts"


def check_halves_evaluated_apart_have_their_own_stores() -> None:
    model = load_dense()
    patched = cached(model, plan(model, 0, 2, 1))
    together = sample(patched)
    apart = patched.clone()
    inner = apart.model
    real = inner.memory_required
    inner.memory_required = lambda *a, **k: 1e18  # nothing fits twice: the halves are evaluated one by one
    try:
        alone = sample(apart)
    finally:
        inner.memory_required = real
    assert len(records(apart)[-1].evaluations) == 4, "two calls of an evaluation are one row"
    assert float((alone - together).abs().max()) < 1e-3 * float(together.abs().max())


def check_the_record_counts_what_ran() -> None:
    model = load_dense()
    wanted = plan(model, 0, 2, FULL)
    patched = cached(model, wanted)
    sample(patched)
    run = records(patched)[-1]
    costs = pack("sparsedit_core.cache.costs").sublayer_costs(model.model.sparsedit.config, (8, 8))
    for evaluation in run.evaluations:
        row = wanted.row(evaluation.time) if evaluation is not run.evaluations[0] else wanted.table[0]
        assert evaluation.macs == 2 * costs.at(row), evaluation
        assert evaluation.dense_macs == 2 * costs.dense
    assert run.cache.peak_bytes == 2 * 64 * sum(model.model.sparsedit.config.hidden_size * 4 for _ in wanted.reused())
    assert "token cache" in run.text()
    assert run.to_json()["cache"]["recomputed"] == run.recomputed


def check_a_change_of_grid_recomputes_and_counts() -> None:
    model = apply(load(), schedule())
    patched = cached(model, plan(model, 0, 0, 0))
    sample(patched)
    run = records(patched)[-1]
    grids = [evaluation.sparse for evaluation in run.evaluations]
    assert len(set(grids)) > 1, "the schedule of the model still acts"
    for before, evaluation in zip(run.evaluations, run.evaluations[1:], strict=False):
        assert evaluation.recomputed < 1.0
        assert (evaluation.recomputed > 0.0) == (before.sparse != evaluation.sparse)


def check_memory_is_told_limited_and_refused() -> None:
    model = load_dense()
    wanted = plan(model, 0, 0, 0)
    sublayers = len(wanted.sublayers)
    one = 2 * 64 * model.model.sparsedit.config.hidden_size * 4
    told = [each.getMessage() for each in logged(lambda: sample(cached(model, wanted)), logging.INFO)]
    needed = pack("sparsedit_core.units").memory_text(sublayers * one)
    assert told[0] == f"token cache: will keep up to {needed} beside the model", "before anything else of the run"
    patched = cached(model, wanted, limit=3 * one)
    (warned,) = [each.getMessage() for each in logged(lambda: sample(patched), logging.WARNING)]
    assert f"3 of its {sublayers} sub-layers are kept" in warned
    run = records(patched)[-1]
    assert run.cache.peak_bytes <= 3 * one
    assert run.evaluations[1].recomputed == (sublayers - 3) / sublayers
    refused = ""
    try:
        sample(cached(model, wanted, limit=one - 1))
    except ValueError as error:
        refused = str(error)
    assert "one sub-layer alone takes" in refused


def check_percents_limit_where_it_acts() -> None:
    model = load_dense()
    patched = cached(model, plan(model, 0, 0, 0), start=0.8, end=0.3)
    sample(patched, steps=8)
    for number, evaluation in enumerate(records(patched)[-1].evaluations):
        inside = 0.3 <= evaluation.time <= 0.8 and number > 0
        assert evaluation.recomputed == (0.0 if inside else 1.0), evaluation


def check_lora_acts_under_the_cache() -> None:
    model = load_dense()
    wanted = plan(model, 0, 2, 1)
    changed = with_lora(model, lora(everywhere()))
    assert not torch.allclose(sample(cached(changed, wanted)), sample(cached(model, wanted)), rtol=1e-3, atol=1e-3)
    full = plan(model, FULL, FULL, FULL)
    assert torch.equal(sample(cached(changed, full)), sample(changed))


def check_lowvram_equals_full() -> None:
    import comfy.model_management as mm

    model = with_lora(load_dense(), lora(everywhere()))
    wanted, cache = plan(model, 2), pack("sparsedit_core.cache.runtime").TokenCache
    x, t, y = torch.randn(2, 4, 16, 16), torch.tensor([650.0, 650.0]), torch.tensor([2, 7])

    def twice() -> torch.Tensor:
        run, inner = cache(wanted), model.model.diffusion_model
        with torch.no_grad():
            for time in wanted.times:
                out = inner(x + time, t, transformer_options={}, y=y, cache=run.evaluation(time))
        return out.float()

    mm.load_models_gpu([model], force_full_load=True)
    expected = twice()
    mm.unload_all_models()
    model.patch_model(torch.device("cpu"), lowvram_model_memory=64)
    try:
        assert model.lowvram_patch_counter() > 0
        found = twice()
    finally:
        model.unpatch_model(torch.device("cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
