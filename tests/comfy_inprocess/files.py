"""Tiny checkpoints with random weights in every layout that the loader reads."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from comfy_pack import model_folder, pack
from torch import Tensor

WIDTH, HEADS, CLASSES = 48, 3, 7
SPARSE = "1+1x[1,2,1,1]+1"
IDENTITY = "0+2x[1,1,1,0]+1"  # no Poolingformer


def config(layout: str | None = None, **changes: Any) -> Any:
    """7 blocks, or as many as the layout has; 4 x 4 latent tokens."""
    parsed = pack("sparsedit_core.layout").SegmentLayout.parse(layout) if layout else None
    values: dict[str, Any] = {
        "input_size": (16, 16), "hidden_size": WIDTH, "depth": 7, "num_heads": HEADS, "mlp_ratio": 2.0,
        "num_classes": CLASSES, "layout": parsed, "sparse_side": 3,
    }  # fmt: skip
    return pack("sparsedit_core.config").DiTConfig(**values | changes)


def random_model(wanted: Any, seed: int = 0) -> Any:
    """A core model in eval mode with every weight random."""
    model = pack("sparsedit_core.dit").DiT(wanted)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save(model: Any, name: str, **description: Any) -> str:
    """Our own format in diffusion_models; returns the name a loader offers."""
    pack("sparsedit_core.checkpoint").save_checkpoint(model_folder() / name, model, **description)
    return name


def save_raw(state: dict[str, Tensor], name: str, *, args: dict[str, Any] | None = None) -> str:
    """A bare .pt state dict, or a training checkpoint of the official scripts if ``args`` are given."""
    content: Any = state if args is None else {"model": state, "ema": state, "opt": {}, "args": Namespace(**args)}
    torch.save(content, model_folder() / name)
    return name


def remove(name: str) -> None:
    """The file behind a name."""
    Path(model_folder() / name).unlink()
