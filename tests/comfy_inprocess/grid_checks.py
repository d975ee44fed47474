"""The schedule grid: every cell is what KSampler gives with Apply Schedule, and a cancelled one leaves nothing."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from comfy_pack import node, pack, run
from load_checks import error_of
from sampling import cancelled
from scheduled import apply, load, load_dense, schedule

SAMPLING = {"seed": 3, "steps": 3, "cfg": 2.0, "sampler_name": "heun", "scheduler": "normal", "denoise": 0.8}
AXES = {"x_values": "0.9:0.2, 256 quality", "y_axis": "hold", "y_values": "noise, clean"}


def pixels(*, batch: int = 1) -> dict[str, Any]:
    """A flow model on RGB pixels, what it is conditioned on, and the picture it starts from."""
    import comfy.sd

    model = load("grid.safetensors", flow=True)
    positive, negative = node("SparseDiTClassLabel").execute(classes="1\n2", model=model).result
    picture = torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.5
    vae = comfy.sd.VAE({"pixel_space_vae": torch.tensor(1.0)})  # as core's VAELoader does for pixel_space
    return {
        "model": model, "positive": positive, "negative": negative, "latent_image": {"samples": picture}, "vae": vae,
        "schedule": schedule(end=0.7), **SAMPLING, **AXES,
    }  # fmt: skip


def grid(inputs: dict[str, Any], **changes: Any) -> Any:
    """Sheet, pictures, text and parsed JSON of the node."""
    sheet, pictures, text, report = node("SparseDiTScheduleGrid").execute(**inputs | changes).result
    return sheet, pictures, text, json.loads(report)


def by_hand(inputs: dict[str, Any], wanted: Any) -> torch.Tensor:
    """The picture of core's own nodes behind Apply Schedule."""
    from nodes import KSampler, VAEDecode

    names = ("positive", "negative", "latent_image")
    (latent,) = KSampler().sample(apply(inputs["model"], wanted), **{name: inputs[name] for name in names}, **SAMPLING)
    return VAEDecode().decode(inputs["vae"], latent)[0]


def check_each_cell_is_what_the_sampler_gives() -> None:
    inputs = pixels()
    sheet, pictures, _, report = grid(inputs)
    presets = pack("sparsedit_core.schedule").PRESETS
    rates = [(0.9, 0.2), (presets["256 quality"].rate_noise, presets["256 quality"].rate_clean)]
    cells = [
        replace(inputs["schedule"], rate_noise=noise, rate_clean=clean, hold=hold)
        for hold in ("noise", "clean") for noise, clean in rates
    ]  # fmt: skip
    wanted = [pack("nodes.schedule_patch").FULL_DENSITY, *cells]
    assert torch.equal(pictures, torch.cat([by_hand(inputs, one) for one in wanted]))
    assert [entry["schedule"] for entry in report["runs"]] == [one.to_json() for one in wanted]
    assert sheet.shape[0] == 1
    assert len({pictures[i].numpy().tobytes() for i in range(5)}) == 5, "the schedules make a difference"


def check_the_figures_are_those_of_the_runs() -> None:
    inputs = pixels()
    _, pictures, text, report = grid(inputs)
    cost, metrics = pack("sparsedit_core.cost"), pack("sparsedit_core.metrics")
    config = inputs["model"].model.sparsedit.config
    planes = pictures.movedim(-1, 1)
    for number, entry in enumerate(report["runs"]):
        grids = [tuple(row["sparse_grid"]) for row in entry["evaluations"]]
        assert len(grids) == 5, "heun evaluates twice but at its last step"
        assert entry["macs"] == sum(2 * cost.macs(config, (16, 16), sparse_grid=g, factor=1).total for g in grids)
        psnr = float(metrics.psnr(planes[number : number + 1], planes[:1], data_range=1.0))
        assert entry["psnr"] == (psnr if number else None)
    lines = text.splitlines()
    assert len(lines) == 1 + 5
    assert lines[1].startswith("dense tokens")
    assert "0.61 to 0.44" not in text, "presets go by their name"


def check_of_a_batch_the_first_is_used() -> None:
    one, many = pixels(), pixels(batch=3)
    many["latent_image"]["samples"][:1] = one["latent_image"]["samples"]
    many["latent_image"] |= {"noise_mask": torch.ones(3, 1, 16, 16), "batch_index": [0, 1, 2]}
    one["latent_image"] |= {"noise_mask": torch.ones(1, 1, 16, 16), "batch_index": [0]}
    small = {"x_values": "0.9:0.2", "y_values": "noise"}
    assert torch.equal(grid(one, **small)[1], grid(many, **small)[1])


def check_one_progress_bar_counts_all_steps() -> None:
    import comfy.utils

    seen: list[tuple[int, int]] = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, *_args, **_kwargs: seen.append((value, total)))
    try:
        grid(pixels())
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    assert [seen[0], seen[-1]] == [(1, 15), (15, 15)]
    assert seen == sorted(seen), "newer ComfyUIs leave some out, none goes back"
    assert {total for _, total in seen} == {15}


def check_a_cancelled_grid_leaves_nothing() -> None:
    inputs, runs = pixels(), pack("nodes.runs")
    clean = grid(inputs)[1]
    before = list(runs._runs)
    stopped = cancelled(inputs["model"], 12, lambda model: grid(inputs, model=model))
    assert list(runs._runs) == before
    assert pack("nodes.schedule_patch").attached_to(stopped).schedule is None
    assert torch.equal(grid(inputs)[1], clean)
    assert list(runs._runs) == before, "its runs push no other run out of the registry"


def check_bad_cells_are_named_before_sampling() -> None:
    inputs = pixels()

    def refused(**changes: Any) -> str:
        def never(*_args: Any, **_kwargs: Any) -> None:
            raise AssertionError("sampled")

        model = inputs["model"].clone()
        model.add_wrapper_with_key("diffusion_model", "never", never)
        return error_of(lambda: grid(inputs, model=model, **changes))

    assert "0.9 to 0.2, curve custom" in refused(y_axis="curve", y_values="linear, custom")
    assert "'0.2:0.9'" in refused(x_values="0.9:0.2, 0.2:0.9")
    assert "end_percent" in refused(y_axis="end_percent", y_values="0.5, 1.5")
    assert "denoise is 0" in refused(denoise=0.0)
    dense = load_dense()
    assert "is a dense DiT" in error_of(lambda: grid(inputs, model=dense))
    late = replace(inputs["schedule"], start=0.6)
    assert "0.9 to 0.2, end_percent 0.5" in refused(schedule=late, y_axis="end_percent", y_values="0.5, 1")


def check_validation_sees_the_text() -> None:
    validate = node("SparseDiTScheduleGrid").validate_inputs
    assert validate(**AXES) is True
    assert validate(x_values=None, y_axis=None, y_values="anything") is True
    assert "'0.2:0.9'" in validate(**AXES | {"x_values": "0.2:0.9"})
    assert "levels" in validate(**AXES | {"y_axis": "levels", "y_values": "1"})
    assert "choose one of" in validate(**AXES | {"y_axis": "nonsense"})
    many = ", ".join(f"0.{number}:0.1" for number in range(10, 60))
    assert "50 x 1 = 50 cells, at most 48" in validate(**AXES | {"x_values": many, "y_values": "noise"})


def check_its_output_is_used_like_a_report() -> None:
    report = node("SparseDiTScheduleGrid").execute(**pixels()).result[3]
    record = pack("sparsedit_core.picture_record").picture_record(report)
    assert [entry["name"] for entry in record["runs"]][:2] == ["dense tokens", "0.9 to 0.2, hold noise"]
    assert run("SparseDiTScheduleGrid", **pixels()).ndim == 4


def check_presets_of_ones_own_are_columns() -> None:
    import folder_paths
    from comfy.cli_args import args

    presets, kind, before = pack("nodes.presets"), node("SparseDiTScheduleGrid"), folder_paths.get_user_directory()
    mine, small = schedule(rate_noise=0.8, curve="cosine", end=0.5), {"x_values": "Mine", "y_values": "noise, clean"}
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "default" / "sparsedit" / "presets"
        folder_paths.set_user_directory(base)
        try:
            assert "'Mine'" in kind.validate_inputs(**AXES | small)
            presets.save_preset(folder, "Mine", mine)
            assert kind.validate_inputs(**AXES | small) is True
            report = grid(pixels(), **small)[3]
            wanted = [replace(mine, hold=hold).to_json() for hold in ("noise", "clean")]
            assert [entry["schedule"] for entry in report["runs"]][1:] == wanted
            stamp = kind.fingerprint_inputs(**SAMPLING, **AXES | small)
            assert kind.fingerprint_inputs(**SAMPLING, **AXES | small) == stamp
            presets.save_preset(folder, "Mine", replace(mine, end=0.6))
            assert kind.fingerprint_inputs(**SAMPLING, **AXES | small) != stamp
            args.multi_user = True
            assert "'Mine'" in kind.validate_inputs(**AXES | small), "nobody knows whose"
        finally:
            args.multi_user = False
            folder_paths.set_user_directory(before)
