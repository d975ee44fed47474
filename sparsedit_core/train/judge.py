"""The judge: a small classifier of the procedural pictures, for class accuracy and Frechet features.

Trained by this project on pictures with light noise, so that a slightly noisy sample is still judged by what
it shows. evaluation.py asks it, among other networks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Conv2d, GroupNorm, Linear, Module, ReLU, Sequential

from .pictures import CLASS_NAMES, SIDE

WIDTHS: tuple[int, ...] = (16, 32, 64, 96, 96)
"""Channels of the five stages; the last is the number of features."""


class Judge(Module):
    """Five convolutions (strides 1, 2, 2, 2, 2), the mean over the places, one linear layer; 163 k parameters."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, classes: int = len(CLASS_NAMES)) -> None:
        super().__init__()
        stages: list[Module] = []
        before = 3
        for index, width in enumerate(widths):
            convolution = Conv2d(before, width, 3, stride=1 if index == 0 else 2, padding=1)
            stages += [convolution, GroupNorm(8, width), ReLU()]
            before = width
        self.stages = Sequential(*stages)
        self.head = Linear(before, classes)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, 64, 64) in [-1, 1] to features (B, 96)."""
        if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE):
            raise ValueError(f"the judge sees (B, 3, {SIDE}, {SIDE}) pictures, found {tuple(images.shape)}")
        hidden: Tensor = self.stages(images)
        return hidden.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits (B, 10)."""
        logits: Tensor = self.head(self.features(images))
        return logits


@torch.no_grad()
def features(judge: Judge, images: Tensor, *, batch: int = 250) -> Tensor:
    """Features (n, 96) float32 of any number of images, in batches; images are clipped to [-1, 1]."""
    parts = [judge.features(part) for part in _batches(images, batch)]
    return torch.cat(parts) if parts else torch.empty(0, judge.head.in_features)


@torch.no_grad()
def predict(judge: Judge, images: Tensor, *, batch: int = 250) -> Tensor:
    """Most likely class of every image, (n,) int64."""
    parts = [judge(part).argmax(dim=1) for part in _batches(images, batch)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def accuracy(judge: Judge, images: Tensor, labels: Tensor) -> float:
    """Share of the images in [0, 1] that the judge takes for their label (n,)."""
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"accuracy needs one label per image, found {len(images)} images, {len(labels)} labels")
    return float((predict(judge, images) == labels.cpu()).double().mean())


def noisy(images: Tensor, generator: torch.Generator, strength: float = 0.25) -> Tensor:
    """Gaussian noise whose deviation is drawn per picture: none for about half, else even in [0, strength)."""
    # by chance, not by place: places follow the labels, and noise must not tell the class
    deviation = strength * (2 * torch.rand(len(images), generator=generator) - 1).clamp_min(0)
    noise = torch.randn(images.shape, generator=generator)
    return (images + deviation.view(-1, 1, 1, 1) * noise).clamp(-1, 1)


def loss(judge: Judge, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with a little label smoothing, which keeps the features from growing without end."""
    return F.cross_entropy(judge(images), labels, label_smoothing=0.05)


def _batches(images: Tensor, batch: int) -> Iterator[Tensor]:
    for first in range(0, len(images), batch):
        yield images[first : first + batch].detach().float().cpu().clamp(-1, 1)
