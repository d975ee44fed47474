"""What measures a model goes to the CPU before it turns to float64, which some devices (MPS) do not have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_models import LAYOUT, save_pixels
from torch import Tensor

from sparsedit_core import load_checkpoint
from sparsedit_core.analysis import analyze, noised
from sparsedit_core.train.by_time import errors_by_time


@pytest.fixture
def float64_on_the_cpu_only(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """``double`` refuses a tensor that did not come from ``cpu``; gives those that did."""
    cpu, double, seen = Tensor.cpu, Tensor.double, []

    def marked(self: Tensor) -> Tensor:
        result = cpu(self).view_as(self)
        result.on_host = True
        return result

    def checked(self: Tensor) -> Tensor:
        assert getattr(self, "on_host", False), "float64 on the device"
        seen.append(self)
        return double(self)

    monkeypatch.setattr(Tensor, "cpu", marked)
    monkeypatch.setattr(Tensor, "double", checked)
    return seen


@pytest.mark.parametrize("layout", [None, LAYOUT])
def test_measuring_needs_no_float64_on_the_device(
    layout: str | None, tmp_path: Path, float64_on_the_cpu_only: list[Tensor]
) -> None:
    loaded = load_checkpoint(save_pixels(tmp_path / "m.safetensors", layout))
    images, labels = torch.rand(2, 3, *loaded.config.input_size), torch.tensor([0, 1])
    analyze(loaded, noised(loaded, images, labels, (0.5,)), loaded.schedule)
    assert float64_on_the_cpu_only
    float64_on_the_cpu_only.clear()
    errors_by_time(loaded, images, labels, times=(0.5,))
    assert float64_on_the_cpu_only
