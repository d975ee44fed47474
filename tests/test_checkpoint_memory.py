"""Opening a training checkpoint (weights, their average, two Adam states) costs little more than the average alone.

The real size (DiT-XL/2, 10.8 GB on disk) runs with `pytest -m xl tests/test_checkpoint_memory.py`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from mmap import MAP_SHARED
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsedit_core import DiTConfig
from sparsedit_core.checkpoint.shapes import flat_shapes

PROGRAM = Path(__file__).with_name("checkpoint_memory.py")
SMALL = DiTConfig(hidden_size=384, depth=3, num_heads=6)
XL = DiTConfig()
LIMIT = 1.4

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="resident memory is read from /proc, which only Linux has"
)


def write_training_checkpoint(path: Path, config: DiTConfig) -> int:
    """What DiT's train.py saves, with random numbers at real shapes; returns the bytes of the average.

    Written with holes first and filled through a shared mapping, so that it needs no memory of its own size.
    """
    shapes = flat_shapes(config)
    with torch.serialization.skip_data():  # empty tensors are never touched, so they take no memory
        parts: list[Any] = [{key: torch.empty(shape) for key, shape in shapes.items()} for _ in range(4)]
        weights, average, first, second = parts
        moments = {i: {"exp_avg": first[key], "exp_avg_sq": second[key]} for i, key in enumerate(shapes)}
        args = argparse.Namespace(model="DiT-XL/2", num_classes=config.num_classes, image_size=256)
        torch.save(
            {"model": weights, "ema": average, "opt": {"state": moments, "param_groups": []}, "args": args}, path
        )
    noise = torch.randn(4_000_000)
    with (
        torch.serialization.set_default_mmap_options(MAP_SHARED),
        torch.serialization.safe_globals([argparse.Namespace]),
    ):
        content = torch.load(path, mmap=True, weights_only=True)
    tensors = [*content["model"].values(), *content["ema"].values()]
    tensors += [value for moment in content["opt"]["state"].values() for value in moment.values()]
    for tensor in tensors:
        for piece in tensor.view(-1).split(noise.numel()):
            piece.copy_(noise[: piece.numel()])
    return sum(tensor.nbytes for tensor in content["ema"].values())


def growth(path: Path, dtype: str) -> dict[str, int]:
    """Peak growth of a fresh process that opens the file."""
    program = [sys.executable, str(PROGRAM), str(path), dtype]
    result = subprocess.run(program, capture_output=True, text=True, check=False, timeout=1800)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def check(folder: Path, config: DiTConfig) -> dict[str, dict[str, float]]:
    """Open the file as it is and cast, and hold both against the limit; growth in units of the average."""
    average = write_training_checkpoint(folder / "training.pt", config)
    seen = {name: growth(folder / "training.pt", name) for name in ("kept", "bfloat16")}
    ratios = {name: {part: value / average for part, value in values.items()} for name, values in seen.items()}
    assert ratios["kept"]["model"] == 1.0
    assert ratios["kept"]["total"] < LIMIT
    assert ratios["bfloat16"]["anonymous"] < LIMIT
    assert ratios["bfloat16"]["model"] < 0.51 * (1 + 0.05)
    return ratios


def test_memory_of_a_small_training_checkpoint(tmp_path: Path) -> None:
    ratios = check(tmp_path, SMALL)
    assert ratios["bfloat16"]["anonymous"] < 1.0


@pytest.mark.xl
def test_memory_of_an_xl_training_checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if "xl" not in (request.config.getoption("-m") or ""):
        pytest.skip("writes 11 GB; run with -m xl")
    ratios = check(tmp_path, XL)
    (tmp_path / "training.pt").unlink()
    assert ratios["kept"]["total"] < 0.1
