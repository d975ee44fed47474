"""Small models and the files that the original projects would have written for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sparsedit_core import DiT, DiTConfig, SegmentLayout

SMALL = {"input_size": (16, 16), "hidden_size": 32, "num_heads": 4, "num_classes": 10, "mlp_ratio": 2.0}


def small_model(layout: str | None = None, seed: int = 0, **changes: Any) -> DiT:
    """A DiT of three blocks (or as many as the layout has) with random weights everywhere."""
    parsed = None if layout is None else SegmentLayout.parse(layout)
    values: dict[str, Any] = {**SMALL, "depth": parsed.depth if parsed else 3, "layout": parsed, "sparse_side": 4}
    model = DiT(DiTConfig(**{**values, **changes}))
    model.initialize_weights()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def save(path: Path, content: Any, *, legacy: bool = False) -> Path:
    """torch.save, in the format of torch 1.6 and later or the one before."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def forward(model: DiT, seed: int = 1) -> torch.Tensor:
    """The model's output for fixed inputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, model.config.in_channels, *model.config.input_size, generator=generator)
    with torch.no_grad():
        return model(x, torch.tensor([17, 930]), torch.tensor([1, 7]))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Equal keys, dtypes and bits."""
    if first.keys() != second.keys():
        return False
    pairs = [(first[key], second[key]) for key in first]
    return all(a.dtype == b.dtype and torch.equal(a.float(), b.float()) for a, b in pairs)
