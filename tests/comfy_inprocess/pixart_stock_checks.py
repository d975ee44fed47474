"""The stock MODEL of ComfyUI's own loaders in Patch and Convert: what is kept and what is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import files
import torch
from comfy_pack import model_folder, pack, run
from lora_checks import everywhere, with_lora
from pixart import (
    CAPTIONS,
    HEADS,
    IDENTITY,
    ROWS,
    SPARSE,
    T,
    X,
    close,
    core,
    evaluate,
    load,
    sample,
    stock,
)
from pixart_lora_checks import lora
from runtime_checks import streaming_patcher


def patch(model: Any, checkpoint: str = "sparse.safetensors") -> Any:
    return run("SparseDiTPatchModel", model=model, checkpoint=checkpoint)


def convert(model: Any, layout: str = SPARSE, fusion: str = "official", side: int = 8) -> Any:
    return run("SparseDiTConvert", model=model, layout=layout, sparse_side=side, fusion=fusion)


def check_patched_is_the_sparse_model_with_what_was_on_the_stock_one() -> None:
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    sparse = load(SPARSE, "sparse.safetensors", seed=4)
    calls: list[int] = []
    model = ModelSamplingDiscrete().patch(stock(), "v_prediction", True)[0]
    model.set_model_sampler_post_cfg_function(lambda args: calls.append(1) or args["denoised"])
    patched = patch(model)
    assert torch.equal(evaluate(patched), evaluate(sparse))
    expected = ModelSamplingDiscrete().patch(sparse, "v_prediction", True)[0]
    assert torch.equal(sample(patched, steps=3), sample(expected, steps=3))
    assert len(calls) == 3
    assert patched.object_patches.keys() == {"model_sampling"}
    assert not torch.equal(sample(sparse, steps=3), sample(expected, steps=3))


def check_stock_patched_then_original_equals_never_patched() -> None:
    load(SPARSE, "sparse.safetensors", seed=4)
    model = stock()
    before = sample(model, size=(64, 64), steps=2)
    state = {key: value.clone() for key, value in model.model.state_dict().items()}
    for made in (patch(model), convert(model)):
        sample(made, size=(64, 64), steps=2)
        assert torch.equal(sample(model, size=(64, 64), steps=2), before)
    assert all(torch.equal(value, state[key]) for key, value in model.model.state_dict().items())
    assert not model.patches
    assert not model.object_patches


def check_identity_layout_equals_the_stock_model() -> None:
    for micro in (False, True):
        model, size = stock(micro=micro), (128, 128) if micro else (64, 64)
        x = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(2))
        sparse = convert(model, IDENTITY, "identity")
        full = {"sparse_grid": (size[0] // 2, size[1] // 2)}
        inputs = x, T[:1], CAPTIONS[:1]
        close(evaluate(sparse, *inputs, **full), evaluate(model, *inputs))
        schedule = run("SparseDiTApplySchedule", model=sparse, schedule=None)
        found, wanted = (sample(m, size=size, steps=2) for m in (schedule, model))
        assert (found - wanted).norm() < 2e-4 * wanted.norm()
        config = sparse.model.sparsedit.config
        assert (config.micro_conditioning, config.caption_tokens, config.num_heads) == (micro, ROWS, HEADS)


def check_converted_equals_the_core() -> None:
    for fusion in ("official", "identity"):
        sparse = convert(stock(), SPARSE, fusion)
        wanted = pack("sparsedit_core.convert").convert_dense(core(), SPARSE, sparse_side=8, fusion=fusion)
        with torch.no_grad():
            close(evaluate(sparse), wanted(X, T, CAPTIONS)[:, :4])
        assert sparse.model.sparsedit.latent.scale == 0.18215


def check_loras_are_carried_and_never_baked() -> None:
    """Also while the stock model sits loaded with the LoRA computed into its weights."""
    inputs = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(2)), T[:1], CAPTIONS[:1]
    model = with_lora(stock(), lora(everywhere_in_pixart()))
    expected = evaluate(model, *inputs)
    assert not torch.allclose(expected, evaluate(stock(), *inputs), atol=1e-2)
    evaluate(model, *inputs)
    sparse = convert(model, IDENTITY, "identity")
    assert sparse.patches
    for record in (sparse.model.diffusion_model.state_dict(), sparse.model.sparsedit_origin[0].read().state):
        assert torch.equal(record["blocks.2.mlp.fc1.weight"], core().blocks[2].mlp.fc1.weight)
    close(evaluate(sparse, *inputs, sparse_grid=(32, 32)), expected)


def everywhere_in_pixart() -> list[str]:
    return [name for name in everywhere() if "adaLN" not in name] + [
        f"blocks.{number}.cross_attn.{part}" for number in range(7) for part in ("q_linear", "kv_linear", "proj")
    ]


def check_rebuilt_clones() -> None:
    """Under dynamic VRAM ComfyUI makes a model again: by the stock loader and the conversion, or by the sparse file."""
    load(SPARSE, "sparse.safetensors", seed=4)
    weights = lora(everywhere_in_pixart())
    with streaming_patcher():
        dense = with_lora(stock(), weights)
        for model in (convert(dense), patch(dense)):
            rebuilt = model.clone(disable_dynamic=True)
            assert not rebuilt.is_dynamic()
            assert rebuilt.model is not model.model
            close(evaluate(rebuilt), evaluate(model))
            # weights left in their file begin where its header ends, copies at multiples of 64: sums round otherwise
            found, wanted = (sample(m, steps=2) for m in (rebuilt, model))
            assert (found - wanted).norm() < 1e-5 * wanted.norm()


def check_without_a_factory_the_stock_weights_are_kept() -> None:
    """As in ComfyUI 0.3.64, and with loaders of other packs."""
    sparse = convert(stock(factory=False), IDENTITY, "identity")
    recipe = sparse.model.sparsedit_origin[0]
    assert torch.equal(recipe.read().state["blocks.0.mlp.fc1.weight"], core().blocks[0].mlp.fc1.weight)


def check_converted_is_saved_and_loaded() -> None:
    sparse = convert(with_lora(stock(), lora(everywhere_in_pixart())))
    path = run(
        "SparseDiTSaveCheckpoint", model=sparse, filename_prefix="made", folder="models/diffusion_models",
        dtype="default",
    )  # fmt: skip
    again = run("SparseDiTLoadCheckpoint", checkpoint=Path(path).name, weight_dtype="fp32")
    close(evaluate(again), evaluate(sparse))
    assert again.model.sparsedit.config == sparse.model.sparsedit.config
    assert again.model.sparsedit.latent == sparse.model.sparsedit.latent


def check_a_null_caption_that_core_drew_is_not_kept() -> None:
    model = stock()
    del model.model.model_config.unet_config["model_max_length"]
    converted = convert(model)
    assert converted.model.sparsedit.config.caption_tokens == 0


def check_positions_of_stored_256_pixels() -> None:
    positions = pack("nodes.stock")._positions
    assert positions(stock()) == (32, 1.0)
    stored = {"pe_interpolation": 0, "input_size": 32}  # what core reads off a position table of 16 x 16
    assert positions(stock(**stored)) == (32, 1.0)
    assert positions(stock(rows=120, **stored)) == (16, 1.0)


def check_positions_that_a_file_stores() -> None:
    """ComfyUI fixes the stretch by their size; at that size the converted model is the stock one."""
    for side, scale, base in ((64, 1, 32), (96, 1, 64), (128, 2, 64)):
        model = stock(pe_interpolation=scale, input_size=side)
        sparse = convert(model, IDENTITY, "identity")
        config = sparse.model.sparsedit.config
        assert (config.grid, config.position_scale) == ((base, base), scale)
        x = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(2))
        inputs = x, T[:1], CAPTIONS[:1]
        close(evaluate(sparse, *inputs, sparse_grid=(side // 2, side // 2)), evaluate(model, *inputs))
    # at another size ComfyUI's positions are others than those of training; ours stay, as in the original
    inputs = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(2)), T[:1], CAPTIONS[:1]
    found = evaluate(sparse, *inputs, sparse_grid=(32, 32))
    close(found, evaluate(stock(), *inputs))
    assert not torch.allclose(found, evaluate(model, *inputs), atol=1e-2)


def check_latents_where_comfyui_guesses_sigma() -> None:
    """It does for every PixArt without size conditioning; 120 text tokens are alpha's."""
    import comfy.latent_formats

    for rows, form, scale in ((120, comfy.latent_formats.SD15, 0.18215), (300, comfy.latent_formats.SDXL, 0.13025)):
        model = stock(rows=rows, image_model="pixart_sigma")
        assert isinstance(model.model.latent_format, comfy.latent_formats.SDXL)
        sparse = convert(model)
        assert sparse.model.sparsedit.latent.scale == scale
        assert isinstance(sparse.model.latent_format, form)
        assert sparse.model.sparsedit_origin[0].read().latent.scale == scale


def check_stock_in_other_weight_types() -> None:
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        model = stock(dtype=dtype)
        sparse = convert(model, IDENTITY, "identity")
        assert sparse.model.get_dtype() == dtype
        assert sparse.model.diffusion_model.blocks[0].attn.q.weight.dtype == dtype
        x = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(2))
        found = evaluate(sparse, x, T[:1], CAPTIONS[:1], sparse_grid=(32, 32))
        wanted = evaluate(model, x, T[:1], CAPTIONS[:1])
        assert (found - wanted).norm() < 2e-2 * wanted.norm()


def check_a_file_through_comfyuis_own_loader() -> None:
    """Its detection, its factory where it has one, its mistake about PixArt-alpha's latents: two blocks of full width,
    the only one that it knows."""
    import comfy.model_management as mm
    import comfy.sd
    from safetensors.torch import save_file

    wide = {"hidden_size": 1152, "num_heads": 16, "caption_channels": 4096, "caption_tokens": 120, "depth": 2}
    network = core(**wide)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.2)
    file = model_folder() / "alpha512.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, file)
    model = comfy.sd.load_diffusion_model(str(file))
    sparse = convert(model, "0+1x[1,0,1,0]+0", "identity")
    recipe = sparse.model.sparsedit_origin[0]
    if hasattr(model, "cached_patcher_init"):
        assert recipe.source.startswith("alpha512.safetensors")
        assert recipe.dense.patcher is None
    for key, weight in recipe.dense.read().state.items():
        assert torch.equal(weight, network.state_dict()[key]), key
    config = sparse.model.sparsedit.config
    assert (config.caption_tokens, config.num_heads, config.position_scale) == (120, 16, 1.0)
    assert sparse.model.sparsedit.latent.scale == 0.18215
    inputs = torch.randn(1, 4, 64, 32), T[:1], torch.randn(1, 3, 4096)
    close(evaluate(sparse, *inputs, sparse_grid=(32, 16)), evaluate(model, *inputs), 1e-4)
    load("0+1x[1,0,1,0]+0", "alpha512_sparse.safetensors", **wide)
    patched = patch(model, "alpha512_sparse.safetensors")
    assert patched.model.latent_format.scale_factor == 0.18215, "the checkpoint's own: ComfyUI takes alpha for Sigma"
    mm.unload_all_models()
    for name in ("alpha512.safetensors", "alpha512_sparse.safetensors"):
        files.remove(name)
