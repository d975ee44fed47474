"""The token cache on the PixArt of ComfyUI's own loaders, and which MODELs it knows."""

from __future__ import annotations

from typing import Any

import torch
from cache_models import (
    Part,
    Run,
    agree,
    assert_calibrated,
    close,
    counted,
    kept_storage,
    plain_attention,
    plan,
    reference,
    run,
    sized,
)
from comfy_pack import pack
from load_checks import error_of
from pixart import TEXT, load, sample, stock
from runtime_checks import streaming_patcher
from torch import Tensor

SIDES = 64, 32  # of the latent; smaller ones, ComfyUI's PixArt divides by zero
N = 32 * 16
LEVELS = [[1, 2, 3, 0, 2, 1, 4] * 3, [2, 0, 4, 1, 3, 2, 0] * 3]
"""Levels of the 21 sub-layers."""


def adapter(model: Any) -> Any:
    made = pack("nodes.cache_adapters").adapter_of(model)
    made.prepare(model)
    return made


def calling(model: Any, batch: int = 1, dtype: torch.dtype = torch.float32, *, same: bool = False) -> Any:
    """The network, patched as for sampling, on inputs that change from one evaluation to the next unless ``same``."""
    import comfy.model_management as mm

    mm.load_models_gpu([model], force_full_load=True)

    def draw(*shape: int, seed: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)

    def call(number: int, options: dict[str, Any], keywords: dict[str, Any]) -> Tensor:
        number = 0 if same else number
        x = draw(batch, 4, *SIDES, seed=1) + 0.3 * draw(batch, 4, *SIDES, seed=2 + number)
        time = torch.linspace(900, 600, batch) - 100 * number
        context = draw(batch, 9, TEXT, seed=50)
        network = model.model.diffusion_model
        out: Tensor = network(x, time, context, transformer_options=options, **keywords)
        return out

    return call


def parts(model: Any) -> list[Part]:
    made: list[Part] = []
    for number, block in enumerate(model.model.diffusion_model.blocks):
        layers = {"self": block.attn.proj, "cross": block.cross_attn, "mlp": block.mlp}
        made += [(f"{number}.{part}", layer, 0) for part, layer in layers.items()]
    return made


def compare(made: Run, call: Any, plain: Any) -> None:
    """With core's network of the same weights that no cache was put on."""
    agree(made, parts(plain), N, call)


def check_full_is_the_model_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        plain, model = stock(dtype=dtype), stock(dtype=dtype)
        each, work = adapter(model), torch.float32
        made = run(each, plan(each, 4, 0), calling(model, 2, work))
        for number in (0, 1):
            with torch.no_grad():
                assert torch.equal(made.outputs[number], calling(plain, 2, work)(number, {}, {})), dtype
                assert torch.equal(made.outputs[number], calling(model, 2, work)(number, {}, {})), "without a visit"


def check_the_same_input_at_every_level() -> None:
    model = stock()
    each = adapter(model)
    made = run(each, plan(each, 1, 2, 3, 0, *LEVELS), calling(model, 2, same=True))
    for output in made.outputs[1:]:
        close(output, made.outputs[0])


def check_levels_against_core_with_branches_put_back() -> None:
    model, plain = stock(), stock()
    each = adapter(model)
    for rows in ([0, 0], [1, 3], LEVELS):
        compare(run(each, plan(each, *rows), calling(model, 2)), calling(plain, 2), plain)


def check_other_rows_for_each_picture() -> None:
    model, plain = stock(), stock()
    each = adapter(model)
    for settings in ({"shared": False}, {"selector": "change"}, {"selector": "entropy"}):
        made = run(each, plan(each, *LEVELS, **settings), calling(model, 2), members=("a", "b"))
        compare(made, calling(plain, 2), plain)
    made = run(each, plan(each, *LEVELS, selector="influence"), calling(model, 2), members=("a", "b"))
    for found, expected in zip(made.outputs, reference(made, parts(plain), N, calling(plain, 2)), strict=True):
        close(found, expected)


def check_half_types() -> None:
    """Networks in half precision, as on a GPU: without the cast to float32 that ComfyUI does on the CPU."""
    for dtype, tolerance in ((torch.bfloat16, 3e-2), (torch.float16, 4e-3)):
        plain, model = stock(), stock()
        for each in (plain, model):
            each.model.diffusion_model.to(dtype)
        each = adapter(model)
        made = run(each, plan(each, *LEVELS), calling(model, 2, dtype))
        wanted = reference(made, parts(plain), N, calling(plain, 2, dtype))
        for found, expected in zip(made.outputs, wanted, strict=True):
            assert found.dtype == dtype
            assert (found - expected).float().norm() < tolerance * expected.float().norm()


def check_costs_are_what_runs() -> None:
    """Core's PixArt has no place for an attention that is counted, so matrix products count its attention apart."""
    from unittest.mock import patch


    model = stock()
    each, call = adapter(model), calling(model)
    costs = each.costs(sized((1, 4, *SIDES), 9))
    module = pack("nodes.cache_pixart")
    import comfy.ldm.pixart.blocks as blocks

    def attention(*arguments: Any, **keywords: Any) -> Tensor:
        return plain_attention(None, *arguments, **keywords)

    with patch.object(blocks, "optimized_attention", attention), patch.object(module, "optimized_attention", attention):
        idle = counted(call, 0, {}, {}) - costs.dense
        assert 0 <= idle <= N * 48, "the positions alone"
        levels = [[level] * 21 for level in range(5)] + LEVELS
        made = Run(each, plan(each, *levels))
        made.evaluate(call)
        for row in levels:
            assert counted(made.evaluate, call) - idle == costs.at(row), row


def check_memory_is_what_was_said() -> None:
    model = stock()
    each = adapter(model)
    made = run(each, plan(each, LEVELS[0]), calling(model, 2))
    said = sum(each.sizes(sized((2, 4, *SIDES), 9), 4, made.cache.plan.reused()).values())
    assert made.cache.peak_bytes == said
    assert kept_storage(made.cache) == said


def check_calibration_sees_every_sublayer() -> None:
    model = stock()
    assert_calibrated(adapter(model), calling(model, 2))


def check_the_model_and_its_clones_are_left_alone() -> None:
    model = stock()
    before = sample(model, size=(64, 64), steps=2)
    clone = model.clone()
    adapter(clone)
    adapter(clone)  # a second cache finds the blocks prepared
    assert len(clone.object_patches) == 7
    assert not model.object_patches
    assert torch.equal(sample(clone, size=(64, 64), steps=2), before), "without a cache nothing changes"
    assert torch.equal(sample(model, size=(64, 64), steps=2), before)
    other = model.clone()
    other.add_object_patch("diffusion_model.blocks.3.forward", lambda *_args, **_keywords: None)
    assert "block 3" in error_of(lambda: adapter(other))


def check_a_clone_with_a_network_of_its_own() -> None:
    """Under dynamic VRAM ComfyUI builds the model again for some clones; the patch must follow it."""
    with streaming_patcher():
        model = stock()
        each = adapter(model)
        rebuilt = model.clone(disable_dynamic=True)
        assert rebuilt.model is not model.model
        with torch.no_grad():
            for parameter in model.model.diffusion_model.parameters():
                parameter.zero_()
        plain = stock()
        compare(run(each, plan(each, *LEVELS), calling(rebuilt, 2)), calling(plain, 2), plain)
        assert model.clone().object_patches == model.object_patches


def check_compressed_keys_are_refused() -> None:
    model = stock()
    model.model.diffusion_model.blocks[2].attn.sr_ratio = 2
    assert "compresses keys" in error_of(lambda: adapter(model))


def check_every_model_finds_its_adapter() -> None:
    from cache_flux_checks import flux
    from cache_wan_checks import wan

    found = {type(adapter(model)).__name__: adapter(model).family for model in (load(), stock(), flux(), wan())}
    assert found == {"OwnAdapter": "pixart", "StockPixArtAdapter": "pixart", "FluxAdapter": "flux", "WanAdapter": "wan"}


def check_unknown_models_are_refused_by_name() -> None:
    import comfy.model_base
    from cache_flux_checks import flux
    from cache_wan_checks import wan

    for known, name in ((flux(), "Chroma"), (flux(), "HunyuanVideo"), (wan(), "WAN21_Vace"), (wan(), "WAN22")):
        # by their class alone: a check of the refusal does not need their networks
        known.model.__class__ = getattr(comfy.model_base, name)
        assert f"is a {name}" in error_of(lambda: adapter(known)), name  # noqa: B023
