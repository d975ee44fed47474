"""Classifier-free guidance: push the prediction away from what the model says without a class.

The original DiT and SparseDiT guide only the first three channels (CHECKPOINTS 5.15); Latte and diffusers
guide all of them. The learned variance is never guided.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .gaussian import ModelFn

OFFICIAL_CHANNELS = 3
"""Channels the original DiT and SparseDiT guide."""

LabelledModel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`model(x, t, y)`: a model that also takes labels y (B,)."""


def combine_guidance(cond: Tensor, uncond: Tensor, scale: float, channels: int) -> Tensor:
    """uncond + scale * (cond - uncond) on the first `channels`; the others are those of `cond` (B, O, ...)."""
    if not 1 <= channels <= cond.shape[1]:
        raise ValueError(f"cannot guide {channels} channels of an output with {cond.shape[1]}")
    lead, base = cond[:, :channels], uncond[:, :channels]
    guided = base + scale * (lead - base)
    return torch.cat([guided, cond[:, channels:]], dim=1)


def with_labels(model: LabelledModel, y: Tensor) -> ModelFn:
    """`model` with its labels `y` (B,) fixed, as samplers and losses want it."""
    return lambda x, t: model(x, t, y)


def with_guidance(
    model: LabelledModel,
    y: Tensor,
    null_label: int | Tensor,
    scale: float,
    *,
    channels: int | None = OFFICIAL_CHANNELS,
) -> ModelFn:
    """`model` guided towards the labels `y` (B,), evaluated once on the doubled batch [cond, uncond].

    `null_label` is the class for "none" (num_classes in DiT), or one per picture. `channels` is how many
    channels of the sample are guided: 3 as the official code does, None for all. At scale 1 guidance changes
    nothing and only the conditional half is run.
    """
    if scale == 1.0:
        return with_labels(model, y)
    null = torch.as_tensor(null_label, dtype=y.dtype, device=y.device).expand_as(y)
    labels = torch.cat([y, null])

    def guided(x: Tensor, t: Tensor) -> Tensor:
        if x.shape[0] != y.shape[0]:
            raise ValueError(f"found {y.shape[0]} labels for a batch of {x.shape[0]}; give one per picture")
        output = model(torch.cat([x, x]), torch.cat([t, t]), labels)
        cond, uncond = output.chunk(2)
        count = x.shape[1] if channels is None else channels
        # Never reaches the variance: a sample with fewer channels is guided in all of them.
        return combine_guidance(cond, uncond, scale, min(count, x.shape[1]))

    return guided
