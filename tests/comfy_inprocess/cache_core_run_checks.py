"""Sampling with ComfyUI's own FLUX, Wan2.1 and PixArt under a token cache, with what else people put on a MODEL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cache_flux_checks
import cache_pixart_checks
import cache_wan_checks
import torch
from cache_flux_checks import CONTEXT, POOLED, flux
from cache_models import close, plan, sized
from cache_models import run as cached_run
from cache_wan_checks import CONTEXT as WAN_CONTEXT
from cache_wan_checks import wan
from comfy_pack import pack
from lora_checks import with_lora
from pixart import stock
from pixart import text as pixart_text
from sampling import cancelled, sample
from scheduled import records
from torch import Tensor

FULL = 4
SHAPES = {"flux": (10, 7), "wan": (3, 6, 8), "pixart": (64, 32)}
SCHEDULERS = {"flux": "simple", "wan": "simple", "pixart": "normal"}


def text(tokens: int, features: int, seed: int, **more: Any) -> list[list[Any]]:
    return [[torch.randn(1, tokens, features, generator=torch.Generator().manual_seed(seed)), more]]


def flux_run(model: Any, *, same: bool = True, more: dict[str, Any] | None = None, **settings: Any) -> Tensor:
    """``same``: positive and negative text are of one length, so that they are evaluated together."""
    pooled = {"pooled_output": torch.ones(1, POOLED), "guidance": 3.5, **(more or {})}
    pair = text(5, CONTEXT, 1, **pooled), text(5 if same else 8, CONTEXT, 2, **pooled)
    return sample(model, conditions=pair, **{"size": (10, 7), "scheduler": "simple", **settings})


def wan_run(model: Any, *, same: bool = True, **settings: Any) -> Tensor:
    pair = text(6, WAN_CONTEXT, 1), text(6 if same else 9, WAN_CONTEXT, 2)
    return sample(model, conditions=pair, **{"size": (3, 6, 8), "scheduler": "simple", **settings})


def pixart_run(model: Any, *, same: bool = True, **settings: Any) -> Tensor:
    pair = pixart_text(7), pixart_text(7 if same else 4, seed=2)
    return sample(model, conditions=pair, **{"size": (64, 32), **settings})


def models() -> Iterator[tuple[Any, Callable[..., Tensor]]]:
    yield flux(), flux_run
    yield wan(), wan_run
    yield stock(), pixart_run


def cached(model: Any, *rows: int, **settings: Any) -> Any:
    """A clone under a plan with these levels of all sub-layers behind a full first step, at the times of the runs."""
    import comfy.samplers

    clone, adapter = model.clone(), pack("nodes.cache_adapters").adapter_of(model)
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, SCHEDULERS[adapter.family], len(rows) + 1)
    times = [pack("nodes.sampling_time").diffusion_time(sampling, sigma) for sigma in sigmas[:-1]]
    made = pack("nodes.cache_run").CacheSettings(adapter, plan(adapter, *rows, times=times), **settings)
    pack("nodes.schedule_patch").attach_cache(clone, made, "a model")
    return clone


def check_a_full_plan_changes_nothing() -> None:
    for model, run in models():
        for same in (True, False):
            expected = run(model, same=same, batch=2)
            assert torch.equal(run(cached(model, FULL, FULL, FULL), same=same, batch=2), expected), type(model.model)


def check_the_plan_acts_leaves_no_trace_and_is_counted() -> None:
    for model, run in models():
        patched = cached(model, 0, 2, 1)
        plain, first = run(model, batch=2), run(patched, batch=2)
        assert 1e-3 < float((first - plain).norm() / plain.norm()) < 0.9, type(model.model)
        done = records(patched)[-1].evaluations
        adapter = pack("nodes.cache_adapters").adapter_of(model)
        for evaluation, level in zip(done, (4, 0, 2, 1), strict=True):
            costs = adapter.costs(sized((4, 16, *SHAPES[adapter.family]), evaluation.caption_tokens))
            assert evaluation.macs == 4 * costs.at([level] * len(adapter.sublayers))
            assert evaluation.dense_macs == 4 * costs.dense
        assert torch.equal(run(model, batch=2), plain)
        if adapter.family != "pixart":  # what cancels here is a wrapper that its network does not call
            cancelled(patched, 3, lambda each, run=run: run(each, batch=2))
        assert torch.equal(run(model, batch=2), plain)
        assert torch.equal(run(patched, batch=2), first)


def check_samplers_img2img_and_halves_apart() -> None:
    for model, run in models():
        patched = cached(model, 0, 1, 2)
        for settings in ({"sampler": "heun"}, {"sampler": "dpmpp_2m"}, {"same": False}, {"cfg": 1.0}):
            assert torch.isfinite(run(patched, **settings)).all(), settings
        start = torch.randn(1, model.model.latent_format.latent_channels, *SHAPES[family(model)])
        assert torch.isfinite(run(patched, denoise=0.5, latent=start)).all()
        assert records(patched)[-1].evaluations[0].recomputed == 1.0, "the first evaluation of a run is full"


def family(model: Any) -> str:
    found: str = pack("nodes.cache_adapters").adapter_of(model).family
    return found


LAYERS = {
    "flux": ["double_blocks.0.img_attn.qkv", "double_blocks.1.img_mlp.0", "single_blocks.0.linear1"],
    "wan": ["blocks.0.self_attn.q", "blocks.1.cross_attn.k", "blocks.1.ffn.0"],
    "pixart": ["blocks.0.attn.qkv", "blocks.3.cross_attn.kv_linear", "blocks.6.mlp.fc1"],
}


def check_loras_in_either_order() -> None:
    for model, run in models():
        weights = shaped(model, LAYERS[family(model)])
        expected = run(with_lora(model, weights))
        assert not torch.allclose(expected, run(model), atol=1e-2)
        assert torch.equal(run(cached(with_lora(model, weights), FULL, FULL, FULL)), expected)
        assert torch.equal(run(with_lora(cached(model, FULL, FULL, FULL), weights)), expected)


def shaped(model: Any, layers: list[str]) -> dict[str, Tensor]:
    """A LoRA of rank 2 on layers of a network."""
    made: dict[str, Tensor] = {}
    for number, name in enumerate(layers):
        rows, columns = model.model.diffusion_model.get_submodule(name).weight.shape
        generator = torch.Generator().manual_seed(number)
        made[f"diffusion_model.{name}.lora_up.weight"] = torch.randn(rows, 2, generator=generator)
        made[f"diffusion_model.{name}.lora_down.weight"] = torch.randn(2, columns, generator=generator)
    return made


def check_low_vram_computes_the_same() -> None:
    """Weights stay where they are, and LoRAs on them are added when a layer is called: the walk calls the layers."""
    import comfy.model_management as mm

    for module, model in ((cache_flux_checks, flux()), (cache_wan_checks, wan()), (cache_pixart_checks, stock())):
        patched = with_lora(model, shaped(model, LAYERS[family(model)]))
        each = pack("nodes.cache_adapters").adapter_of(patched)
        each.prepare(patched)
        wanted = plan(each, 2, 1, 0, 3)
        mm.load_models_gpu([patched], force_full_load=True)
        call = module.calling(patched)
        full = cached_run(each, wanted, call).outputs
        mm.unload_all_models()
        patched.patch_model(torch.device("cpu"), lowvram_model_memory=64)
        try:
            assert patched.lowvram_patch_counter() > 0
            low = cached_run(each, wanted, call).outputs
        finally:
            patched.unpatch_model(torch.device("cpu"))
        for found, expected in zip(low, full, strict=True):
            close(found, expected)


def check_core_step_caches_in_front_of_it() -> None:
    """EasyCache may answer in the place of the model: then nothing ran, and the next call finds its store."""
    from comfy_extras.nodes_easycache import EasyCacheNode

    for model, run in list(models())[:2]:
        both = EasyCacheNode.execute(cached(model, 2, 1, 2, 1, 2, 1, 2), 3.0, 0.1, 1.0, False).result[0]
        assert torch.isfinite(run(both, steps=8)).all()
        done = records(both)[-1].evaluations
        assert 0 < sum(evaluation.macs == 0 for evaluation in done) < 8


def check_reference_pictures_are_counted_and_kept() -> None:
    """Kontext: their tokens are no part of the latent."""
    from comfy_extras.nodes_edit_model import ReferenceLatent

    model = flux()
    patched = cached(model, 2, 1, 0)
    latent = {"samples": torch.randn(1, 16, 6, 7)}
    pooled = {"pooled_output": torch.ones(1, POOLED), "guidance": 3.5}
    given = ReferenceLatent.execute(text(5, CONTEXT, 1, **pooled), latent).result[0]
    expected = sample(model, conditions=(given, given), size=(10, 7), scheduler="simple")
    full = cached(model, FULL, FULL, FULL)
    assert torch.equal(sample(full, conditions=(given, given), size=(10, 7), scheduler="simple"), expected)
    sample(patched, conditions=(given, given), size=(10, 7), scheduler="simple")
    run, adapter = records(patched)[-1], pack("nodes.cache_adapters").adapter_of(model)
    size = sized((2, 16, 10, 7), 5, beside=12)
    costs = adapter.costs(size)
    assert [each.macs for each in run.evaluations] == [2 * costs.at([level] * 6) for level in (4, 2, 1, 0)]
    assert run.cache.peak_bytes == sum(adapter.sizes(size, 4, adapter.sublayers).values())


def check_context_windows_have_their_own_stores() -> None:
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

    model = wan()
    settings = {"context_length": 9, "context_overlap": 1, "context_schedule": "standard_static"}
    more = {"context_stride": 1, "closed_loop": False, "fuse_method": "pyramid"}
    node = WanContextWindowsManualNode
    known = {item.id for item in node.define_schema().inputs}
    more |= {"freenoise": False} if "freenoise" in known else {}

    def windowed(each: Any) -> Any:
        return node.execute(each, **settings, **more).result[0]

    expected = wan_run(windowed(model), size=(7, 6, 8))
    assert torch.equal(wan_run(windowed(cached(model, FULL, FULL, FULL)), size=(7, 6, 8)), expected)
    patched = windowed(cached(model, 0, 2, 1))
    assert torch.isfinite(wan_run(patched, size=(7, 6, 8))).all()
    shares: dict[float, set[float]] = {}
    for evaluation in records(patched)[-1].evaluations:
        shares.setdefault(evaluation.time, set()).add(evaluation.recomputed)
    assert list(shares.values()) == [{1.0}, {0.0}, {0.5}, {0.25}], "every window follows the plan"
