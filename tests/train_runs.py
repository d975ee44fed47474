"""Runs small enough to be made often: samples in memory, tiny models, what a run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny import config, random_model
from torch import Tensor

from sparsedit_core import PruningSchedule
from sparsedit_core.checkpoint import Latent, Loaded
from sparsedit_core.diffusion.model_time import Prediction
from sparsedit_core.dit import DiT
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.train.engine import train
from sparsedit_core.train.options import TrainOptions

LAYOUT = "1+1x[1,1,1,1]+1"
SCHEDULE = PruningSchedule(rate_noise=0.9, rate_clean=0.3)


@dataclass(frozen=True)
class MemorySource:
    """40 samples (4, 8, 8), each class around a level of its own; labels up to ``highest``."""

    highest: int = 4
    count: int = 40
    bad: bool = False

    latent = Latent()
    input_size = (8, 8)
    num_classes = 5
    class_names = None
    caption_channels = None
    caption_tokens = 0

    @property
    def fingerprint(self) -> str:
        return f"memory-{self.highest}-{self.count}-{self.bad}"

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        numbers = torch.arange(first, first + size) % self.count
        samples = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(int(n))) for n in numbers])
        labels = numbers % (self.highest + 1)
        images = 0.5 * samples + labels[:, None, None, None] / 5
        return (images / 0 if self.bad and first >= 16 else images), labels


def tiny_model(layout: str | None = LAYOUT, *, learn_sigma: bool = False, seed: int = 0) -> DiT:
    """4 x 4 tokens, width 16; six blocks, or as many as the layout has."""
    parsed = None if layout is None else SegmentLayout.parse(layout)
    depth = parsed.depth if parsed else 6
    return random_model(config(parsed, depth=depth, learn_sigma=learn_sigma), seed).train()


def tiny_run(
    layout: str | None = LAYOUT, prediction: Prediction = "flow", *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Loaded:
    """A model to train, with what its file would say."""
    model = tiny_model(layout, learn_sigma=prediction == "eps", seed=seed).to(dtype)
    schedule = SCHEDULE if layout else None
    return Loaded(model=model, config=model.config, schedule=schedule, prediction=prediction, latent=Latent())


def options(**changes: Any) -> TrainOptions:
    """Ten steps of four pictures, saved every second step."""
    values = {"pictures": 40, "batch": 4, "warmup": 2, "save_every": 8, "ema": 0.9, "learning_rate": 3e-3}
    return TrainOptions(**{**values, **changes})


def weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that a run wrote."""
    return load_file(path)


def same(first: Path, second: Path) -> bool:
    """Whether two files hold the same tensors, bit for bit."""
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


__all__ = ["LAYOUT", "SCHEDULE", "MemorySource", "options", "same", "tiny_model", "tiny_run", "train", "weights"]
