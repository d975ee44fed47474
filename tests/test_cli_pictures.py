"""sample, compare, evaluate, demo: what they write, and how they refuse or are interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import small_model
from cli_models import LAYOUT, SCHEDULE, Cli, keyboard, save_latents, save_pixels
from PIL import Image
from safetensors.torch import load_file

import sparsedit_core as sd
from sparsedit_core.cli import evaluate_text
from sparsedit_core.cost import macs
from sparsedit_core.dit import DiT
from sparsedit_core.sampling import SampleOptions, evaluation_times, initial_noise, sample
from sparsedit_core.sheets import to_pictures


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the bundled models."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    save_pixels(folder / "dense.safetensors")
    save_pixels(folder / "sparsedit.safetensors", LAYOUT, seed=1)
    monkeypatch.setattr("sparsedit_core.bundled.FOLDER", folder)
    return folder


def names(folder: Path) -> list[str]:
    """All files of a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> sd.Loaded:
    return sd.load_checkpoint(save_pixels(tmp_path_factory.mktemp("models") / "sparse.safetensors", LAYOUT))


def test_evaluations_follow_the_schedule_and_count_their_macs(sparse: sd.Loaded) -> None:
    noise, labels = initial_noise(sparse, 3), torch.tensor([0, 4, 9])
    samples = sample(sparse, noise, labels, SampleOptions(steps=4, batch=2))
    assert [e.time for e in samples.evaluations] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert [e.sparse for e in samples.evaluations] == [SCHEDULE.grid(t, (8, 8)) for t in (1.0, 0.75, 0.5, 0.25)]
    expected = [3 * macs(sparse.config, sparse_grid=e.sparse).total for e in samples.evaluations]
    assert 3 * samples.macs == sum(expected)
    assert {(e.images, e.dense) for e in samples.evaluations} == {(3, (8, 8))}
    assert [e.macs for e in samples.evaluations] == expected
    guided = sample(sparse, noise, labels, SampleOptions(steps=4, batch=2, cfg=2.0))
    assert [e.macs for e in guided.evaluations] == [2 * count for count in expected]
    assert guided.seconds > 0


def test_pictures_do_not_depend_on_the_batch(sparse: sd.Loaded, tmp_path: Path) -> None:
    latent = sd.load_checkpoint(save_latents(tmp_path / "eps.safetensors"))
    for loaded, sampler in ((sparse, "heun"), (latent, "ddpm")):
        labels = torch.arange(4)
        runs = [
            sample(loaded, initial_noise(loaded, 4, seed=5), labels, SampleOptions(3, sampler, batch=batch), seed=5)
            for batch in (1, 4)
        ]
        tolerance = 1e-5 * float(runs[0].images.abs().max())
        assert torch.allclose(runs[0].images, runs[1].images, atol=tolerance)
        assert len(runs[0].evaluations) == (5 if sampler == "heun" else 3)
    assert torch.equal(initial_noise(sparse, 7, seed=2)[:3], initial_noise(sparse, 3, seed=2))
    assert not torch.equal(initial_noise(sparse, 2, seed=1)[0], initial_noise(sparse, 2, seed=0)[1])
    for seed in (2**63, -1, 10**30):
        assert bool(initial_noise(sparse, 2, seed=seed).isfinite().all())


def test_sampling_refuses_what_does_not_fit(sparse: sd.Loaded) -> None:
    noise = initial_noise(sparse, 2)
    with pytest.raises(ValueError, match="euler or heun"):
        sample(sparse, noise, torch.zeros(2, dtype=torch.long), SampleOptions(sampler="ddim"))
    with pytest.raises(ValueError, match=r"classes of this model are 0 \.\. 9"):
        sample(sparse, noise, torch.tensor([0, 10]))
    with pytest.raises(ValueError, match="expected"):
        sample(sparse, noise, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="1 or more"):
        SampleOptions(steps=0)


def test_sample_writes_a_sheet(cli: Cli, bundled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "sheet.png"
    words = ("sample", "bundled:sparsedit", "--classes", "0-2", "striped ring", "7", "--steps", 2, "--out", out)
    assert "sparse grids" in cli.works(*words).out
    sheet = Image.open(out)
    assert sheet.size[0] > 5 * 128
    again = tmp_path / "again.png"
    report = cli.works(*words[:-1], again, "--json").json
    assert again.read_bytes() == out.read_bytes()
    assert report["pictures"] == 5
    assert len(report["evaluations"]) == 2
    assert report["flops"] == 2 * report["macs"] == 2 * sum(e["macs"] for e in report["evaluations"]) // 5
    for row in report["evaluations"]:  # guidance doubles the pictures
        assert (row["images"], row["flops"], row["dense_flops"]) == (10, 2 * row["macs"], 2 * row["dense_macs"])
    assert names(out.parent) == ["sheet.png"]


def test_sample_writes_single_pictures(cli: Cli, bundled: Path, tmp_path: Path) -> None:
    words = ("sample", "bundled:dense", "--classes", 3, "--steps", 2, "--cfg", 1, "--out")
    cli.works(*words, tmp_path / "one.png")
    assert Image.open(tmp_path / "one.png").size == (64, 64)
    cli.works(*words, tmp_path / "many.png", "--each", 2, "--separate", "--size", "80x64")
    assert names(tmp_path) == ["many-000.png", "many-001.png", "one.png"]
    assert Image.open(tmp_path / "many-001.png").size == (80, 64)
    loaded = sd.load_checkpoint(bundled / "dense.safetensors")
    expected = sample(loaded, initial_noise(loaded, 1), torch.tensor([3]), SampleOptions(steps=2))
    assert Image.open(tmp_path / "one.png").tobytes() == to_pictures(expected.images)[0].tobytes()


def test_latents_are_written_for_comfyui(cli: Cli, tmp_path: Path) -> None:
    path = save_latents(tmp_path / "eps.safetensors", LAYOUT)
    words = ("sample", path, "--classes", 1, 2, "--steps", 2, "--sampler", "ddpm", "--out", tmp_path / "x.png")
    assert "Load Latent" in cli.works(*words).out
    content = load_file(tmp_path / "x.latent")
    assert content["latent_tensor"].shape == (2, 4, 16, 16)
    assert "latent_format_version_0" in content
    loaded = sd.load_checkpoint(path)
    options = SampleOptions(2, "ddpm", 1.5)
    expected = sample(loaded, initial_noise(loaded, 2), torch.tensor([1, 2]), options).images
    assert torch.allclose(content["latent_tensor"], expected, atol=1e-4)
    assert Image.open(tmp_path / "x.png").size[0] > 2 * 64


def test_sample_refuses(cli: Cli, bundled: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x.png", "--steps", 2)
    model = ("sample", "bundled:sparsedit", *out)
    assert "striped disc" in cli.refuses(*model, "--classes", "teapot")
    for words in ("8-12", "10", "0-99999999999999", "5-3"):
        assert "outside 0 .. 9" in cli.refuses(*model, "--classes", words)
    assert "euler or heun" in cli.refuses(*model, "--sampler", "ddim")
    assert "must end in .png" in cli.refuses("sample", "bundled:sparsedit", "--out", tmp_path / "x.jpg")
    assert "convert it first" in cli.refuses("sample", "bundled:dense", *out, "--preset", "256 fast")
    assert "swap them" in cli.refuses(*model, "--rate-noise", 0.2, "--rate-clean", 0.6)
    assert "--device cpu" in cli.refuses(*model, "--device", "abacus")
    assert "multiple of 8" in cli.refuses("sample", save_latents(tmp_path / "e.safetensors"), *out, "--size", 100)
    assert "whole number" in cli.refuses(*model, "--each", 0)
    (tmp_path / "file").write_text("")
    assert "file" in cli.refuses("sample", "bundled:dense", "--steps", 1, "--out", tmp_path / "file" / "x.png")
    assert names(tmp_path) == ["e.safetensors", "file"]


def test_ctrl_c_leaves_nothing(cli: Cli, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = DiT.forward
    calls = []

    def interrupted(*args: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(*args, **keywords)

    monkeypatch.setattr(DiT, "forward", interrupted)
    with keyboard():
        result = cli("sample", "bundled:dense", "--steps", 5, "--out", tmp_path / "x.png")
    assert result.code == 130
    assert result.err.strip().splitlines()[-1] == "sparsedit sample: interrupted"
    assert names(tmp_path) == []


def test_compare_with_the_dense_model(cli: Cli, bundled: Path, tmp_path: Path) -> None:
    words = ("compare", "bundled:sparsedit", "--classes", "0-2", "--steps", 2, "--repeats", 2)
    files = ("--out", tmp_path / "c.png", "--report", tmp_path / "c.json")
    report = cli.works(*words, *files, "--json").json
    assert json.loads((tmp_path / "c.json").read_text()) == report
    dense, sparse = report["runs"]
    assert (dense["name"], dense["psnr_db"], dense["macs_ratio"]) == ("dense", None, 1.0)
    assert sparse["macs_ratio"] < 1
    assert sparse["psnr_db"] > 0
    assert -1 <= sparse["ssim"] < 1
    assert Image.open(tmp_path / "c.png").size[1] > 2 * 96
    assert "PSNR" in cli.works(*words).out


def test_compare_with_all_tokens(cli: Cli, tmp_path: Path) -> None:
    path = save_latents(tmp_path / "sparse.safetensors", LAYOUT)
    full = ("--rate-noise", 0, "--rate-clean", 0)
    words = ("compare", path, "--steps", 2, "--classes", 1, "--json", "--out", tmp_path / "x.png")
    runs = cli.works(*words, *full).json["runs"]
    assert runs[0]["name"] == "all tokens"
    assert runs[1]["psnr_db"] is None  # infinite: the same run twice
    assert runs[1]["ssim"] == pytest.approx(1.0)
    assert cli.works(*words).json["runs"][1]["macs_ratio"] < 1
    table = cli.works(*(word for word in words if word != "--json")).out
    assert "of all tokens" in table
    assert "dense" not in table


def test_compare_passes_facts_on_to_the_dense_file(cli: Cli, tmp_path: Path) -> None:
    sparse, dense = save_latents(tmp_path / "sparse.safetensors", LAYOUT), tmp_path / "dense.pt"
    torch.save(small_model(depth=5).state_dict(), dense)
    words = ("compare", sparse, "--dense", dense, "--steps", 1, "--classes", 1)
    assert "give --num-heads" in cli.refuses(*words)
    table = cli.works(*words, "--num-heads", 4).out
    assert "MACs (FLOPs) of a picture" in table
    assert "of dense" in table


@pytest.mark.parametrize(("prediction", "sampler"), [("flow", "euler"), ("flow", "heun"), ("eps", "ddim")])
def test_cost_counts_the_evaluations_that_sampling_makes(
    prediction: str, sampler: Any, cli: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "sparse.safetensors"
    model = small_model("1+1x[1,1,1,0]+1", input_size=(32, 32), learn_sigma=False)
    schedule = sd.PruningSchedule(0.9, 0.3, hold_fraction=0.1, levels=None)
    sd.save_checkpoint(path, model, schedule=schedule, prediction=prediction)
    loaded = sd.load_checkpoint(path)
    done = sample(loaded, initial_noise(loaded, 1), torch.tensor([1]), SampleOptions(7, sampler))
    times = evaluation_times(prediction, 7, sampler)
    assert times == tuple(e.time for e in done.evaluations)
    assert sd.schedule_macs(loaded.config, schedule, times).macs == tuple(e.macs for e in done.evaluations)
    if sampler != "heun":
        found = cli.works("cost", path, "--steps", 7, "--json").json["sampling"]["executed"]
        assert found["macs"] == done.macs
        assert [row["time"] for row in found["per_evaluation"]] == [e.time for e in done.evaluations]


def test_compare_refuses(cli: Cli, bundled: Path, tmp_path: Path) -> None:
    assert "dense model" in cli.refuses("compare", "bundled:dense")
    assert "--dense takes" in cli.refuses("compare", "bundled:sparsedit", "--dense", "bundled:sparsedit")
    other = save_latents(tmp_path / "eps.safetensors")
    assert "latent space" in cli.refuses("compare", "bundled:sparsedit", "--dense", other)


def test_evaluate_uses_the_same_noise_for_all(cli: Cli, bundled: Path, tmp_path: Path) -> None:
    words = ("evaluate", "bundled:dense", "bundled:dense", "bundled:sparsedit", "--samples", 20, "--steps", 2)
    out = tmp_path / "scores.json"
    report = cli.works(*words, "--seeds", 3, 4, "--references", 30, "--json", "--out", out).json
    assert json.loads(out.read_text()) == report
    first, same, sparse = report["models"]
    for one, two in zip(first["seeds"], same["seeds"], strict=True):
        assert (one["accuracy"], one["frechet"]) == (two["accuracy"], two["frechet"])
    assert first["seeds"][0]["frechet"] != first["seeds"][1]["frechet"]
    assert (same["frechet_ratio"], same["macs_ratio"]) == (1.0, 1.0)
    assert sparse["macs_ratio"] < 1
    assert report["frechet_floor"] > 0
    text = cli.works(*words, "--seeds", 3).out
    assert "floor" in text
    assert "class accuracy" in text


def test_evaluate_refuses(cli: Cli, bundled: Path, tmp_path: Path) -> None:
    eps = save_latents(tmp_path / "eps.safetensors")
    assert "the project's own pictures" in cli.refuses("evaluate", eps)
    assert "at least 2" in cli.refuses("evaluate", "bundled:dense", "--samples", 1)
    assert "nothere" in cli.refuses("evaluate", "bundled:dense", "--judge", tmp_path / "nothere.safetensors")
    assert "classifier" in cli.refuses("evaluate", "bundled:dense", "--judge", eps)
    assert "every model is dense" in cli.refuses("evaluate", "bundled:dense", "--preset", "256 fast")


def test_spread() -> None:
    assert evaluate_text.spread([1.0, 2.0, 3.0]) == {"mean": 2.0, "deviation": 1.0}
    assert evaluate_text.spread([0.5]) == {"mean": 0.5, "deviation": 0.0}


def test_demo(cli: Cli, bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = cli.works("demo", "--pictures", 10, "--steps", 2).out
    folder = tmp_path / "sparsedit-demo"
    assert names(folder) == ["pictures.png", "report.json", "schedules.png"]
    for name in ("pictures.png", "schedules.png"):
        assert min(Image.open(folder / name).size) >= 64
    report = json.loads((folder / "report.json").read_text())
    runs = {run["name"]: run for run in report["runs"]}
    assert list(runs) == ["dense", "sparse: as trained", "sparse: fewer tokens", "sparse: more tokens"]
    order = ["sparse: fewer tokens", "sparse: as trained", "sparse: more tokens"]
    counts = [runs[name]["macs"] for name in order]
    assert counts == sorted(counts)
    for name in order:
        assert {"seconds", "psnr_db", "ssim", "class_accuracy", "macs", "flops"} <= set(runs[name])
        assert name in printed
    assert str(Path("sparsedit-demo") / "pictures.png") in printed


def run_python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A fresh Python that finds this package."""
    root = str(Path(sd.__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_python_m(tmp_path: Path) -> None:
    result = run_python("-m", "sparsedit_core", "inspect", "nothere.pt", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "sparsedit inspect: error: there is no file nothere.pt\n"
