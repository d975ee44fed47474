"""Our dense PixArt is ComfyUI's dense PixArt on the same weights, and runs where that one divides by zero."""

from __future__ import annotations

from typing import Any

import torch
from comfy_pack import model_folder, pack, run
from pixart import CAPTIONS, HEADS, SPARSE, TEXT, T, X, close, core, evaluate, load, sample, stock, text


def noise(*size: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(8))


def check_forward_equals_comfyuis_own() -> None:
    for micro, sizes in ((False, ((64, 64), (48, 80), (128, 128))), (True, ((128, 128), (96, 64)))):
        ours, theirs = load(micro_conditioning=micro), stock(micro=micro)
        for size in sizes:
            x = noise(*size, batch=1)
            close(evaluate(ours, x, T[:1], CAPTIONS[:1]), evaluate(theirs, x, T[:1], CAPTIONS[:1]))
        if micro:
            given = {"c_size": torch.tensor([[1024.0, 768.0]]), "c_ar": torch.tensor([[4 / 3]])}
            told = evaluate(ours, x, T[:1], CAPTIONS[:1], **given)
            close(told, evaluate(theirs, x, T[:1], CAPTIONS[:1], **given))
            assert not torch.allclose(told, evaluate(ours, x, T[:1], CAPTIONS[:1]), atol=1e-3)


def check_a_whole_run_equals_comfyuis_own() -> None:
    """Prompts, guidance, sampler, latent format and noise schedule together."""
    for micro in (False, True):
        ours, theirs = load(micro_conditioning=micro), stock(micro=micro)
        sizes = {"width": 640, "height": 512} if micro else {}
        conditions = text(7, **sizes), text(4, seed=2, **sizes)
        for keywords in ({"size": (64, 64)}, {"size": (48, 80), "batch": 2, "sampler": "dpmpp_2m"}):
            found, wanted = (sample(m, conditions=conditions, steps=3, **keywords) for m in (ours, theirs))
            assert (found - wanted).norm() < 2e-4 * wanted.norm()


def check_runs_where_comfyuis_own_divides_by_zero() -> None:
    theirs, ours = stock(), load()
    for size in ((32, 32), (16, 16), (3, 5)):
        x = noise(*size)
        out = evaluate(ours, x)
        with torch.no_grad():
            close(out, core()(x, T, CAPTIONS)[:, :4])
        try:
            failed = not torch.isfinite(evaluate(theirs, x)).all()
        except (ZeroDivisionError, RuntimeError, AssertionError):
            failed = True
        assert failed, f"ComfyUI's own runs at {size} now: compare with it"


def check_settings_are_comfyuis_own() -> None:
    ours, theirs = load(), stock()
    mine, core_s = (m.get_model_object("model_sampling") for m in (ours, theirs))
    assert torch.equal(mine.sigmas, core_s.sigmas)
    assert type(mine).__mro__[1:] == type(core_s).__mro__[1:]
    assert ours.model.latent_format.scale_factor == theirs.model.latent_format.scale_factor == 0.18215
    shape = [1, 4, 64, 64]
    wide = ours.model.memory_usage_factor / (48 / 1152)
    assert wide == theirs.model.memory_usage_factor
    assert ours.memory_required(shape) > 0


def check_latent_format_of_sigma() -> None:
    import comfy.latent_formats

    sigma = load(latent=pack("sparsedit_core.checkpoint").Latent(4, 0.13025))
    assert isinstance(sigma.model.latent_format, comfy.latent_formats.SDXL)
    assert sigma.model.latent_format.scale_factor == 0.13025
    pixels = load(
        in_channels=3, latent=pack("sparsedit_core.checkpoint").Latent(3, 0.5, 1, "pixel"), prediction="flow"
    )
    assert sample(pixels, size=(16, 16), scheduler="simple", steps=2).shape == (1, 3, 16, 16)


def check_files_of_every_layout() -> None:
    """Original .pth (plain and training), ComfyUI's prefix, diffusers, ours: one model."""
    for micro in (False, True):
        model = core(micro_conditioning=micro)
        state = model.state_dict()
        with torch.no_grad():
            expected = model(X, T, CAPTIONS)[:, :4]
        for name, content in contents(state, model.config).items():
            torch.save(content, model_folder() / name)
            loaded = run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype="fp32", num_heads=HEADS)
            assert loaded.model.sparsedit.family == "pixart", name
            close(evaluate(loaded), expected)


def contents(state: dict[str, torch.Tensor], config: Any) -> dict[str, Any]:
    table = pack("sparsedit_core.checkpoint.pixart").pixart_table(config, diffusers=True)
    diffusers = {}
    for key, names in table.items():
        for name, part in zip(names, state[key].chunk(len(names)), strict=True):
            diffusers[name] = part.clone()
    return {
        "plain.pth": {"state_dict": state},
        "training.pth": {"state_dict": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state, "epoch": 3},
        "prefixed.pt": {f"model.diffusion_model.{key}": value for key, value in state.items()},
        "diffusers.pt": diffusers,
    }


def check_positions_from_the_widgets() -> None:
    model = core(input_size=(32, 32), position_scale=0.5)
    torch.save({"state_dict": model.state_dict()}, model_folder() / "bare.pth")
    widgets = {"checkpoint": "bare.pth", "weight_dtype": "fp32", "num_heads": HEADS}
    loaded = run("SparseDiTLoadCheckpoint", **widgets, position_scale=0.5, base_size=16)
    assert (loaded.model.sparsedit.config.position_scale, loaded.model.sparsedit.config.input_size) == (0.5, (32, 32))
    with torch.no_grad():
        close(evaluate(loaded), model(X, T, CAPTIONS)[:, :4])
    recipe = loaded.model.sparsedit_origin[0]
    assert recipe.read().config == loaded.model.sparsedit.config, "rebuilding needs the widgets' facts"


def check_every_weight_type() -> None:
    model = core(SPARSE)
    with torch.no_grad():
        exact = model(X, T, CAPTIONS)[:, :4]
    for dtype, allowed in {"default": 1e-5, "fp16": 5e-3, "bf16": 4e-2, "fp8_e4m3fn": 0.6}.items():
        loaded = load(SPARSE, dtype=dtype)
        out = evaluate(loaded)
        assert torch.isfinite(out).all()
        assert (out - exact).norm() <= allowed * exact.norm(), (dtype, float((out - exact).norm() / exact.norm()))
        for name, parameter in loaded.model.diffusion_model.named_parameters():
            if name.endswith(("scale_shift_table", "y_embedding")):
                assert parameter.dtype == torch.float32, name
    assert loaded.model.diffusion_model.blocks[0].attn.v.weight.dtype == torch.float8_e4m3fn


def check_text_width_is_told() -> None:
    model = load()
    for wrong in (TEXT + 4, 4096):
        try:
            sample(model, conditions=(text(5, features=wrong), text(5, features=wrong)), steps=1)
        except ValueError as error:
            message = str(error)
        assert str(wrong) in message
        assert str(TEXT) in message
        assert "\n" not in message
    before = sample(model, steps=2)
    assert torch.equal(sample(load(), steps=2), before)
