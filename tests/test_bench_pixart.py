"""The benchmark of PixArt, alone and beside core ComfyUI's own; no time is asserted."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_models import Cli
from comfy_env import PACK, find_comfyui
from tiny_pixart import config
from torch.utils.flop_counter import FlopCounterMode

from sparsedit_core.bench import BenchCase, ComfyUI, build_models, comfyui_folders, measure_schedules, profile_case
from sparsedit_core.bench.training import RandomSource, TrainCase, measure_training
from sparsedit_core.checkpoint import Latent, Loaded
from sparsedit_core.cost import MODELS
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.pixart import PixArt
from sparsedit_core.schedule import PRESETS, PruningSchedule
from sparsedit_core.train.options import TrainOptions

LAYOUT = SegmentLayout.parse("1+1x[1,1,1,0]+1")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setitem(MODELS, "PixArt-T/2", config(depth=LAYOUT.depth, micro_conditioning=True))
    return Cli(capsys)


def tiny_case(**changes: Any) -> BenchCase:
    schedule = PruningSchedule(rate_noise=0.86, rate_clean=0.61, levels=2)
    return replace(BenchCase(config(depth=LAYOUT.depth), 96, LAYOUT, schedule, steps=10), **changes)


@pytest.mark.parametrize("captions", [None, 3])
def test_a_case_counts_its_captions(captions: int | None) -> None:
    case = tiny_case(batch=2, guidance=True, caption_tokens=captions)
    x, t, y = build_models(case).inputs
    assert (len(x), y.shape[1]) == (4, captions or 5)
    for grid, wanted in ((None, case.dense_config), ((3, 3), case.sparse_config)):
        model = PixArt(wanted, device="meta")  # type: ignore[arg-type]
        with FlopCounterMode(display=False) as counter:
            model(x.to("meta"), t.to("meta"), y.to("meta"), sparse_grid=grid)
        assert counter.get_total_flops() // 2 == case.macs(grid)


def test_random_weights_reach_the_output() -> None:
    """No part of the model multiplies by nothing, so that a comparison of outputs sees all of it."""
    models = build_models(tiny_case(model=config(depth=LAYOUT.depth, micro_conditioning=True, qk_norm=True)))
    models.dense.requires_grad_(True)
    models.dense(*models.inputs).square().mean().backward()
    quiet = [name for name, p in models.dense.named_parameters() if p.grad is None or not p.grad.any()]
    assert quiet == ["y_embedder.y_embedding"]
    assert models.sparse.blocks[0].mlp.fc1.weight.data_ptr() == models.dense.blocks[0].mlp.fc1.weight.data_ptr()


def test_schedules_are_measured_together() -> None:
    case = tiny_case(size=128)
    other = PruningSchedule(rate_noise=0.61, rate_clean=0.44, levels=2)
    first, second = measure_schedules(case, [case.schedule, other], repeats=1)
    assert first.seconds is second.seconds
    assert set(first.seconds) == {"dense", *(f"{h}x{w}" for found in (first, second) for h, w in found.grids)}
    assert (set(first.grids), set(second.grids)) == ({(3, 3), (5, 5)}, {(5, 5), (6, 6)})
    assert set(first.macs) == set(first.grids) | set(second.grids)
    assert first.macs_ratio > second.macs_ratio > 1
    assert second.case.schedule == other
    report = json.loads(json.dumps(second.to_json()))
    assert report["caption_tokens"] == 5
    assert report["core"] is report["dense_over_bare"] is report["dense_over_plain"] is None
    assert report["speed_up"] == pytest.approx(report["dense_seconds"] / report["sparse_seconds"])


def test_command(cli: Cli, tmp_path: Path) -> None:
    words = ("bench", "--device", "cpu", "--models", "PixArt-T/2@64", "--layout", LAYOUT, "--repeats", 1, "--levels", 2)
    out = tmp_path / "bench.json"
    report = cli.works(*words, "--comfyui", "none", "--caption-tokens", 7, "--json", "--out", out).json
    assert report == json.loads(out.read_text())
    assert report["cases"][0]["caption_tokens"] == 7
    assert report["without_core"] == "it was left out"
    text = cli.works(*words, "--comfyui", "none").out
    assert "captions of 5" in text
    assert "Core ComfyUI's PixArt was not run: it was left out." in text
    assert "over core" not in text
    assert "holds no ComfyUI" in cli.refuses(*words, "--models", "PixArt-T/2@512", "--comfyui", tmp_path)


def test_every_preset_from_1024_pixels_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[PruningSchedule]] = []

    def measured(case: BenchCase, schedules: list[PruningSchedule], *_: Any) -> list[Any]:
        asked.append(schedules)
        return []

    monkeypatch.setattr("sparsedit_core.cli.bench.measure_schedules", measured)
    words = ("bench", "--device", "cpu", "--layout", LAYOUT, "--comfyui", "none", "--json", "--models")
    cli.works(*words, "PixArt-T/2@1024", "PixArt-T/2@512")
    cli.works(*words, "PixArt-T/2@1024", "--preset", "512 fast")
    cli.works(*words, "PixArt-T/2@1024", "--levels", 2)
    every = [PRESETS["256 quality"], PRESETS["256 fast"], PRESETS["512 fast"]]
    assert asked[:3] == [every, [PRESETS["512 fast"]], [PRESETS["512 fast"]]]
    assert asked[3] == [replace(preset, levels=2) for preset in every]


def test_without_any_comfyui(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsedit_core.cli.bench.comfyui_folders", list)
    monkeypatch.setattr("sparsedit_core.cli.bench.measure_schedules", lambda *_: [])
    words = ("bench", "--device", "cpu", "--models", "PixArt-T/2@512", "--layout", LAYOUT, "--json")
    assert "no ComfyUI was found, give its folder with --comfyui" in cli.works(*words).out


def test_sizes_that_core_cannot_be_compared_at(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A ComfyUI that is only found stands beside the other sizes; one that was named is refused before measuring."""
    comfyui, measured = ComfyUI("9.9", None, None), {}

    def measure(case: BenchCase, _schedules: Any, _repeats: int, _progress: Any, beside: ComfyUI | None) -> list[Any]:
        measured[case.size] = beside
        return []

    monkeypatch.setattr("sparsedit_core.cli.bench.comfyui_folders", lambda: [tmp_path])
    monkeypatch.setattr("sparsedit_core.cli.bench.load_comfyui", lambda _: comfyui)
    monkeypatch.setattr("sparsedit_core.cli.bench.measure_schedules", measure)
    words = ("bench", "--device", "cpu", "--layout", LAYOUT, "--json", "--models")
    without = cli.works(*words, "PixArt-T/2@256", "PixArt-T/2@512", "PixArt-T/2@768").json["without_core"]
    assert measured == {256: None, 512: comfyui, 768: None}
    assert "PixArt-T/2@256: core's PixArt has the positions of ours on multiples of 512 pixels" in without
    assert "PixArt-T/2@768: core's PixArt" in without
    assert "PixArt-T/2@512" not in without
    measured.clear()
    assert cli.works(*words, "PixArt-T/2@512", "PixArt-T/2@1024").json["without_core"] is None
    assert measured == {512: comfyui, 1024: comfyui}
    measured.clear()
    refused = cli.refuses(*words, "PixArt-T/2@512", "PixArt-T/2@256", "--comfyui", tmp_path)
    assert "--comfyui cannot be measured with PixArt-T/2@256: core's PixArt" in refused
    assert not measured


def test_small_pictures_beside_a_found_comfyui(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sparsedit_core.cli.bench.comfyui_folders", lambda: [tmp_path])
    words = ("bench", "--device", "cpu", "--models", "PixArt-T/2@64", "--layout", LAYOUT, "--repeats", 1, "--levels", 2)
    for profile in ((), ("--profile",)):
        text = cli.works(*words, *profile).out
        assert "Core ComfyUI's PixArt was not run: PixArt-T/2@64: core's PixArt has the positions" in text
        assert "core ComfyUI's dense" not in text


@pytest.mark.parametrize("comfy", find_comfyui()[:1], ids=str)
def test_beside_core(comfy: Any) -> None:
    """In ComfyUI's own Python: same output, same MACs, timed in turn; another model is refused."""
    code = f"""
import json, sys
sys.path[:0] = [{str(PACK)!r}, {str(PACK / "tests")!r}]
from dataclasses import replace
from pathlib import Path
import torch
from torch.utils.flop_counter import FlopCounterMode
from tiny_pixart import config
from sparsedit_core.bench import BenchCase, build_models, load_comfyui, measure_case, profile_case
from sparsedit_core.bench.comfyui import CorePixArt, difference
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.schedule import PruningSchedule

comfyui = load_comfyui(Path({str(comfy.root)!r}))
layout, schedule = SegmentLayout.parse({str(LAYOUT)!r}), PruningSchedule(rate_noise=0.9, rate_clean=0.8, levels=2)
found = dict()
for micro in (False, True):
    model = config(depth=layout.depth, micro_conditioning=micro, qk_norm=micro)
    case = BenchCase(model, 512, layout, schedule, steps=4, guidance=True)
    found[str(micro)] = measure_case(case, 2, comfyui=comfyui).to_json()
half = measure_case(replace(case, dtype=torch.bfloat16, guidance=False), 1, comfyui=comfyui).to_json()
found["operations"] = list(profile_case(case, calls=1, comfyui=comfyui))
with torch.no_grad():
    models = build_models(case)
    core = CorePixArt(models.dense, comfyui)
    models.dense.blocks[2].cross_attn.q_linear.weight = torch.nn.Parameter(torch.randn(24, 24))
    for wrong in (lambda: difference(core, models.dense, models.inputs),
                  lambda: CorePixArt(build_models(replace(case, size=256)).dense, comfyui),
                  lambda: load_comfyui(Path({str(PACK)!r}))):
        try:
            wrong()
        except ValueError as error:
            found.setdefault("refused", []).append(str(error))
    meta = build_models(replace(case, device="meta"))
    core = CorePixArt(meta.dense, comfyui)
    with FlopCounterMode(display=False) as counter:
        core(*meta.inputs)
print(json.dumps(found | dict(half=half, core_macs=counter.get_total_flops() // 2, dense_macs=case.macs())))
"""
    done = subprocess.run([comfy.python, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for report in (found["False"], found["True"], found["half"]):
        core = report["core"]
        assert core["comfyui"] == comfy.version
        assert core["output_difference"] < 1e-5
        assert core["speed_up"] == pytest.approx(core["seconds"] / report["sparse_seconds"])
        assert core["speed_up_over_macs_ratio"] == pytest.approx(core["speed_up"] / report["macs_ratio"])
        assert list(report["seconds_of_every_repetition"])[:2] == ["core", "dense"]
    assert found["operations"][:2] == ["core", "dense"]
    assert found["core_macs"] == found["dense_macs"]
    differ, small, none = found["refused"]
    assert "their times cannot be compared" in differ
    assert "measure at 512 or 1024 pixels" in small
    assert "holds no ComfyUI" in none


def test_finds_what_the_tests_find() -> None:
    assert {comfy.root for comfy in find_comfyui()} <= set(comfyui_folders())


def test_profile() -> None:
    profiles = profile_case(tiny_case(), calls=1, top=50)
    assert len(profiles) == 2
    assert all(any("mm" in op.name for op in operations) for operations in profiles.values())


@pytest.mark.parametrize("layout", [None, LAYOUT])
def test_training_loop(layout: SegmentLayout | None) -> None:
    wanted = config(layout)
    torch.manual_seed(0)
    model = PixArt(wanted)
    model.initialize_weights()
    schedule = PruningSchedule(rate_noise=0.9, rate_clean=0.5) if layout else None
    loaded = Loaded(model=model, config=wanted, schedule=schedule, latent=Latent(4, 1.0, 8))
    source = RandomSource(wanted, loaded.latent, 4)
    assert (source.caption_channels, source.caption_tokens, source.num_classes) == (10, 5, 0)
    options = TrainOptions(batch=4, pictures=4, label_drop=0.5)
    found = measure_training(TrainCase("tiny", loaded, source, options, steps=1), 1)
    assert all(stretch.seconds > 0 for stretch in found.loop + found.bare)


def test_training_command(cli: Cli) -> None:
    words = ("bench", "--training", "--device", "cpu", "--repeats", 1, "--stretch", 1, "--batch", 2)
    report = cli.works(*words, "--models", "PixArt-T/2@64", "--layout", LAYOUT, "--json").json
    assert [row["model"] for row in report["training"]] == ["PixArt-T/2@64 dense", "PixArt-T/2@64 sparse"]
