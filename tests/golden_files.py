"""Reader of the golden fixtures: arrays computed by the original projects' own code.

A file is looked for in `tests/golden/` (the copies this project ships), then in the folder named by
`SPARSEDIT_GOLDEN`, then in `../shared/golden` beside the checkout. A test whose file is nowhere is skipped.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

FORWARD_TOLERANCE = 5e-6
"""Forward outputs, traces and gradients: largest difference over the largest reference magnitude."""

SAMPLING_TOLERANCE = 1e-5
"""The same for a stored tensor of a sampling trajectory."""

TESTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Golden:
    """One fixture file: its tensors by group, keys as in the original project, and its metadata."""

    state: dict[str, torch.Tensor]
    input: dict[str, torch.Tensor]
    output: dict[str, torch.Tensor]
    dense: dict[str, torch.Tensor]
    original: dict[str, torch.Tensor]
    meta: dict[str, Any]
    path: Path


def golden_folders() -> list[Path]:
    """Folders that may hold fixtures, the first one that has the file wins."""
    folders = [TESTS / "golden"]
    if os.environ.get("SPARSEDIT_GOLDEN"):
        folders.append(Path(os.environ["SPARSEDIT_GOLDEN"]))
    folders.append(TESTS.parent.parent / "shared" / "golden")
    return folders


def golden_path(name: str) -> Path:
    """Path of the fixture `name` (without suffix); skips the calling test where no folder has it."""
    for folder in golden_folders():
        path = folder / f"{name}.safetensors"
        if path.is_file():
            return path
    pytest.skip(f"golden file {name}.safetensors not found; set SPARSEDIT_GOLDEN to the folder that holds it")


def golden(name: str) -> Golden:
    """Read the fixture `name`, e.g. `golden("dit_a_d64").output["out"]`."""
    path = golden_path(name)
    groups: dict[str, dict[str, torch.Tensor]] = {
        group: {} for group in ("state", "input", "output", "dense", "original")
    }
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["json"])
        for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
            group, _, rest = key.partition("/")
            groups[group][rest] = file.get_tensor(key)
    return Golden(**groups, meta=meta, path=path)


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference over the largest magnitude of `expected`; shapes must be equal."""
    assert found.shape == expected.shape, f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    difference = (found.detach().double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max())


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str = "") -> None:
    """Fail unless `found` agrees with `expected` within `tolerance` times the largest expected magnitude."""
    difference = relative_difference(found, expected)
    assert difference <= tolerance, f"{what}: relative difference {difference:.3g} above {tolerance:.3g}"
