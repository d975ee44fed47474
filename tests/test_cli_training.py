"""train and finetune: short runs, what their files remember, and how they refuse or are interrupted."""

from __future__ import annotations

import csv
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_models import LAYOUT, Cli, keyboard, save_latents, save_pixels

import sparsedit_core as sd
from sparsedit_core.cli import training
from sparsedit_core.train.judge import Judge
from sparsedit_core.train.options import TrainOptions
from sparsedit_core.train.run import Run
from sparsedit_core.train.source import ProceduralSource
from sparsedit_core.train.train_judge import load_judge

SMALL = ("--hidden-size", 16, "--heads", 2, "--depth", 5, "--patch-size", 8)
SHORT = ("--pictures", 16, "--batch", 4, "--warmup", 1, "--save-every", 8)
RATES = ("--rate-noise", 0.9, "--rate-clean", 0.5)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_training_option_is_explained() -> None:
    assert {item.name for item in fields(TrainOptions)} <= set(training.HELP)


def test_train_then_finetune(cli: Cli, tmp_path: Path) -> None:
    dense, sparse = tmp_path / "dense.safetensors", tmp_path / "sparse.safetensors"
    cli.works("train", dense, *SMALL, *SHORT, "--seed", 3)
    first = sd.load_checkpoint(dense)
    assert (first.prediction, first.latent.kind, first.layout) == ("flow", "pixel", None)
    assert (first.config.hidden_size, first.config.num_heads, first.config.grid) == (16, 2, (8, 8))
    assert first.metadata["train"]["seed"] == 3
    assert first.metadata["train"]["seen"] == 16
    assert first.metadata["steps"] == 4
    assert first.metadata["command"].startswith("sparsedit train dense.safetensors --hidden-size 16")
    assert set(first.metadata["versions"]) == {"sparsedit", "torch", "python", "accelerate"}
    assert first.metadata["train"]["objective"] == "flow"
    assert first.metadata["data"]["fingerprint"] == ProceduralSource(3).fingerprint
    cli.works("finetune", dense, sparse, "--layout", LAYOUT, *RATES, *SHORT)
    second = sd.load_checkpoint(sparse)
    assert str(second.layout) == LAYOUT
    assert second.schedule == sd.PruningSchedule(0.9, 0.5)
    assert second.metadata["init"]["name"] == "dense.safetensors"
    assert second.metadata["init"]["metadata"]["train"]["seed"] == 3
    assert str(tmp_path) not in str(second.metadata)
    ends = [".curves.png", ".log.jsonl", ".loss.csv", ".safetensors", ".state"]
    assert names(tmp_path) == [f"{name}{end}" for name in ("dense", "sparse") for end in ends]


def test_the_loss_log(cli: Cli, tmp_path: Path) -> None:
    cli.works("train", tmp_path / "x.safetensors", *SMALL, *SHORT, "--pictures", 208)
    with (tmp_path / "x.loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["pictures"]) for row in rows] == [200, 208]
    assert all(float(row["loss"]) > 0 and float(row["seconds"]) > 0 for row in rows)


def test_the_same_seed_gives_the_same_model(cli: Cli, tmp_path: Path) -> None:
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        path = tmp_path / f"{name}.safetensors"
        cli.works("train", path, *SMALL, *SHORT, "--seed", seed)
        states.append(sd.load_checkpoint(path).model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_training_goes_on_from_a_checkpoint(cli: Cli, tmp_path: Path) -> None:
    source = save_pixels(tmp_path / "source.safetensors", LAYOUT)
    before = source.read_bytes()
    frozen = ("--learning-rate", 1e-12)
    cli.works("train", tmp_path / "on.safetensors", "--init", source, *SHORT, *frozen)
    loaded, original = sd.load_checkpoint(tmp_path / "on.safetensors"), sd.load_checkpoint(source)
    assert loaded.schedule == original.schedule
    assert loaded.config == original.config
    state = original.model.state_dict()
    assert all(torch.allclose(value, state[key], atol=1e-6) for key, value in loaded.model.state_dict().items())
    cli.works("finetune", source, source, *SHORT)  # in place: the output replaces the file it was read from
    assert source.read_bytes() != before


def test_train_refuses(cli: Cli, tmp_path: Path) -> None:
    out, model = tmp_path / "x.safetensors", save_pixels(tmp_path / "model.safetensors")
    assert "--classifier" in cli.refuses("train")
    assert "--classifier" in cli.refuses("train", out, "--classifier", out)
    for flags in (("--data", tmp_path), ("--resume",), ("--pictures", 5), ("--depth", 2), ("--cpu",), RATES):
        sentence = cli.refuses("train", "--classifier", out, "--classifier-steps", 1, *flags)
        assert f"{flags[0]} is about models" in sentence
    assert ".safetensors" in cli.refuses("train", tmp_path / "x.pt")
    assert "heads" in cli.refuses("train", out, *SMALL, "--heads", 3)
    assert "leave out --depth" in cli.refuses("train", out, "--init", model, "--depth", 5)
    assert "nothere" in cli.refuses("train", out, "--init", tmp_path / "nothere.safetensors")
    assert "at least one batch" in cli.refuses("train", out, *SMALL, "--pictures", 3, "--batch", 4)
    assert "no schedule was given" in cli.refuses("train", out, *SMALL, "--layout", LAYOUT)
    assert "the model is dense" in cli.refuses("train", out, *SMALL, *RATES)
    sparse = save_pixels(tmp_path / "sparse.safetensors", LAYOUT)
    assert "give a dense model" in cli.refuses("train", out, *SMALL, *SHORT, "--teacher", sparse)
    latents = save_latents(tmp_path / "eps.safetensors")
    assert "teacher predicts 'eps'" in cli.refuses("train", out, *SMALL, *SHORT, "--teacher", latents)
    assert "do not fit" in cli.refuses("train", out, "--init", save_latents(tmp_path / "eps.safetensors"))
    assert "objective dit" in cli.refuses("train", out, "--init", model, "--objective", "dit")
    assert "exclude each other" in cli.refuses("train", out, *SMALL, "--bfloat16", "--precision", "fp16")
    assert "does not exist on the device cpu" in cli.refuses("train", out, *SMALL, "--precision", "fp16", "--cpu")
    assert "no folder" in cli.refuses("train", out, *SMALL, "--data", tmp_path / "none")
    assert "3 equal parts" in cli.refuses("train", out, *SMALL, *SHORT, "--accumulate", 3)
    assert names(tmp_path) == ["eps.safetensors", "model.safetensors", "sparse.safetensors"]


def test_finetune_with_another_fusion_is_convert_and_finetune(cli: Cli, tmp_path: Path) -> None:
    dense, start = save_pixels(tmp_path / "dense.safetensors"), tmp_path / "start.safetensors"
    short = ("--pictures", 8, "--batch", 8, "--cpu")
    cli.works("convert", dense, start, "--layout", LAYOUT, "--fusion", "identity", *RATES)
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    cli.works("finetune", dense, one, "--layout", LAYOUT, "--fusion", "identity", *RATES, *short)
    cli.works("finetune", start, two, *short)
    ours, theirs = (sd.load_checkpoint(file).model.state_dict() for file in (one, two))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert any(key.endswith("merged_layer1.weight") for key in theirs)
    assert "--fusion" in cli.refuses("finetune", start, tmp_path / "x.safetensors", "--fusion", "official")


def test_finetune_refuses(cli: Cli, tmp_path: Path) -> None:
    out, dense = tmp_path / "x.safetensors", save_pixels(tmp_path / "dense.safetensors")
    sparse = save_pixels(tmp_path / "sparse.safetensors", LAYOUT)
    assert "--layout" in cli.refuses("finetune", dense, out, *RATES)
    assert "--rate-noise" in cli.refuses("finetune", dense, out, "--layout", LAYOUT)
    assert "has 8 blocks" in cli.refuses("finetune", dense, out, "--layout", "1+1x[1,3,1,1]+1", *RATES)
    assert "already" in cli.refuses("finetune", sparse, out, "--layout", LAYOUT)
    assert "re-added positions" in cli.refuses("finetune", sparse, out, "--reinject-positions")
    assert "does not fit" in cli.refuses("finetune", dense, out, "--layout", LAYOUT, "--sparse-side", 9)
    assert "swap them" in cli.refuses("finetune", dense, out, "--rate-noise", 0.1, "--rate-clean", 0.9)
    assert names(tmp_path) == ["dense.safetensors", "sparse.safetensors"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_resume_goes_on(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, out = Run._step, tmp_path / "x.safetensors"

    def step(run: Run, number: int, *rest: Any) -> Any:
        if number == 2:
            signal.raise_signal(signal.Signals[name])
        return original(run, number, *rest)

    cli.works("train", tmp_path / "whole.safetensors", *SMALL, *SHORT)
    monkeypatch.setattr(Run, "_step", step)
    with keyboard(), pytest.raises(SystemExit) as end:
        cli("train", out, *SMALL, *SHORT)
    assert end.value.code == {"SIGINT": 130, "SIGTERM": 143}[name]
    assert "after step 3 of 4, saved as step-00000003" in cli.capsys.readouterr().err
    assert sd.load_checkpoint(out).metadata["train"]["seen"] == 12
    monkeypatch.undo()
    assert "--resume" in cli.refuses("train", out, *SMALL, *SHORT)
    assert "learning_rate was 0.001" in cli.refuses("train", out, *SMALL, *SHORT, "--resume", "--learning-rate", 0.1)
    cli.works("train", out, *SMALL, *SHORT, "--resume")
    assert same(sd.load_checkpoint(out), sd.load_checkpoint(tmp_path / "whole.safetensors"))
    cli.works("train", out, *SMALL, *SHORT, "--resume")  # nothing is left to do
    cli.works("train", out, *SMALL, *SHORT, "--seed", 1)  # a run that has ended is in no one's way
    assert not same(sd.load_checkpoint(out), sd.load_checkpoint(tmp_path / "whole.safetensors"))


def same(first: Any, second: Any) -> bool:
    a, b = first.model.state_dict(), second.model.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a)


def test_the_classifier(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "judge.safetensors"
    printed = cli.works("train", "--classifier", out, "--classifier-steps", 2, "--classifier-batch", 4).out
    assert "accuracy on held-out pictures" in printed
    judge, record = load_judge(out)
    assert isinstance(judge, Judge)
    assert (record["steps"], record["batch"], record["seed"]) == (2, 4, 0)
    assert record["command"].startswith("sparsedit train --classifier judge.safetensors")
    assert record["data"]["fingerprint"] == ProceduralSource(0).fingerprint
    assert set(record["versions"]) == {"sparsedit", "torch", "python", "accelerate"}
