"""Tiny models and tables that the tests of learning a plan share."""

from __future__ import annotations

import tiny
import tiny_pixart
import torch
from hypothesis import strategies as st
from torch import Tensor

from sparsedit_core.cache.plan import FULL, LEVELS, NONE
from sparsedit_core.checkpoint import Latent, Loaded
from sparsedit_core.conditions import Captions

PIXELS = Latent(3, 1.0, 1, "pixel")
Table = list[list[int]]


def flow_model() -> Loaded:
    """A DiT of small RGB pictures whose gates are open, 16 tokens, 3 blocks."""
    model = tiny.random_model(tiny.config(in_channels=3, learn_sigma=False))
    return Loaded(model=model, config=model.config, prediction="flow", latent=PIXELS)


def eps_model() -> Loaded:
    """A PixArt of latents with a learned variance."""
    model = tiny_pixart.random_model(tiny_pixart.config())
    return Loaded(model=model, config=model.config, prediction="eps", latent=Latent())


FLOW, EPS = flow_model(), eps_model()
LABELS = torch.tensor([0, 3])
CAPTIONS = Captions(tiny_pixart.inputs(tiny_pixart.config()).y, tiny_pixart.inputs(tiny_pixart.config()).mask)


def hard(table: Table) -> list[Tensor]:
    """y of a choice, without any gradient."""
    return [torch.nn.functional.one_hot(torch.tensor(row), len(LEVELS)).float() for row in table]


@st.composite
def tables(draw: st.DrawFn, sublayers: int) -> Table:
    rows = st.lists(st.integers(NONE, FULL), min_size=sublayers, max_size=sublayers)
    return [[FULL] * sublayers, *draw(st.lists(rows, min_size=1, max_size=5))]
