"""The sparse grid follows the timestep in every sampler, and nothing of a run stays behind."""

from __future__ import annotations

from typing import Any

import torch
from comfy_pack import pack
from load_checks import error_of
from lora_checks import warnings_of
from sampling import cancelled, sample
from scheduled import apply, load, load_dense, records, schedule, spied

SAMPLERS = ("euler", "heun", "dpm_2", "dpmpp_2m", "uni_pc", "ddim", "dpmpp_sde")


def assert_follows(calls: list[Any], wanted: Any, last: float) -> None:
    """Every call has the grid that the schedule gives for the call's own timestep."""
    assert len(calls) > 1
    for t, grid, shape, _ in calls:
        dense = -(-shape[-2] // 2), -(-shape[-1] // 2)
        assert grid == wanted.grid(t / last, dense), (t, grid)
    assert all(type(side) is int for _, grid, _, _ in calls for side in grid)


def check_every_sampler_sees_the_grid_of_its_own_timestep() -> None:
    for flow, last in ((False, 999.0), (True, 1000.0)):
        wanted = schedule()
        model, calls = spied(apply(load(flow=flow), wanted))
        for sampler in SAMPLERS:
            calls.clear()
            sample(model, sampler=sampler, steps=4)
            assert_follows(calls, wanted, last)
            assert len({grid for _, grid, _, _ in calls}) > 2, sampler


def check_split_sampling_and_img2img() -> None:
    wanted = schedule()
    model, calls = spied(apply(load(), wanted))
    sample(model, steps=6, start_step=0, last_step=3, force_full_denoise=False)
    first = [t for t, *_ in calls]
    sample(model, steps=6, start_step=3, last_step=10000, disable_noise=True)
    assert_follows(calls, wanted, 999.0)
    assert min(first) > max(t for t, *_ in calls[len(first) :])
    calls.clear()
    sample(model, steps=4, denoise=0.5)
    assert_follows(calls, wanted, 999.0)
    assert max(t for t, *_ in calls) < 700


def check_ksampler_advanced_in_two_halves() -> None:
    import nodes

    wanted = schedule()
    model, calls = spied(apply(load(), wanted))
    positive = [[torch.zeros(1, 1, 1), {"class_label": torch.tensor([1])}]]
    negative = [[torch.zeros(1, 1, 1), {}]]
    latent = {"samples": torch.zeros(1, 4, 16, 16)}

    def half(noise: str, latent: Any, start: int, end: int, leftover: str) -> Any:
        settings = (noise, 5, 6, 3.0, "dpmpp_2m", "normal", positive, negative, latent, start, end, leftover)
        return nodes.KSamplerAdvanced().sample(model, *settings)[0]

    half("disable", half("enable", latent, 0, 3, "enable"), 3, 6, "disable")
    assert_follows(calls, wanted, 999.0)
    assert len(calls) == 6
    assert [len(run.evaluations) for run in records(model)] == [3, 3]
    whole = sum(run.macs for run in records(model))
    model, calls = spied(apply(load(), wanted))
    half("enable", latent, 0, 6, "disable")
    assert records(model)[0].macs == whole


def check_odd_and_wide_sizes() -> None:
    wanted = schedule()
    model, calls = spied(apply(load(), wanted))
    for size in ((16, 16), (24, 10), (9, 15)):
        calls.clear()
        assert sample(model, (1, 2), size=size, batch=2, steps=3).shape[-2:] == size
        assert_follows(calls, wanted, 999.0)


def check_sizes_and_models_do_not_touch_each_other() -> None:
    first, second = apply(load("a.safetensors"), schedule()), load("b.safetensors", seed=3)
    for other, size in ((first, (24, 16)), (second, (16, 16)), (second, (12, 20))):
        before = sample(first, sampler="heun", steps=3)
        sample(other, size=size, steps=3)
        assert torch.equal(sample(first, sampler="heun", steps=3), before)


def check_patched_then_original_equals_never_patched() -> None:
    model = load(schedule=schedule(rate_clean=0.5))
    never = sample(model, steps=3)
    patched = sample(apply(model, schedule(rate_noise=0.3)), steps=3)
    assert torch.equal(sample(model, steps=3), never)
    assert not torch.equal(patched, never)
    again = apply(apply(model, schedule()), schedule(rate_noise=0.3))
    assert torch.equal(sample(again, steps=3), patched)


def check_the_files_own_schedule_acts_until_another_is_applied() -> None:
    own = schedule(rate_clean=0.5)
    model, calls = spied(load(schedule=own))
    sample(model, steps=4)
    assert_follows(calls, own, 999.0)
    plain, calls = spied(load())
    sample(plain, steps=2)
    assert {grid for _, grid, _, _ in calls} == {(3, 3)}


def check_patches_that_a_dit_has_no_place_for_are_told() -> None:
    model = load(schedule=schedule())
    never = sample(model, steps=2)
    foreign = model.clone()
    foreign.set_model_attn1_replace(lambda q, _k, _v, _options: q, "output", 3, 0)
    lines = warnings_of(lambda: torch.testing.assert_close(sample(foreign, steps=2), never, rtol=0, atol=0))
    assert len(lines) == 1
    assert "attn1" in lines[0]
    assert warnings_of(lambda: sample(model, steps=2)) == []


def check_full_density_and_window() -> None:
    model = load(schedule=schedule())
    open_end, calls = spied(apply(model, None))
    full = sample(open_end, steps=3)
    assert {grid for _, grid, _, _ in calls} == {(8, 8)}
    assert torch.equal(sample(apply(model, schedule(rate_noise=0.0, rate_clean=0.0)), steps=3), full)
    window, calls = spied(apply(model, schedule(start=0.3, end=0.7)))
    sample(window, steps=8)
    for t, grid, _, _ in calls:
        assert (grid == (8, 8)) == (not 0.3 <= 1 - t / 999 <= 0.7), (t, grid)


def check_cancel_leaves_nothing() -> None:
    model = apply(load(), schedule())
    clean = sample(model, sampler="heun", steps=3)
    before = len(records(model))
    for stop in (1, 2, 4):
        stopped = cancelled(model, stop, lambda clone: sample(clone, sampler="heun", steps=3))
        assert pack("nodes.schedule_patch").KEY not in stopped.model_options["transformer_options"]
        assert len(records(model)) == before
        assert torch.equal(sample(model, sampler="heun", steps=3), clean)
        before += 1


def check_dense_and_foreign_models_are_refused() -> None:
    message = error_of(lambda: apply(load_dense(), schedule()))
    assert "is a dense DiT" in message
    assert "SparseDiT Convert" in message

    class Foreign:
        model = object()

    assert "SparseDiT Load Checkpoint" in error_of(lambda: apply(Foreign(), schedule()))


def check_note_outside_the_trained_range() -> None:
    note = pack("nodes.apply_schedule").outside_note
    model = load(schedule=schedule(rate_noise=0.8, rate_clean=0.4))
    info = model.model.sparsedit
    assert note(schedule(rate_noise=0.7, rate_clean=0.5), info.config, info.schedule) == ""
    assert "0.40 to 0.80" in note(schedule(rate_noise=0.9, rate_clean=0.5), info.config, info.schedule)
    assert "0.00 to 0.70" in note(schedule(rate_noise=0.7, rate_clean=0.5, end=0.9), info.config, info.schedule)
    assert "side 3" in note(schedule(), info.config, None)


def check_the_note_is_shown_on_the_node_and_logged() -> None:
    module = pack("nodes.apply_schedule")
    shown: list[str] = []
    original = module.show_text
    module.show_text = lambda text, _node: shown.append(text)
    try:
        model = load(schedule=schedule(rate_noise=0.8, rate_clean=0.4))
        lines = warnings_of(lambda: apply(model, schedule(rate_noise=0.9, rate_clean=0.5)))
        assert len(lines) == 1
        assert "0.40 to 0.80" in lines[0]
        assert warnings_of(lambda: apply(model, schedule(rate_noise=0.7, rate_clean=0.5))) == []
    finally:
        module.show_text = original
    assert "0.40 to 0.80" in shown[0]
    assert shown[1] == ""  # takes an earlier note away
