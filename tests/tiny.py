"""Tiny models with random weights and hypothesis strategies for layouts, for property tests."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsedit_core.config import DiTConfig
from sparsedit_core.dit import DiT
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.tokens import sincos_table

COUNT = st.integers(0, 2)
MODULES = st.lists(st.tuples(st.integers(1, 2), COUNT, st.integers(1, 2), COUNT), max_size=2).map(tuple)
LAYOUTS = st.builds(SegmentLayout, COUNT, MODULES, st.integers(1, 2))
SPARSE_LAYOUTS = LAYOUTS.filter(lambda layout: bool(layout.modules))
GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6))


def config(layout: SegmentLayout | str | None = None, **changes: Any) -> DiTConfig:
    """Width 16, two heads, 4 x 4 tokens, 5 classes; three blocks, or as many as the layout has."""
    layout = SegmentLayout.parse(layout) if isinstance(layout, str) else layout
    plain = DiTConfig(
        input_size=(8, 8), hidden_size=16, depth=layout.depth if layout else 3, num_heads=2, mlp_ratio=2.0,
        num_classes=5, layout=layout, sparse_side=2,
    )  # fmt: skip
    return replace(plain, **changes)


def random_model(wanted: DiTConfig, seed: int = 0, **keywords: Any) -> DiT:
    """A model in eval mode whose weights are all random, gates and fusion layers included."""
    model = DiT(wanted, **keywords)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in itertools.chain(model.parameters(), model.buffers()):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        model.pos_embed.copy_(sincos_table(wanted.hidden_size, wanted.grid))
    return model.eval()


def inputs(
    wanted: DiTConfig, batch: int = 2, size: tuple[int, int] | None = None, seed: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, timesteps over the whole range and labels, the null class among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, wanted.in_channels, *(size or wanted.input_size), generator=generator)
    t = torch.linspace(999, 0, batch)
    return x, t, torch.arange(batch) % (wanted.num_classes + wanted.null_class)


class Ops:
    """torch's layers, counted."""

    def __init__(self) -> None:
        self.made = 0

    def __getattr__(self, name: str) -> Any:
        self.made += 1
        return getattr(nn, name)
