"""Tiny PixArt models with random weights, for property tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsedit_core.config import PixArtConfig
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.pixart import PixArt


class Inputs(NamedTuple):
    """Noise, timesteps, captions (B, L, C), which of their tokens count, picture sizes and aspect ratios."""

    x: Tensor
    t: Tensor
    y: Tensor
    mask: Tensor
    size: Tensor
    aspect: Tensor


def config(layout: SegmentLayout | str | None = None, **changes: Any) -> PixArtConfig:
    """Width 24, two heads, 4 x 4 tokens, captions of width 10; three blocks, or as many as the layout has."""
    layout = SegmentLayout.parse(layout) if isinstance(layout, str) else layout
    plain = PixArtConfig(
        input_size=(8, 8), hidden_size=24, depth=layout.depth if layout else 3, num_heads=2, mlp_ratio=2.0,
        caption_channels=10, caption_tokens=5, layout=layout, sparse_side=2, position_scale=2.0,
    )  # fmt: skip
    return replace(plain, **changes)


def random_model(wanted: PixArtConfig, seed: int = 0, **keywords: Any) -> PixArt:
    """A model in eval mode whose weights are all random, tables and fusion layers included."""
    model = PixArt(wanted, **keywords)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def inputs(
    wanted: PixArtConfig, batch: int = 2, size: tuple[int, int] | None = None, tokens: int = 6, seed: int = 1
) -> Inputs:
    """Noise, timesteps over the whole range and captions whose masks differ from picture to picture."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, wanted.in_channels, *(size or wanted.input_size), generator=g)
    y = torch.randn(batch, tokens, wanted.caption_channels, generator=g)
    mask = torch.rand(batch, tokens, generator=g) < 0.6
    mask[torch.arange(batch), torch.arange(batch) % tokens] = True  # every caption keeps a token
    sizes = 256 + 8 * torch.randint(0, 99, (batch, 2), generator=g).float()
    return Inputs(x, torch.linspace(999, 0, batch), y, mask, sizes, sizes[:, :1] / sizes[:, 1:])
