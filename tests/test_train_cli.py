"""train and finetune on other data and other models, and what can be seen of a run."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_models import Cli, save_pixels
from PIL import Image

import sparsedit_core as sd
from sparsedit_core.cli.watching import TensorBoard
from sparsedit_core.train import progress

SMALL = ("--hidden-size", 16, "--heads", 2, "--depth", 5, "--patch-size", 8)
SHORT = ("--pictures", 16, "--batch", 4, "--warmup", 1, "--save-every", 8, "--cpu")
RATES = ("--rate-noise", 0.9, "--rate-clean", 0.5)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Twelve latents (4, 16, 16) of the classes 0 .. 9, in the layout of fast-DiT."""
    folder = tmp_path / "data"
    generator = np.random.default_rng(0)
    for kind in ("features", "labels"):
        (folder / f"imagenet256_{kind}").mkdir(parents=True)
    for number in range(12):
        latent = generator.standard_normal((1, 4, 16, 16)).astype(np.float32)
        np.save(folder / "imagenet256_features" / f"{number}.npy", latent)
        np.save(folder / "imagenet256_labels" / f"{number}.npy", np.array([number % 10]))
    return folder


def save_dense(folder: Path, layout: str) -> Path:
    """A noise-predicting DiT of three blocks with learned variance, as the original or as diffusers saves it."""
    from checkpoint_files import small_model

    from sparsedit_core.checkpoint import flat_to_diffusers

    state = small_model().state_dict()
    if layout == "original":
        torch.save({"ema": state, "model": state, "opt": {}}, folder / "dense.pt")
        return folder / "dense.pt"
    torch.save(flat_to_diffusers(state), folder / "dense.bin")
    return folder / "dense.bin"


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("objective", ["auto", "min_snr"])
def test_any_dense_dit_becomes_a_sparse_one(
    layout: str, objective: str, cli: Cli, tmp_path: Path, features: Path
) -> None:
    dense, out = save_dense(tmp_path, layout), tmp_path / "out.safetensors"
    facts = ("--num-heads", 4) if layout == "original" else ("--num-heads", 4, "--base-size", 8)
    words = ("--layout", "1+1x[1,0,1,0]+0", "--sparse-side", 4, *RATES, *SHORT, *facts, "--objective", objective)
    cli.works("finetune", dense, out, "--data", features, *words)
    found = sd.load_checkpoint(out)
    assert (found.prediction, str(found.layout), found.config.learn_sigma) == ("eps", "1+1x[1,0,1,0]+0", True)
    assert found.schedule == sd.PruningSchedule(0.9, 0.5)
    assert found.metadata["train"]["objective"] == {"auto": "dit"}.get(objective, objective)
    assert found.metadata["data"]["count"] == 12
    sampled = tmp_path / "sample.png"
    cli.works("sample", out, "--steps", 2, "--classes", 1, "--out", sampled)
    assert sampled.is_file()


def test_a_new_model_takes_the_shape_of_the_data(cli: Cli, tmp_path: Path, features: Path) -> None:
    for objective, prediction in (("auto", "flow"), ("dit", "eps")):
        out = tmp_path / f"{objective}.safetensors"
        small = ("--hidden-size", 16, "--heads", 2, "--depth", 2)
        cli.works("train", out, *small, *SHORT, "--data", features, "--objective", objective)
        found = sd.load_checkpoint(out)
        assert found.prediction == prediction
        assert found.config.learn_sigma == (prediction == "eps")
        assert (found.config.input_size, found.config.patch_size, found.config.in_channels) == ((16, 16), 2, 4)
        assert (found.config.num_classes, found.latent.kind) == (10, "latent")


def test_models_that_do_not_fit_the_data(cli: Cli, tmp_path: Path, features: Path) -> None:
    out = tmp_path / "x.safetensors"
    pixels = save_pixels(tmp_path / "pixels.safetensors")
    assert "do not fit" in cli.refuses("train", out, "--init", pixels, "--data", features)
    np.save(features / "imagenet256_labels" / "3.npy", np.array([700]))
    dense = save_dense(tmp_path, "original")
    sentence = cli.refuses(
        "finetune", dense, out, "--data", features, "--layout", "1+1x[1,0,1,0]+0", *RATES, "--num-heads", 4, *SHORT
    )
    assert "the data have 701 classes, the model's label table has 10" in sentence
    assert not out.exists()


def test_logs_curves_and_sheets(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY", 1)
    out = tmp_path / "x.safetensors"
    words = ("--layout", "1+1x[1,1,1,0]+1", *RATES, "--sheet-every", 3, "--accumulate", 2, "--clip", 0.5)
    cli.works("train", out, *SMALL[:-4], "--patch-size", 8, "--depth", 5, *words, *SHORT)
    rows = [json.loads(line) for line in (tmp_path / "x.log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["pictures"] for row in rows] == [4, 8, 12, 16]
    assert [row["rate"] for row in rows] == [sd_rate(step) for step in range(4)]
    sides = {grid[0] * grid[1] for grid in (row["grid"] for row in rows)}
    assert sides <= {side * side for side in sd.PruningSchedule(0.9, 0.5).sides(8)}
    assert all(row["grad_norm"] > 0 and row["images_per_second"] > 0 for row in rows)
    with (tmp_path / "x.loss.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(line["loss"]) for line in table] == [pytest.approx(row["loss"], abs=1e-6) for row in rows]
    assert Image.open(tmp_path / "x.curves.png").size[0] == 900
    assert sorted(path.name for path in (tmp_path / "x.sheets").iterdir()) == ["step-00000003.png", "step-00000004.png"]
    pictures = [Image.open(path).convert("RGB").tobytes() for path in sorted((tmp_path / "x.sheets").iterdir())]
    assert pictures[0] != pictures[1]


def sd_rate(step: int) -> float:
    """Warm-up of one step, then constant but for the last 0.3 of four steps, over which it falls to zero."""
    return 1e-3 * min(1.0, (4 - step) / 1.2)


def test_sheets_of_latents(cli: Cli, tmp_path: Path, features: Path) -> None:
    small = ("--hidden-size", 16, "--heads", 2, "--depth", 2)
    cli.works("train", tmp_path / "x.safetensors", *small, *SHORT, "--data", features, "--objective", "dit",
              "--sheet-every", 100)  # fmt: skip
    with Image.open(tmp_path / "x.sheets" / "step-00000004.png") as sheet:
        assert min(sheet.size) > 128


def test_tensorboard_is_an_extra(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, folder = tmp_path / "x.safetensors", tmp_path / "board"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorboard", None)
        sentence = cli.refuses("train", out, *SMALL, *SHORT, "--tensorboard", folder)
        assert 'pip install "sparsedit[tensorboard]"' in sentence
        assert not out.exists()
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cli.works("train", out, *SMALL, *SHORT, "--tensorboard", folder)
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert events.Scalars("rate")[-1].value == pytest.approx(sd_rate(3))


def test_tensorboard_has_everything_of_a_run_that_ends_badly(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoard(tmp_path) as board:
        board.resumed(0)
        row = progress.Progress(1, 9, 4, 0.5, 0.25, 2.0, 1e-3, (3, 2), 10.0, 0.1)
        board.step(row, None)  # type: ignore[arg-type]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("step_loss")] == [0.25]
    assert [event.value for event in events.Scalars("sparse_tokens")] == [6]


def test_no_accelerate_is_one_sentence(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    sentence = cli.refuses("train", tmp_path / "x.safetensors", *SMALL, *SHORT)
    assert 'pip install "sparsedit[train]"' in sentence
