"""The token cache on ComfyUI's own FLUX."""

from __future__ import annotations

from typing import Any

import torch
from cache_models import (
    Part,
    Run,
    agree,
    agree_in,
    assert_calibrated,
    close,
    costs_agree,
    counted,
    kept_storage,
    patcher,
    plain_attention,
    plan,
    randomized,
    run,
    sized,
)
from comfy_pack import Skip, pack
from load_checks import error_of
from torch import Tensor

WIDTH, HEADS, TEXT, CONTEXT, POOLED = 48, 3, 5, 20, 12
SIZE = 10, 7  # of the latent: 5 x 4 tokens, one row of which is filled up
N = 20
MIXED = [[1, 2, 3, 0, 2, 1], [2, 0, 4, 1, 3, 2], [0, 1, 1, 3, 0, 3]]
"""Levels of the six sub-layers."""


def flux(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A MODEL of two double and two single blocks."""
    import comfy.supported_models

    settings = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED, "context_in_dim": CONTEXT,
        "hidden_size": WIDTH, "mlp_ratio": 4.0, "num_heads": HEADS, "depth": 2, "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
    }  # fmt: skip
    if "txt_ids_dims" in fields():
        settings["txt_ids_dims"] = []
    return patcher(comfy.supported_models.Flux(settings | changes), dtype)


def fields() -> Any:
    from comfy.ldm.flux.model import FluxParams

    return FluxParams.__dataclass_fields__


def adapter(model: Any) -> Any:
    return pack("nodes.cache_flux").FluxAdapter.of(model.model)


def calling(model: Any, batch: int = 1, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """The network on inputs that change from one evaluation to the next; ``same`` keeps them."""
    network = model.model.diffusion_model
    same = more.pop("same", False)

    def draw(*shape: int, seed: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)

    def call(number: int, options: dict[str, Any], keywords: dict[str, Any]) -> Tensor:
        number = 0 if same else number
        x = draw(batch, 16, *SIZE, seed=1) + 0.3 * draw(batch, 16, *SIZE, seed=2 + number)
        time = torch.linspace(0.9, 0.6, batch) - 0.1 * number
        context, y = draw(batch, TEXT, CONTEXT, seed=50), draw(batch, POOLED, seed=51)
        guidance = torch.full((batch,), 3.5)
        out: Tensor = network(x, time, context, y, guidance, transformer_options=options, **keywords, **more)
        return out

    return call


def parts(model: Any, text: int = TEXT) -> list[Part]:
    made: list[Part] = []
    for number, block in enumerate(model.model.diffusion_model.double_blocks):
        made += [
            (f"double.{number}.self", block.img_attn.proj, 0), (f"double.{number}.self", block.txt_attn.proj, -1),
            (f"double.{number}.mlp", block.img_mlp, 0),
        ]  # fmt: skip
    for number, block in enumerate(model.model.diffusion_model.single_blocks):
        made.append((f"single.{number}.block", block.linear2, text))
    return made


def compare(model: Any, made: Run, call: Any, **options: Any) -> None:
    agree(made, parts(model), N, call, **options)


def check_full_is_the_model_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = flux(dtype)
        call = calling(model, 2, dtype)
        made = run(adapter(model), plan(adapter(model), 4, 0), call)
        for number in (0, 1):
            with torch.no_grad():
                assert torch.equal(made.outputs[number], call(number, {}, {})), dtype


def check_the_same_input_at_every_level() -> None:
    model = flux()
    made = run(adapter(model), plan(adapter(model), 1, 2, 3, 0, *MIXED), calling(model, 2, same=True))
    for output in made.outputs[1:]:
        close(output, made.outputs[0])


def check_levels_against_core_with_branches_put_back() -> None:
    model = flux()
    for rows in ([0, 0, 0], [1, 1, 1], [2, 3, 1], MIXED):
        call = calling(model, 2)
        compare(model, run(adapter(model), plan(adapter(model), *rows), call), call)


def check_other_rows_for_each_picture() -> None:
    model = flux()
    call = calling(model, 2)
    for settings in ({"shared": False}, {"selector": "change"}, {"selector": "influence"}, {"selector": "entropy"}):
        made = run(adapter(model), plan(adapter(model), *MIXED, **settings), call, members=("a", "b"))
        if settings == {"shared": False}:
            rows = made.rows[1]["double.0.self"]
            assert rows is not None
            assert set(rows[0].tolist()) != set(rows[1].tolist())
        compare(model, made, call)


def check_half_types() -> None:
    for dtype, tolerance in ((torch.bfloat16, 3e-2), (torch.float16, 4e-3)):
        model = flux(dtype)
        call = calling(model, 2, dtype)
        made = run(adapter(model), plan(adapter(model), *MIXED), call)
        agree_in(dtype, tolerance, made, parts(model), N, call)


def check_costs_are_what_runs() -> None:
    for guidance in (True, False):
        model = flux(guidance_embed=guidance)
        each, call = adapter(model), calling(model)
        costs = each.costs(sized((1, 16, *SIZE), TEXT))
        idle = counted(model.model.diffusion_model.pe_embedder, torch.zeros(1, TEXT + N, 3))
        costs_agree(each, costs, call, idle, MIXED)


def check_memory_is_what_was_said() -> None:
    model = flux()
    each = adapter(model)
    made = run(each, plan(each, *MIXED), calling(model, 2))
    said = sum(each.sizes(sized((2, 16, *SIZE), TEXT), 4, each.sublayers).values())
    assert made.cache.peak_bytes == said
    assert kept_storage(made.cache) == said
    some = [4, 2, 4, 4, 4, 4]
    made = run(each, plan(each, some), calling(model, 2))
    assert kept_storage(made.cache) == sum(each.sizes(sized((2, 16, *SIZE), TEXT), 4, [each.sublayers[1]]).values())


def check_control_and_masks() -> None:
    """ControlNet writes into what a block returns; masks have a row for every query."""
    model = flux()
    control = {"input": [torch.ones(2, N, WIDTH), None], "output": [None, torch.ones(2, N, WIDTH)]}
    for mask in (torch.randn(1, TEXT + N, TEXT + N), torch.randn(TEXT + N, TEXT + N), torch.randn(2, 1, TEXT + N)):
        call = calling(model, 2, control=control, attention_mask=mask)
        for settings in ({}, {"shared": False}):
            made = run(adapter(model), plan(adapter(model), *MIXED, **settings), call, members=("a", "b"))
            compare(model, made, call)


def check_reference_latents() -> None:
    model = flux()
    latents = [torch.randn(2, 16, 5, 4), torch.randn(2, 16, 4, 6)]
    call = calling(model, 2, ref_latents=latents)
    for settings in ({}, {"shared": False}):
        made = run(adapter(model), plan(adapter(model), *MIXED, **settings), call, members=("a", "b"))
        compare(model, made, call)
    beside = adapter(model).beside({"ref_latents": latents})
    assert beside == adapter(model).beside({"reference_latents": latents}) == 12
    costs = adapter(model).costs(sized((2, 16, *SIZE), TEXT, beside=beside))
    options = {"optimized_attention_override": plain_attention}
    idle = counted(model.model.diffusion_model.pe_embedder, torch.zeros(2, TEXT + N + 12, 3))
    made = Run(adapter(model), plan(adapter(model), *MIXED))
    for row in ([4] * 6, *MIXED):
        assert counted(made.evaluate, call, options) - idle == 2 * costs.at(row)
    said = adapter(model).sizes(sized((2, 16, *SIZE), TEXT, beside=beside), 4, adapter(model).sublayers)
    assert kept_storage(made.cache) == made.cache.peak_bytes == sum(said.values())
    if "default_ref_method" in fields():
        call = calling(model, 2, ref_latents=latents, ref_latents_method="index_timestep_zero")
        assert "index_timestep_zero" in error_of(lambda: run(adapter(model), plan(adapter(model), 0), call))


def check_another_nodes_block_patch_is_kept() -> None:
    model = flux()
    call = calling(model, 2)
    calls: list[int] = []

    def other(args: Any, extra: Any) -> Any:
        calls.append(1)
        return {key: 1.1 * value for key, value in extra["original_block"](args).items()}

    def skipping(args: Any, extra: Any) -> Any:
        return {key: args[key] for key in ("img", "txt")}

    patches = {"dit": {("double_block", 0): other, ("single_block", 1): other}}
    made = run(adapter(model), plan(adapter(model), *MIXED), call, patches_replace=patches)
    assert len(calls) == 2 * 4
    compare(model, made, call, patches_replace=patches)
    assert patches["dit"] == {("double_block", 0): other, ("single_block", 1): other}, "the caller's own was changed"
    patches = {"dit": {("double_block", 1): skipping}}
    made = Run(adapter(model), plan(adapter(model), *MIXED))
    visit = made.evaluate(call, {"patches_replace": patches})
    assert visit.levels() == (4, 4, 0, 0, 4, 4)


def check_attention_patches() -> None:
    if not pack("nodes.flux_walk").HONOURS_PATCHES:
        raise Skip("the FLUX of this ComfyUI calls no attention patches")
    model = flux()
    call = calling(model, 2)

    def before(q: Any, k: Any, v: Any, pe: Any, attn_mask: Any, extra_options: Any) -> Any:
        assert extra_options["img_slice"] == [TEXT, TEXT + N]
        return {"q": q + 0.2 * q.mean(dim=2, keepdim=True), "v": v * 1.2}

    def after(attn: Tensor, extra_options: Any) -> Tensor:
        return attn * 0.9

    compare(
        model, run(adapter(model), plan(adapter(model), *MIXED), call, patches={"attn1_patch": [before]}), call,
        patches={"attn1_patch": [before]},
    )  # fmt: skip
    outputs = {"attn1_output_patch": [after]}
    whole = plan(adapter(model), 4, [0, 4, 4, 0, 4, 0])
    compare(model, run(adapter(model), whole, call, patches=outputs), call, patches=outputs)
    some = plan(adapter(model), *MIXED)
    assert "double.0.self" in error_of(lambda: run(adapter(model), some, call, patches=outputs))


def check_calibration_sees_every_sublayer() -> None:
    """It computes the model bit for bit, and weighs a change by its gate, as the plan's error is."""
    model = flux()
    assert_calibrated(adapter(model), calling(model, 2))


def check_compiled_it_follows_the_plan() -> None:
    """As ComfyUI's compile node does it: evaluations of one graph are still each under its own visit."""
    from compile_checks import compile_options

    model = flux()
    network = model.model.diffusion_model
    call = calling(model, 2)
    wanted = run(adapter(model), plan(adapter(model), *MIXED), call).outputs
    torch._dynamo.reset()
    model.model.diffusion_model = torch.compile(network, backend="eager", options=compile_options())
    found = run(adapter(flux()), plan(adapter(flux()), *MIXED), calling(model, 2)).outputs
    for each, expected in zip(found, wanted, strict=True):
        close(each, expected)


def check_other_models_are_not_flux() -> None:
    import comfy.model_base

    is_flux = pack("nodes.cache_flux").is_flux
    model = flux()
    assert is_flux(model.model)

    class Derived(comfy.model_base.Flux):
        pass

    assert not is_flux(randomized(Derived(model.model.model_config)))

