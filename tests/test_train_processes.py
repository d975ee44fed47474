"""Several processes: two that share a step end where one does that accumulates the same micro-batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_runs import LAYOUT, MemorySource, options, tiny_run, train, weights
from train_worker import COMMAND, PROCESSES

from sparsedit_core.cli import main
from sparsedit_core.train.run import Run

WORKER = Path(__file__).resolve().parent / "train_worker.py"


def ended(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Float64 weights after 20 steps."""
    state = weights(folder / f"{name}.state" / "step-00000020.safetensors")
    return {key: value for key, value in state.items() if key.startswith("model.")}


def launch(*words: object) -> str:
    """torchrun with two processes on this machine."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(WORKER)]
    done = subprocess.run(
        [*command, *map(str, words)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Fail unless all weights are within a tolerance of each other."""
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.dtype == expected[key].dtype
        torch.testing.assert_close(value, expected[key], rtol=0, atol=tolerance)


def test_two_processes_equal_one_that_accumulates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    settings = options(**PROCESSES, accumulate=2)
    for name, layout in (("dense", None), ("sparse", LAYOUT)):
        train(tiny_run(layout, dtype=torch.float64), alone / f"{name}.safetensors", MemorySource(), settings, cpu=True)
    # the first half of a run in one process, which two will take over
    original = Run._step

    def broken(run: Run, step: int, *rest: object) -> object:
        if step == 11:
            raise RuntimeError("enough")
        return original(run, step, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "_step", broken)
    half = tiny_run(dtype=torch.float64)
    with pytest.raises(RuntimeError, match="enough"):
        train(half, together / "resumed.safetensors", MemorySource(), settings, cpu=True)
    assert (together / "resumed.state" / "step-00000010.json").is_file()
    printed = launch("processes", together)
    start = tiny_run(dtype=torch.float64).model.state_dict()
    for name, like in (("dense", "dense"), ("sparse", "sparse"), ("resumed", "sparse")):
        close(ended(together, name), ended(alone, like), 1e-9)
    moved = ended(alone, "sparse")
    assert moved["model.blocks.2.mlp.fc1.weight"].dtype == torch.float64
    assert float((moved["model.blocks.2.mlp.fc1.weight"] - start["blocks.2.mlp.fc1.weight"]).abs().max()) > 1e-3
    # the command line prints once, and float32 agrees but for the last bits, which Adam amplifies
    assert printed.count("command.safetensors: 16 pictures seen") == 1
    assert main([*COMMAND.split(), str(alone / "command.safetensors"), "--accumulate", "2"]) == 0
    close(weights(together / "command.safetensors"), weights(alone / "command.safetensors"), 2e-3)


def test_the_number_of_micro_batches_of_a_step_matters(tmp_path: Path) -> None:
    """What the test above would miss if the parts of a step were one and the same."""
    for accumulate in (1, 2):
        out = tmp_path / f"{accumulate}.safetensors"
        settings = options(**PROCESSES, accumulate=accumulate)
        train(tiny_run(dtype=torch.float64), out, MemorySource(), settings, cpu=True)
    one, two = ended(tmp_path, "1"), ended(tmp_path, "2")
    assert max(float((one[key] - two[key]).abs().max()) for key in one) > 1e-6
