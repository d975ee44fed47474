"""Pruning schedule, class label and guidance nodes."""

from __future__ import annotations

from typing import Any

import torch
from comfy_pack import node, pack
from load_checks import error_of
from sampling import sample
from scheduled import apply, load, schedule, spied

DEFAULTS: dict[str, Any] = {
    "preset": "custom", "rate_noise": 0.86, "rate_clean": 0.61, "hold_fraction": 0.25, "hold": "noise",
    "curve": "linear", "steps": 4, "points": "", "levels": 6, "start_percent": 0.0, "end_percent": 1.0,
    "preview_tokens": 16,
}  # fmt: skip


def widgets(**changes: Any) -> Any:
    """Both outputs of the schedule node."""
    return node("SparseDiTPruningSchedule").execute(**DEFAULTS | changes).result


def check_widgets_make_the_schedule() -> None:
    core = pack("sparsedit_core.schedule")
    made, picture = widgets()
    assert made == core.PruningSchedule(0.86, 0.61)
    assert picture.shape == (1, 420, 900, 3)
    drawn = pack("sparsedit_core.plots").draw_schedule(
        made, (16, 16), title="Pruning schedule", times=pack("sparsedit_core.schedule_cost").even_times(20)
    )
    assert torch.equal(picture, pack("nodes.show").to_image(drawn))
    _, other = widgets(rate_clean=0.5)
    _, wide = widgets(model=load(), latent={"samples": torch.zeros(1, 4, 9, 20)})
    assert not torch.equal(picture, other)
    assert not torch.equal(picture, wide)
    assert float(picture.min()) >= 0
    assert 0.9 < float(picture.max()) <= 1
    made, _ = widgets(preset="512 fast", rate_noise=0.1, rate_clean=0.5, hold="clean", levels=0, end_percent=0.9)
    assert (made.rate_noise, made.rate_clean, made.hold, made.levels, made.end) == (0.96, 0.9, "clean", None, 0.9)
    made, _ = widgets(curve="custom", points="0.6:0.8,\n 0.3:0.7")
    assert made.points == ((0.3, 0.7), (0.6, 0.8))
    assert widgets(points="0.3:0.7")[0].points == ()


def check_every_widget_has_a_tooltip_and_the_default_of_the_core() -> None:
    for item in pack("nodes").NODES:
        schema = item.define_schema()
        assert schema.description
        for port in [*schema.inputs, *schema.outputs]:
            assert port.tooltip, (schema.node_id, port.display_name)
    inputs = {port.id: port for port in node("SparseDiTPruningSchedule").define_schema().inputs}
    assert {name: inputs[name].default for name in DEFAULTS} == DEFAULTS
    assert list(inputs)[-1] == "preview_steps"  # the values in saved workflows are by position


def check_early_and_late_refusals() -> None:
    validate = node("SparseDiTPruningSchedule").validate_inputs
    assert validate("custom", 0.8, 0.5) is True
    assert validate("512 fast", 0.1, 0.5) is True
    assert validate("custom", None, 0.5) is True
    assert validate() is True
    assert "below rate_clean" in validate("custom", 0.4, 0.5)
    assert "512 fast" in validate("nonsense", 0.8, 0.5)
    assert "time:rate" in error_of(lambda: widgets(curve="custom", points="0.3 0.7"))
    assert "start" in error_of(lambda: widgets(start_percent=0.5, end_percent=0.2))


def check_preview_of_a_model_and_a_latent() -> None:
    grid = pack("nodes.pruning_schedule").preview_grid
    model = load()
    assert grid(16, None, None) == (16, 16)
    assert grid(16, model, None) == (8, 8)
    assert grid(16, model, {"samples": torch.zeros(1, 4, 9, 20)}) == (5, 10)
    summary = pack("nodes.pruning_schedule").summary
    assert "% of dense MACs" in summary(schedule(), (8, 8), model, 20)


def check_labels_of_a_batch_reach_the_model() -> None:
    model, calls = spied(load())
    label = node("SparseDiTClassLabel")
    positive, negative = label.execute(classes="2, 5\n0", model=model).result
    import comfy.sample

    noise = torch.randn(3, 4, 16, 16)
    latent = torch.zeros_like(noise)
    comfy.sample.sample(model, noise, 2, 3.0, "euler", "normal", positive, negative, latent, disable_pbar=True)
    assert all(sorted([labels[:3], labels[3:]]) == [[2, 5, 0], [7, 7, 7]] for *_, labels in calls)


def check_class_names() -> None:
    label = node("SparseDiTClassLabel")
    names = ("disc", "square", "ring", "star", "cross", "bar", "dot")
    model = load(class_names=names)
    positive, negative = label.execute(classes="Ring, disc", model=model).result
    assert positive[0][1]["class_label"].tolist() == [2, 0]
    assert negative[0][1] == {}
    assert label.execute(classes="otter").result[0][0][1]["class_label"].tolist() == [360]
    assert "ring" in error_of(lambda: label.execute(classes="rng", model=model))
    assert "7 classes" in error_of(lambda: label.execute(classes="ring", model=load()))


def check_guidance_of_three_channels() -> None:
    model = apply(load(), schedule())
    seen: list[Any] = []

    def watch(args: Any) -> Any:
        seen.append(args)
        return args["denoised"]

    watched = model.clone()
    watched.set_model_sampler_post_cfg_function(watch)
    guided = node("SparseDiTGuidance").execute(model=watched, channels=3).result[0]
    official: list[Any] = []
    guided.set_model_sampler_post_cfg_function(lambda args: official.append(args["denoised"]) or args["denoised"])
    sample(guided, steps=3, cfg=4.0)
    combine = pack("sparsedit_core.diffusion.guidance").combine_guidance
    for args, out in zip(seen, official, strict=True):
        wanted = combine(args["cond_denoised"], args["uncond_denoised"], 4.0, 3)
        torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)
    four = node("SparseDiTGuidance").execute(model=model, channels=4).result[0]
    assert torch.equal(sample(four, steps=3), sample(model, steps=3))
    assert torch.equal(sample(guided, steps=2, cfg=1.0), sample(model, steps=2, cfg=1.0))
