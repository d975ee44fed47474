"""The benchmark of the training loop: it does the steps that it says, and counts them; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_models import LAYOUT, SCHEDULE, Cli, save_pixels
from tiny import config, random_model

from sparsedit_core.bench import training
from sparsedit_core.bench.training import RandomSource, Stretch, Throughput, TrainCase, measure_training
from sparsedit_core.checkpoint import Latent, Loaded
from sparsedit_core.cost import MODELS
from sparsedit_core.dit import DiT
from sparsedit_core.train.options import TrainOptions


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def case(layout: str | None = None, **changes: Any) -> TrainCase:
    wanted = config(layout)
    loaded = Loaded(
        model=random_model(wanted), config=wanted, schedule=SCHEDULE if layout else None, latent=Latent(4, 1.0, 8)
    )
    options = TrainOptions(batch=4, pictures=4, **changes)
    return TrainCase("tiny", loaded, RandomSource(wanted, loaded.latent, 4), options, steps=2)


@pytest.mark.parametrize("layout", [None, LAYOUT])
def test_both_do_the_same_steps(layout: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stretch runs the same forwards: same inputs, same grids, as many of them."""
    seen: list[tuple[float, object]] = []
    forward = DiT.forward

    def counted(self: DiT, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, *, sparse_grid: Any = None) -> Any:
        seen.append((float(x.sum()), sparse_grid))
        return forward(self, x, t, y, sparse_grid=sparse_grid)

    monkeypatch.setattr(DiT, "forward", counted)
    order: list[str] = []
    wanted = case(layout)
    before = [p.clone() for p in wanted.loaded.model.parameters()]
    found = measure_training(wanted, 2, order.append)
    assert order == ["loop", "bare", "bare", "loop"]
    steps = training._WARM_UP + 2
    stretches = [seen[i : i + steps] for i in range(0, len(seen), steps)]
    assert len(stretches) == 4
    assert all(stretch == stretches[0] for stretch in stretches)
    assert all((grid is None) == (layout is None) for _, grid in seen)
    # each stretch has a model of its own: the given one is left alone
    assert all(map(torch.equal, before, wanted.loaded.model.parameters()))
    assert len(found.loop) == len(found.bare) == 2
    assert all(stretch.seconds > 0 for stretch in found.loop + found.bare)


def test_both_end_at_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a gradient that is not clipped and a constant rate, the bare step is the loop's."""
    ends: list[DiT] = []
    wanted = case(clip=0.0, warmup=0, decay=0.0)
    copied = training.copy.deepcopy
    monkeypatch.setattr(training.copy, "deepcopy", lambda model: ends.append(copied(model)) or ends[-1])
    measure_training(wanted, 1)
    loop, bare = ends[0], ends[-1]
    assert any(not torch.equal(a, b) for a, b in zip(loop.parameters(), wanted.loaded.model.parameters(), strict=True))
    for a, b in zip(loop.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_stretch_leaves_no_device_behind() -> None:
    """accelerate remembers the device of a process: a CPU's stretch must not send a GPU's loop to the CPU."""
    state = pytest.importorskip("accelerate").state
    before = dict(state.PartialState._shared_state), dict(state.AcceleratorState._shared_state)
    state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        measure_training(case(), 1)
        assert not state.PartialState._shared_state
        assert not state.AcceleratorState._shared_state
    finally:
        state.PartialState._shared_state.update(before[0])
        state.AcceleratorState._shared_state.update(before[1])


def test_shares_are_medians_of_pairs() -> None:
    loop = [Stretch(2.0, 4.0), Stretch(1.0, 1.0), Stretch(10.0, 1.0)]
    bare = [Stretch(1.0, 1.0), Stretch(0.9, 0.8), Stretch(9.0, 1.0)]
    found = Throughput(case(), loop, bare)
    assert (found.share, found.cpu_share) == (0.9, 0.8)
    report = json.loads(json.dumps(found.to_json()))
    assert (report["loop_samples_per_second"], report["bare_samples_per_second"]) == (4.0, 8.0)
    other = Throughput(TrainCase(**{**found.case.__dict__, "device": "cuda"}), loop, bare)
    assert other.cpu_share is None


def test_command(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "DiT-T/2", config(depth=12))
    dense, sparse = save_pixels(tmp_path / "d.safetensors"), save_pixels(tmp_path / "s.safetensors", LAYOUT)
    words = ("bench", "--training", "--device", "cpu", "--repeats", 1, "--stretch", 1, "--batch", 2)
    out = tmp_path / "bench.json"
    report = cli.works(*words, "--models", dense, sparse, "DiT-T/2@64", "--json", "--out", out).json
    assert json.loads(out.read_text()) == report
    assert [row["model"] for row in report["training"]] == [
        "d.safetensors", "s.safetensors", "DiT-T/2@64 dense", "DiT-T/2@64 sparse",
    ]  # fmt: skip
    for row in report["training"]:
        assert (row["batch"], row["steps"], row["precision"], row["device"]) == (2, 1, "no", "cpu")
        assert row["loop_samples_per_second"] > 0
    text = cli.works(*words, "--models", dense, "--dtype", "bfloat16").out
    assert "d.safetensors, cpu bfloat16, batch 2" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "d.safetensors", "s.safetensors"]


def test_what_is_refused(cli: Cli, tmp_path: Path) -> None:
    assert "add --training" in cli.refuses("bench", "--stretch", 3)
    assert "are about evaluations" in cli.refuses("bench", "--training", "--profile")
    for words in (("--steps", 5), ("--guidance",), ("--no-guidance",)):
        assert "are about evaluations" in cli.refuses("bench", "--training", *words)
    dense = save_pixels(tmp_path / "d.safetensors")
    assert "has its own or none" in cli.refuses("bench", "--training", "--models", dense, "--layout", LAYOUT)
    assert "nothere" in cli.refuses("bench", "--training", "--models", tmp_path / "nothere.safetensors")
    assert "cannot read" in cli.refuses("bench", "--training", "--models", "DiT-Q@64")
