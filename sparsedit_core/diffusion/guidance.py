"""Classifier-free guidance: push the prediction away from what the model says without a class.

The original DiT and SparseDiT guide only the first three channels (CHECKPOINTS 5.15); Latte and diffusers
guide all of them. The learned variance is never guided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..conditions import Captions, Conditions, joined
from .gaussian import ModelFn

OFFICIAL_CHANNELS = 3
"""Channels the original DiT and SparseDiT guide."""

ConditionedModel = Callable[[Tensor, Tensor, Any], Tensor]
"""`model(x, t, y)`: a model that also takes what it is conditioned on, labels y (B,) or captions."""


def combine_guidance(cond: Tensor, uncond: Tensor, scale: float, channels: int) -> Tensor:
    """uncond + scale * (cond - uncond) on the first `channels`; the others are those of `cond` (B, O, ...)."""
    if not 1 <= channels <= cond.shape[1]:
        raise ValueError(f"cannot guide {channels} channels of an output with {cond.shape[1]}")
    lead, base = cond[:, :channels], uncond[:, :channels]
    guided = base + scale * (lead - base)
    return torch.cat([guided, cond[:, channels:]], dim=1)


def with_conditions(model: ConditionedModel, y: Conditions) -> ModelFn:
    """`model` with its conditions `y` fixed, as samplers and losses want it."""
    return lambda x, t: model(x, t, y)


with_labels = with_conditions
"""The older name, of models that take labels."""


def with_guidance(
    model: ConditionedModel,
    y: Conditions,
    null: int | Conditions,
    scale: float,
    *,
    channels: int | None = OFFICIAL_CHANNELS,
) -> ModelFn:
    """`model` guided towards the conditions `y`, evaluated once on the doubled batch [cond, uncond].

    `null` is what it is guided away from, one per picture: the class for "none" (num_classes in DiT), which may also be
    given as a number; the null caption, or negative captions. `channels` is how many channels of the sample are
    guided: 3 as the official code does, None for all. At scale 1 guidance changes nothing and only the conditional
    half is run.
    """
    if scale == 1.0:
        return with_conditions(model, y)
    both = _both(y, null)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        if x.shape[0] != len(y):
            what = "labels" if isinstance(y, Tensor) else "captions"
            raise ValueError(f"found {len(y)} {what} for a batch of {x.shape[0]}; give one per picture")
        output = model(torch.cat([x, x]), torch.cat([t, t]), both)
        cond, uncond = output.chunk(2)
        count = x.shape[1] if channels is None else channels
        # Never reaches the variance: a sample with fewer channels is guided in all of them.
        return combine_guidance(cond, uncond, scale, min(count, x.shape[1]))

    return guided


def _both(y: Conditions, null: int | Conditions) -> Conditions:
    if isinstance(y, Tensor):
        if isinstance(null, Captions):
            raise ValueError("a model of classes is guided away from a class, but captions were given; give a label")
        return torch.cat([y, torch.as_tensor(null, dtype=y.dtype, device=y.device).expand_as(y)])
    if not isinstance(null, Captions) or len(null) != len(y):
        raise ValueError(f"{len(y)} captions are guided away from as many others; give one per picture")
    return joined([y, null])
