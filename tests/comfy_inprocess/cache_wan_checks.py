"""The token cache on ComfyUI's own Wan2.1."""

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
    plan,
    randomized,
    run,
    sized,
)
from comfy_pack import Skip, pack
from load_checks import error_of
from torch import Tensor

WIDTH, HEADS, TEXT, CONTEXT, CLIP = 48, 2, 6, 20, 257
SIZE = 3, 5, 8  # of the latent: 3 x 3 x 4 tokens, one row of which is filled up
N = 36
MIXED = [[1, 2, 3, 0, 2, 1], [2, 0, 4, 1, 3, 2], [0, 1, 1, 3, 0, 3]]
"""Levels of the six sub-layers."""


def wan(dtype: torch.dtype = torch.float32, image: bool = False, **changes: Any) -> Any:
    """A MODEL of two blocks, from text alone or from a first picture."""
    import comfy.supported_models as known

    settings = {
        "image_model": "wan2.1", "model_type": "i2v" if image else "t2v", "dim": WIDTH, "ffn_dim": 72, "freq_dim": 32,
        "text_dim": CONTEXT, "in_dim": 36 if image else 16, "out_dim": 16, "num_heads": HEADS, "num_layers": 2,
    }  # fmt: skip
    made = (known.WAN21_I2V if image else known.WAN21_T2V)(settings | changes)
    return patcher(made, dtype)


def adapter(model: Any) -> Any:
    return pack("nodes.cache_wan").WanAdapter.of(model.model)


def calling(model: Any, batch: int = 1, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """The network on inputs that change from one evaluation to the next; ``same`` keeps them, ``frames`` gives each
    frame a time of its own."""
    network = model.model.diffusion_model
    same, frames = more.pop("same", False), more.pop("frames", False)

    def draw(*shape: int, seed: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)

    if network.img_emb is not None:
        more.setdefault("clip_fea", draw(batch, CLIP, 1280, seed=52))

    def call(number: int, options: dict[str, Any], keywords: dict[str, Any]) -> Tensor:
        number = 0 if same else number
        shape = batch, network.in_dim, *SIZE
        x = draw(*shape, seed=1) + 0.3 * draw(*shape, seed=2 + number)
        time = torch.linspace(900, 600, batch * SIZE[0] if frames else batch) - 100 * number
        time = time.reshape(batch, -1) if frames else time
        context = draw(batch, TEXT, CONTEXT, seed=50)
        out: Tensor = network(x, time, context, transformer_options=dict(options), **keywords, **more)
        return out

    return call


def parts(model: Any) -> list[Part]:
    made: list[Part] = []
    for number, block in enumerate(model.model.diffusion_model.blocks):
        layers = {"self": block.self_attn.o, "cross": block.cross_attn, "mlp": block.ffn}
        made += [(f"{number}.{part}", layer, 0) for part, layer in layers.items()]
    return made


def compare(model: Any, made: Run, call: Any, tokens: int = N, **options: Any) -> None:
    agree(made, parts(model), tokens, call, **options)


def check_full_is_the_model_bit_for_bit() -> None:
    for image in (False, True):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            model = wan(dtype, image)
            call = calling(model, 2, dtype)
            made = run(adapter(model), plan(adapter(model), 4, 0), call)
            for number in (0, 1):
                with torch.no_grad():
                    assert torch.equal(made.outputs[number], call(number, {}, {})), (image, dtype)


def check_the_same_input_at_every_level() -> None:
    for image in (False, True):
        model = wan(image=image)
        made = run(adapter(model), plan(adapter(model), 1, 2, 3, 0, *MIXED), calling(model, 2, same=True))
        for output in made.outputs[1:]:
            close(output, made.outputs[0])


def check_levels_against_core_with_branches_put_back() -> None:
    for image in (False, True):
        model = wan(image=image)
        for rows in ([0, 0, 0], [1, 1, 1], [2, 3, 1], MIXED):
            call = calling(model, 2)
            compare(model, run(adapter(model), plan(adapter(model), *rows), call), call)


def check_other_rows_for_each_video() -> None:
    for image in (False, True):
        model = wan(image=image)
        call = calling(model, 2)
        for settings in ({"shared": False}, {"selector": "change"}, {"selector": "influence"}, {"selector": "entropy"}):
            made = run(adapter(model), plan(adapter(model), *MIXED, **settings), call, members=("a", "b"))
            if settings == {"shared": False}:
                rows = made.rows[1]["0.self"]
                assert rows is not None
                assert set(rows[0].tolist()) != set(rows[1].tolist())
            compare(model, made, call)


def check_a_time_of_each_frame() -> None:
    model = wan()
    call = calling(model, 2, frames=True)
    for settings in ({}, {"shared": False}):
        compare(model, run(adapter(model), plan(adapter(model), *MIXED, **settings), call, ("a", "b")), call)


def check_more_frames_behind_the_video() -> None:
    model = wan()
    more = torch.randn(2, 16, 2, *SIZE[1:])
    call = calling(model, 2, time_dim_concat=more)
    made = run(adapter(model), plan(adapter(model), *MIXED), call)
    compare(model, made, call, tokens=N + 24)
    beside = adapter(model).beside({"time_dim_concat": more})
    said = adapter(model).sizes(sized((2, 16, *SIZE), TEXT, beside=beside), 4, adapter(model).sublayers)
    assert kept_storage(made.cache) == sum(said.values())


def check_half_types() -> None:
    for dtype, tolerance in ((torch.bfloat16, 3e-2), (torch.float16, 4e-3)):
        model = wan(dtype)
        call = calling(model, 2, dtype)
        made = run(adapter(model), plan(adapter(model), *MIXED), call)
        agree_in(dtype, tolerance, made, parts(model), N, call)


def check_costs_are_what_runs() -> None:
    for image in (False, True):
        model = wan(image=image)
        each, call = adapter(model), calling(model)
        costs = each.costs(sized((1, 16, *SIZE), TEXT))
        idle = counted(model.model.diffusion_model.rope_encode, *SIZE)
        costs_agree(each, costs, call, idle, MIXED)


def check_memory_is_what_was_said() -> None:
    model = wan()
    each = adapter(model)
    for row, names in (([4, 2, 4, 4, 4, 4], [each.sublayers[1]]), (MIXED[0], each.sublayers)):
        made = run(each, plan(each, row), calling(model, 2))
        reused = [name for name in names if name in made.cache.plan.reused()]
        said = sum(each.sizes(sized((2, 16, *SIZE), TEXT), 4, reused).values())
        assert made.cache.peak_bytes == said
        assert kept_storage(made.cache) == said


def check_another_nodes_block_patch_is_kept() -> None:
    model = wan()
    call = calling(model, 2)
    calls: list[int] = []

    def other(args: Any, extra: Any) -> Any:
        calls.append(1)
        return {"img": 1.1 * extra["original_block"](args)["img"]}

    patches = {"dit": {("double_block", 1): other}}
    made = run(adapter(model), plan(adapter(model), *MIXED), call, patches_replace=patches)
    assert len(calls) == 4
    compare(model, made, call, patches_replace=patches)
    skip = {"dit": {("double_block", 0): lambda args, _extra: {"img": args["img"]}}}
    made = Run(adapter(model), plan(adapter(model), *MIXED))
    assert made.evaluate(call, {"patches_replace": skip}).levels() == (0, 0, 0, 4, 4, 4)


def check_attention_patches() -> None:
    if not pack("nodes.cache_wan")._HONOURS_SELF:
        raise Skip("the Wan of this ComfyUI calls no attention patches")
    model = wan()
    call = calling(model, 2)
    behind = {"attn2_patch": [lambda args: args["x"] * 0.9]}
    compare(model, run(adapter(model), plan(adapter(model), *MIXED), call, patches=behind), call, patches=behind)
    inside = {"attn1_patch": [lambda args: args["x"] * 0.9]}
    whole = plan(adapter(model), 4, [0, 4, 4, 0, 1, 2])
    compare(model, run(adapter(model), whole, call, patches=inside), call, patches=inside)
    assert "0.self" in error_of(lambda: run(adapter(model), plan(adapter(model), *MIXED), call, patches=inside))


def check_calibration_sees_every_sublayer() -> None:
    """It computes the model bit for bit, and weighs a change by its gate, as the plan's error is."""
    model = wan()
    assert_calibrated(adapter(model), calling(model, 2))


def check_compiled_it_follows_the_plan() -> None:
    from compile_checks import compile_options

    model = wan()
    each = adapter(model)
    wanted = run(each, plan(each, *MIXED), calling(model, 2)).outputs
    torch._dynamo.reset()
    network = model.model.diffusion_model
    model.model.diffusion_model = torch.compile(network, backend="eager", options=compile_options())
    for found, expected in zip(run(each, plan(each, *MIXED), calling(model, 2)).outputs, wanted, strict=True):
        close(found, expected)


def check_reference_pictures_and_other_models_are_refused() -> None:
    import comfy.model_base

    model = wan(in_dim_ref_conv=16)
    run(adapter(model), plan(adapter(model), *MIXED), calling(model))
    call = calling(model, reference_latent=torch.randn(1, 16, *SIZE[1:]))
    assert "reference_latent" in error_of(lambda: run(adapter(model), plan(adapter(model), 0), call))
    call = calling(model, context_latents=[torch.randn(1, 16, *SIZE)])
    assert "context_latents" in error_of(lambda: run(adapter(model), plan(adapter(model), 0), call))
    is_wan = pack("nodes.cache_wan").is_wan
    assert is_wan(model.model)

    class Derived(comfy.model_base.WAN21):
        pass

    assert not is_wan(randomized(Derived(model.model.model_config)))
