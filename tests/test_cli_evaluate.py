"""``evaluate`` beside a folder, with TorchScript networks, with an autoencoder and by time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_models import LAYOUT, SCHEDULE, Cli, save_latents, save_pixels
from test_extractors import Mean, script
from torch import Tensor, nn

import sparsedit_core as sd
from sparsedit_core.checkpoint import Latent
from sparsedit_core.dit import DiT
from sparsedit_core.sheets import to_pictures
from sparsedit_core.train.by_time import TIMES
from sparsedit_core.train.pictures import CLASS_NAMES, pictures
from sparsedit_core.train.source import PIXELS


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return save_pixels(folder / "dense.safetensors"), save_pixels(folder / "sparse.safetensors", LAYOUT, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training pictures as a folder of ten classes."""
    root = tmp_path_factory.mktemp("real")
    images, labels = pictures(0, 40)
    for number, (picture, label) in enumerate(zip(to_pictures(images), labels.tolist(), strict=True)):
        (root / CLASS_NAMES[label]).mkdir(exist_ok=True)
        picture.save(root / CLASS_NAMES[label] / f"{number}.png")
    return root


class Coarse(nn.Module):
    """Means of 4 x 4 patches of the picture: 48 features of a 16 x 16 picture."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 4).flatten(1)


class Ten(nn.Module):
    """Ten logits."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 16).flatten(1)[:, :10]


FEW = ("--samples", 12, "--steps", 2, "--seeds", 0, 1)


def test_the_report_of_procedural_pictures(cli: Cli, models: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    words = ("evaluate", *models, *FEW, "--by-time", 6, "--batch", 5)
    report = cli.works(*words, "--json", "--out", out).json
    assert json.loads(out.read_text()) == report
    dense, sparse = report["models"]
    for row in (dense, sparse):
        for metric in ("accuracy", "frechet", "precision", "recall"):
            values = [seed[metric] for seed in row["seeds"]]
            assert row[metric]["mean"] == pytest.approx(sum(values) / 2)
        assert [entry["time"] for entry in row["by_time"]["times"]] == list(TIMES)
        assert row["by_time"]["pictures"] == 6
        assert row["seeds"][0]["compared"] == 12
    grids = [entry["sparse_grid"] for entry in sparse["by_time"]["times"]]
    assert grids == [list(SCHEDULE.grid(time, sd.load_checkpoint(models[1]).config.grid)) for time in TIMES]
    assert sparse["macs_ratio"] < 1
    assert report["floor"]["frechet"] == report["frechet_floor"]
    assert report["floor"]["accuracy"] > 0.9  # the judge knows real pictures
    assert (report["floor"]["pictures"], report["floor"]["others"], report["references"]) == (12, 12, 12)
    text = cli.works(*words).out
    for title in ("class accuracy", "Frechet distance", "precision", "recall", "error by time", "sparse grid"):
        assert title in text


def test_batches_change_nothing(cli: Cli, models: tuple[Path, Path]) -> None:
    words = ("evaluate", *models, *FEW, "--by-time", 4, "--json")
    one, other = (cli.works(*words, "--batch", batch).json for batch in (12, 5))
    for a, b in zip(one["models"], other["models"], strict=True):
        for metric in ("accuracy", "precision", "recall"):
            assert a[metric] == b[metric]
        assert a["frechet"]["mean"] == pytest.approx(b["frechet"]["mean"], rel=1e-4)
        assert (a["mean_macs"], a["sparse_grids"]) == (b["mean_macs"], b["sparse_grids"])
        for x, y in zip(a["by_time"]["times"], b["by_time"]["times"], strict=True):
            assert x["error"] == pytest.approx(y["error"], rel=1e-5)


def test_a_folder_and_torchscript_networks(cli: Cli, models: tuple[Path, Path], folder: Path, tmp_path: Path) -> None:
    networks = (
        "--features", script(tmp_path / "f.pt", Coarse()), "--features-size", 16, "--features-range", 0, 255,
        "--classifier", script(tmp_path / "c.pt", Ten()),
    )  # fmt: skip
    words = ("evaluate", *models, *FEW, "--real", folder, *networks)
    report = cli.works(*words, "--by-time", 6, "--json").json
    assert (report["references"], report["real"], report["features"]) == (40, folder.name, "f.pt")
    assert (report["floor"]["pictures"], report["floor"]["others"]) == (20, 20)
    assert 0 < report["frechet_floor"] < report["models"][0]["frechet"]["mean"]
    assert report["floor"]["accuracy"] is not None
    assert report["models"][0]["accuracy"] is not None
    assert report["skipped"] == {"count": 0, "first": []}
    fewer = cli.works(*words, "--references", 10, "--json").json
    assert (fewer["references"], fewer["floor"]["pictures"]) == (10, 5)
    without = cli.works(*words[:-2]).out
    assert "n/a" in without
    assert "of f.pt" in without


def test_an_image_that_does_not_decode_is_counted(
    cli: Cli, models: tuple[Path, Path], folder: Path, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        (tmp_path / f"{number}.png").write_bytes(path.read_bytes())
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    words = ("evaluate", models[0], *FEW, "--real", tmp_path, "--features", script(tmp_path / "f.pt", Mean()))
    report = cli.works(*words, "--json").json
    assert report["skipped"] == {"count": 1, "first": ["bad.png"]}
    assert report["references"] == 40
    assert "1 images did not decode and were left out: bad.png" in cli.works(*words).out


class StandIn:
    """An autoencoder of two pixels a side: the first three channels, each value four times."""

    channels, factor, shift = 4, 2, 0.0
    loads = 0

    def __init__(self, path: Path, **keywords: Any) -> None:
        assert keywords["channels"] == 4
        StandIn.loads += 1

    def decode(self, latents: Tensor) -> Tensor:
        return nn.functional.interpolate(latents[:, :3], scale_factor=2).clamp(-1, 1)

    def encode(self, images: Tensor) -> Tensor:
        assert len(images)
        small = nn.functional.avg_pool2d(images, 2)
        return torch.cat([small, small[:, :1]], dim=1)


def test_latents_are_decoded(cli: Cli, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "eps.safetensors"
    model = sd.load_checkpoint(save_latents(path)).model
    latent = Latent(4, 0.5, 2, "latent")
    sd.save_checkpoint(path, model, latent=latent)
    monkeypatch.setattr("sparsedit_core.cli.evaluate.load_autoencoder", StandIn)
    networks = ("--real", folder, "--features", script(tmp_path / "f.pt", Mean()))
    words = ("evaluate", path, *FEW, *networks, "--vae", tmp_path / "vae.safetensors", "--by-time", 4)
    report = cli.works(*words, "--json").json
    assert report["models"][0]["by_time"]["predicts"] == "noise"
    assert report["models"][0]["frechet"]["mean"] > 0
    assert "(noise)" in cli.works(*words).out
    assert "--vae FILE" in cli.refuses("evaluate", path, *FEW, *networks)
    assert "compare with a folder" in cli.refuses("evaluate", path, *FEW, "--vae", tmp_path / "vae.safetensors")
    # more than the folder has: all of it, and no empty batch reaches the autoencoder; it is read once for all models
    monkeypatch.setattr(StandIn, "loads", 0)
    many = cli.works(*words[:-1], 100, "--batch", 16, "--json").json
    assert many["models"][0]["by_time"]["pictures"] == 40
    cli.works("evaluate", path, path, *words[2:-2])
    assert StandIn.loads == 2
    monkeypatch.setattr(StandIn, "shift", 0.1)
    assert "shifts its latents by 0.1" in cli.refuses(*words)
    monkeypatch.setattr(StandIn, "factor", 8)
    assert "decodes a latent to 8 pixels" in cli.refuses(*words)


def test_what_is_refused(cli: Cli, models: tuple[Path, Path], folder: Path, tmp_path: Path) -> None:
    words = ("evaluate", models[0], *FEW)
    assert "give a feature extractor as TorchScript" in cli.refuses(*words, "--real", folder)
    judge = ("--features", tmp_path / "f.pt", "--judge", tmp_path / "judge.safetensors")
    assert "knows the project's own pictures only" in cli.refuses(*words, "--real", folder, *judge)
    assert "was not given" in cli.refuses(*words, "--features-size", 299)
    assert "was not given" in cli.refuses(*words, "--classifier-range", 0, 1)
    features = ("--features", script(tmp_path / "f.pt", Mean()))
    assert "there is no folder" in cli.refuses(*words, *features, "--real", tmp_path / "nothere")
    assert "rise from black to white" in cli.refuses(*words, *features, "--features-range", 1, 0)
    (tmp_path / "x.pt").write_text("hello")
    assert "not a TorchScript file" in cli.refuses(*words, "--features", tmp_path / "x.pt")
    assert "gives 3 logits, but the pictures are of 10" in cli.refuses(*words, "--classifier", features[1])
    assert "leave it out" in cli.refuses(*words, "--vae", tmp_path / "x.pt")
    assert "more pictures than neighbours" in cli.refuses(*words, "--neighbours", 5, "--manifold", 5)
    other = tmp_path / "other.safetensors"
    sd.save_checkpoint(other, sd.load_checkpoint(save_latents(other)).model, latent=Latent(4, 1.0, 2, "latent"))
    both = ("evaluate", models[0], other, *FEW, *features, "--real", folder, "--vae", tmp_path / "x.pt")
    assert "of different sizes" in cli.refuses(*both)


def test_pictures_that_are_there(cli: Cli, models: tuple[Path, Path], folder: Path, tmp_path: Path) -> None:
    images, labels = pictures(40, 30)
    shades = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "some.npz", shades, labels.numpy())
    np.savez(tmp_path / "bare.npz", shades)
    report = cli.works("evaluate", "--samples-from", tmp_path / "some.npz", folder, "--json").json
    array, other = report["models"]
    assert (report["samples"], report["references"], report["floor"]["pictures"]) == (30, 30, 30)
    assert (array["file"], array["seeds"][0]["pictures"], other["seeds"][0]["pictures"]) == ("some.npz", 30, 40)
    assert array["accuracy"]["mean"] > 0.9  # real pictures and their labels
    assert array["precision"]["mean"] > 0.5
    assert (array["mean_macs"], other["macs_ratio"]) == (None, None)
    # a folder of PNGs holds the same pictures as an array of them
    for number, picture in enumerate(to_pictures(images)):
        (tmp_path / "flat").mkdir(exist_ok=True)
        picture.save(tmp_path / "flat" / f"{number}.png")
    both = cli.works("evaluate", "--samples-from", tmp_path / "bare.npz", tmp_path / "flat", "--json").json["models"]
    assert both[0]["frechet"]["mean"] == pytest.approx(both[1]["frechet"]["mean"], rel=1e-6)
    assert both[0]["accuracy"] is None
    text = cli.works("evaluate", models[0], *FEW, "--samples-from", tmp_path / "some.npz", "--by-time", 4).out
    assert "some.npz" in text
    assert "n/a" in text


def test_nothing_is_sampled_where_the_other_pictures_do_not_fit(
    cli: Cli, models: tuple[Path, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsedit_core.cli.evaluate.evaluate", lambda *_: pytest.fail("sampled"))
    np.savez(tmp_path / "x.npz", np.zeros((4, 64, 64, 3), np.uint8), np.full(4, 10))
    assert "have label 10" in cli.refuses("evaluate", models[0], *FEW, "--samples-from", tmp_path / "x.npz")
    model = DiT(replace(sd.load_checkpoint(models[0]).config, num_classes=4, null_class=False))
    model.initialize_weights()
    path = tmp_path / "m.safetensors"
    sd.save_checkpoint(path, model, prediction="flow", latent=PIXELS)
    networks = ("--real", folder, "--features", script(tmp_path / "f.pt", Mean()))
    assert "knows 4 and no null class" in cli.refuses("evaluate", path, *FEW, *networks, "--by-time", 4)


def test_flags_about_models_need_a_model(cli: Cli, folder: Path) -> None:
    for words in (("--by-time", 4), ("--preset", "256 fast")):
        assert "none was given" in cli.refuses("evaluate", "--samples-from", folder, *words)


def test_a_wrong_classifier_is_told_before_anything_is_judged(
    cli: Cli, models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsedit_core.cli.evaluate.reality", lambda *_: pytest.fail("judged"))
    other = ("--classifier", script(tmp_path / "f.pt", Mean()))
    assert "gives 3 logits, but the pictures are of 10" in cli.refuses("evaluate", models[0], *FEW, *other)


def test_arrays_that_are_no_pictures(cli: Cli, tmp_path: Path) -> None:
    assert "nothing to judge" in cli.refuses("evaluate")
    words = ("evaluate", "--samples-from", tmp_path / "x.npz")
    assert "there is no file" in cli.refuses(*words)
    (tmp_path / "x.npz").write_text("hello")
    assert "no .npz file" in cli.refuses(*words)
    np.savez(tmp_path / "x.npz", other=np.zeros(3))
    assert "no .npz file" in cli.refuses(*words)
    np.savez(tmp_path / "x.npz", np.zeros((2, 64, 64, 3)))
    assert "expected uint8 pictures" in cli.refuses(*words)
    np.savez(tmp_path / "x.npz", np.zeros((2, 64, 64, 3), np.uint8), np.zeros(3, np.int64))
    assert "one label for each of 2" in cli.refuses(*words)
    np.savez(tmp_path / "x.npz", np.zeros((2, 8, 8, 3), np.uint8))
    assert "the judge sees" in cli.refuses(*words)


def test_a_real_autoencoder_decodes_and_encodes(cli: Cli, tmp_path: Path, folder: Path) -> None:
    from vae_files import save_vae, tiny_vae  # diffusers, seconds to import

    vae = tiny_vae()
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    path = tmp_path / "eps.safetensors"
    sd.save_checkpoint(path, sd.load_checkpoint(save_latents(path)).model, latent=Latent(4, 0.18215, factor, "latent"))
    words = ("evaluate", path, *FEW, "--real", folder, "--features", script(tmp_path / "f.pt", Mean()), "--by-time", 3)
    report = cli.works(*words, "--vae", save_vae(tmp_path / "vae.safetensors", vae), "--json").json
    row = report["models"][0]
    assert row["frechet"]["mean"] > 0
    assert all(entry["error"] > 0 for entry in row["by_time"]["times"])
    save_vae(tmp_path / "wide.safetensors", tiny_vae(8))
    assert "8 latent channels, expected 4" in cli.refuses(*words, "--vae", tmp_path / "wide.safetensors")
