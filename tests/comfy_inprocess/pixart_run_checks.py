"""PixArt inside ComfyUI's machinery: sizes, prompts, samplers in pieces, offloading, cancelling, compiling, reports."""

from __future__ import annotations

from typing import Any

import sampling
import torch
from comfy_pack import node, pack, run
from compile_checks import assert_near, compiled
from load_checks import error_of
from lora_checks import with_lora
from pixart import CAPTIONS, SPARSE, TEXT, T, X, close, config, core, evaluate, load, sample, spied, stock, text
from pixart_lora_checks import diffusers_lora
from report_checks import report, without_seconds
from runtime_checks import dynamic_vram
from scheduled import apply, records, schedule

SIZES = {"256": (32, 32), "272": (34, 34), "512": (64, 64), "1024": (128, 128), "wide": (24, 40), "odd": (33, 25)}


def scheduled(**changes: Any) -> Any:
    return load(SPARSE, "sparse.safetensors", schedule=schedule(), **changes)


def check_every_size() -> None:
    """256, 272, 512 and 1024 pixels, not square, odd: the grid of the timestep, the core's numbers."""
    for micro in (False, True):
        model, calls = spied(scheduled(micro_conditioning=micro))
        for name, size in SIZES.items():
            calls.clear()
            out = sample(model, size=size, steps=1 if name == "1024" else 2)
            assert out.shape == (1, 4, *size)
            assert torch.isfinite(out).all()
            dense = -(-size[0] // 2), -(-size[1] // 2)
            assert all(call["sparse_grid"] == schedule().grid(call["t"] / 999, dense) for call in calls), name
        x = torch.randn(1, 4, 33, 25, generator=torch.Generator().manual_seed(8))
        with torch.no_grad():
            expected = core(SPARSE, micro_conditioning=micro)(x, T[:1], CAPTIONS[:1], sparse_grid=(5, 4))[:, :4]
        close(evaluate(model, x, T[:1], CAPTIONS[:1], sparse_grid=(5, 4)), expected)


def check_prompts_of_equal_and_of_different_length() -> None:
    """Different lengths are two calls an evaluation, equal ones are one; both are guidance by hand."""
    model, calls = spied(scheduled())
    for lengths, count in (((7, 4), 2), ((5, 5), 1)):
        calls.clear()
        batch = {"batch": 2, "positive": lengths[0], "negative": lengths[1]}
        found = sample(model, steps=2, cfg=3.0, **batch)
        assert len(calls) == 2 * count
        assert {call["shape"][0] for call in calls} == {4 // count}
        assert {call["text"][1] for call in calls} == set(lengths)
        assert len(records(model)[-1].evaluations) == 2
        for row, call in zip(records(model)[-1].evaluations, calls[::count], strict=True):
            assert row.images == 4
            assert row.macs == sum(2 * macs(model, call["sparse_grid"], length) for length in lengths)
        apart = model.clone()
        apart.add_object_patch("memory_required", lambda *args, **kwargs: 1e18)
        calls.clear()
        assert (sample(apart, steps=2, cfg=3.0, **batch) - found).norm() < 1e-3 * found.norm()
        assert {call["shape"][0] for call in calls} == {2}


def macs(model: Any, grid: tuple[int, int], caption: int) -> int:
    config = model.model.sparsedit.config
    cost = pack("sparsedit_core.cost").macs(config, (16, 16), sparse_grid=grid, factor=1, caption_tokens=caption)
    return int(cost)


def check_guidance_of_three_channels() -> None:
    model = scheduled()
    guided = run("SparseDiTGuidance", model=model, channels=3)
    conditional, unguided = sample(model, steps=1, cfg=1.0), sample(model, steps=1, cfg=4.0)
    found = sample(guided, steps=1, cfg=4.0)
    torch.testing.assert_close(found[:, :3], unguided[:, :3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, 3:], conditional[:, 3:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(unguided[:, 3:], conditional[:, 3:], rtol=1e-2, atol=1e-2)


def check_a_batch_equals_its_pictures_and_padding_does_not_count() -> None:
    model = load(SPARSE)
    together = evaluate(model)
    close(together, torch.cat([evaluate(model, X[i : i + 1], T[i : i + 1], CAPTIONS[i : i + 1]) for i in range(2)]))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0, 0]])
    cut = evaluate(model, text=CAPTIONS[:, :4])
    close(evaluate(model, attention_mask=mask), cut)
    padded = text(9), text(9, seed=2)
    short = tuple([[caption[0][0][:, :4], {}]] for caption in padded)
    for caption in padded:
        caption[0][1]["attention_mask"] = mask
    assert (sample(model, conditions=padded, steps=2) - sample(model, conditions=short, steps=2)).abs().max() < 1e-3
    assert not torch.allclose(cut, together, atol=1e-3)


def check_size_conditions_reach_the_model() -> None:
    model, calls = spied(load(SPARSE, micro_conditioning=True))
    told = text(7, width=1024, height=512), text(7, seed=2, width=1024, height=512)
    found = sample(model, conditions=told, steps=2)
    assert {tuple(call["c_size"][0].tolist()) for call in calls} == {(512.0, 1024.0)}
    assert {float(call["c_ar"][0]) for call in calls} == {0.5}
    calls.clear()
    other = sample(model, positive=7, negative=7, steps=2)
    assert {tuple(call["c_size"][0].tolist()) for call in calls} == {(128.0, 128.0)}, "ComfyUI tells the latent's own"
    close(evaluate(model, c_size=torch.tensor([[128.0, 128.0]]), c_ar=torch.tensor([[1.0]])), evaluate(model))
    assert not torch.allclose(found, other, atol=1e-3)


def check_img2img_inpaint_halves_and_second_pass() -> None:
    import nodes

    model, calls = spied(scheduled())
    first = sample(model, size=(32, 32), steps=4)
    changed = sample(model, latent=first, steps=6, denoise=0.4)
    assert max(call["t"] for call in calls[4 * 2 :]) < 600
    assert not torch.equal(changed, first)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16:] = 1
    painted = sample(model, latent=first, steps=4, noise_mask=mask)
    torch.testing.assert_close(painted[..., :15], first[..., :15], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(painted[..., 17:], first[..., 17:], atol=1e-2)

    positive, negative = text(7), text(4, seed=2)

    def part(noise: str, latent: Any, start: int, end: int, leftover: str) -> Any:
        settings = (noise, 5, 6, 3.0, "euler", "normal", positive, negative, latent, start, end, leftover)
        return nodes.KSamplerAdvanced().sample(model, *settings)[0]

    empty = {"samples": torch.zeros(1, 4, 32, 32)}
    halves = part("disable", part("enable", empty, 0, 3, "enable"), 3, 6, "disable")["samples"]
    torch.testing.assert_close(halves, part("enable", empty, 0, 6, "disable")["samples"], rtol=1e-4, atol=1e-4)
    larger = torch.nn.functional.interpolate(first, size=(48, 40))
    calls.clear()
    assert sample(model, latent=larger, steps=4, denoise=0.5).shape[-2:] == (48, 40)
    assert {call["sparse_grid"] for call in calls} <= {schedule().grid(call["t"] / 999, (24, 20)) for call in calls}


def check_models_and_sizes_leave_no_trace() -> None:
    model, other, dense = scheduled(), load(SPARSE, "other.safetensors", seed=5), stock()
    first = sample(model, steps=3)
    sample(model, size=(24, 40), batch=2, steps=2)
    sample(other, steps=2)
    sample(dense, size=(64, 64), steps=1)
    assert torch.equal(sample(model, steps=3), first)


def check_cancelling_leaves_nothing_behind() -> None:
    model = scheduled()
    expected = sample(model, steps=4)
    for stop in (1, 2, 5):
        sampling.cancelled(model, stop, lambda stopped: sample(stopped, steps=4))
        assert torch.equal(sample(model, steps=4), expected)


def check_lowvram_equals_full() -> None:
    """Also in float8, whose weights are cast on the way; the tables of raw parameters stay where ComfyUI left them."""
    import comfy.model_management as mm

    for dtype in ("fp32", "fp8_e4m3fn"):
        model = with_lora(load(SPARSE, "sparse.safetensors", dtype=dtype, micro_conditioning=True), diffusers_lora())
        mm.unload_all_models()
        model.patch_model(torch.device("cpu"), lowvram_model_memory=64)
        try:
            assert model.lowvram_patch_counter() > 0
            low = forward(model)
        finally:
            model.unpatch_model(torch.device("cpu"))
        full = evaluate(model)
        if dtype == "fp32":
            torch.testing.assert_close(low, full, rtol=1e-6, atol=1e-6)
        else:  # patched in float32 on the way there, rounded to float8 with chance here
            assert (low - full).norm() < 0.3 * full.norm()
        plain = load(SPARSE, "sparse.safetensors", dtype=dtype, micro_conditioning=True)
        whole = evaluate(plain)
        mm.unload_all_models()
        plain.patch_model(torch.device("cpu"), lowvram_model_memory=64)
        try:
            assert torch.equal(forward(plain), whole)
        finally:
            plain.unpatch_model(torch.device("cpu"))


def forward(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.model.diffusion_model(X, T, CAPTIONS, transformer_options={})


def check_dynamic_vram_builds_and_computes_the_same() -> None:
    for micro in (False, True):
        expected = evaluate(load(SPARSE, "sparse.safetensors", micro_conditioning=micro))
        with dynamic_vram():
            built = load(SPARSE, "sparse.safetensors", micro_conditioning=micro)
            assert torch.equal(evaluate(built), expected)


def check_compiled_has_one_graph_per_grid() -> None:
    levels = schedule(levels=3)
    model = load(SPARSE, "sparse.safetensors", schedule=levels)
    for lengths in ((6, 6), (7, 4)):
        graphs: list[int] = []
        fast = compiled(model, graphs)
        captions = dict(zip(("positive", "negative"), lengths, strict=True))
        watched, calls = spied(model)
        expected = sample(watched, steps=8, **captions)
        kinds = {(call["sparse_grid"], call["text"]) for call in calls}
        assert len({grid for grid, _ in kinds}) == 3
        assert_near(sample(fast, steps=8, **captions), expected)
        assert 0 < len(graphs) <= len(kinds), (len(graphs), kinds)
        count = len(graphs)
        sample(fast, steps=8, **captions)
        assert len(graphs) == count, "a second run compiled again"


def check_schedule_report_and_attention_of_others() -> None:
    wanted = schedule(rate_clean=0.4)
    model = apply(load(SPARSE), wanted)
    watched, calls = spied(model)
    plain = sample(watched, steps=3, sampler="heun", positive=5, negative=5)
    assert all(call["sparse_grid"] == wanted.grid(call["t"] / 999, (8, 8)) for call in calls)
    told = report(watched)
    assert [tuple(row["sparse_grid"]) for row in told["json"]["runs"][0]["evaluations"]] == [
        call["sparse_grid"] for call in calls
    ]
    assert 0 < told["json"]["runs"][0]["ratio_to_dense"] < 1
    again = apply(load(SPARSE), wanted)
    sample(again, steps=3, sampler="heun", seed=9, positive=5, negative=5)
    assert without_seconds(report(again)["json"]) == without_seconds(told["json"])
    used: list[int] = []

    def other(original: Any, *args: Any, **kwargs: Any) -> Any:
        used.append(1)
        return original(*args, **kwargs)

    replaced = model.clone()
    replaced.model_options["transformer_options"]["optimized_attention_override"] = other
    assert torch.equal(sample(replaced, steps=3, sampler="heun", positive=5, negative=5), plain)
    assert len(used) == 5 * (6 + 7)  # heun's calls; six blocks of self-attention, all seven read the text
    picture = node("SparseDiTPruningSchedule").define_schema()
    assert "PixArt" in picture.description
    text_of = pack("nodes.pruning_schedule").summary
    assert "% of dense MACs" in text_of(wanted, (32, 32), model, 20)


def check_every_sampler_follows_the_timestep() -> None:
    wanted = schedule()
    model, calls = spied(apply(load(SPARSE), wanted))
    for sampler in ("dpm_2", "dpmpp_2m", "uni_pc", "ddim", "dpmpp_sde"):
        calls.clear()
        sample(model, steps=3, sampler=sampler)
        assert all(call["sparse_grid"] == wanted.grid(call["t"] / 999, (8, 8)) for call in calls), sampler


def check_flow_and_pixels() -> None:
    """As the small PixArt of this project works: RGB pixels, rectified flow."""
    latent = pack("sparsedit_core.checkpoint").Latent(3, 0.5, 1, "pixel")
    changes = {"in_channels": 3, "learn_sigma": False, "latent": latent, "prediction": "flow"}
    model = load(SPARSE, **changes)
    assert float(model.get_model_object("model_sampling").timestep(torch.tensor([1.0]))) == 1000
    import comfy.sample

    caption = text(5)
    found = sample(model, size=(16, 20), scheduler="simple", cfg=1.0, steps=4, conditions=(caption, text(5, seed=2)))
    noise = comfy.sample.prepare_noise(torch.zeros(1, 3, 16, 20), 5)
    flow = pack("sparsedit_core.diffusion").sample_flow
    network = core(SPARSE, in_channels=3, learn_sigma=False)
    with torch.no_grad():
        expected = flow(lambda x, t: network(x, t, caption[0][0]), noise, 4) / 0.5
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def check_conditions_that_do_not_fit() -> None:
    model = load(SPARSE)
    before = sample(model, steps=1)
    wrong = {
        "no text": lambda: sampling.evaluate(model, X, T, None),
        "channels": lambda: evaluate(model, torch.zeros(1, 16, 8, 8)),
        "control": lambda: evaluate(model, control={"input": []}),
    }
    for what, call in wrong.items():
        assert "\n" not in error_of(call), what
    assert torch.equal(sample(model, steps=1), before)
    assert config().caption_channels == TEXT
