"""Rectified flow: a straight path from the image (time 0) to noise (time 1).

x_t = (1 - t) x0 + t eps; the model predicts the velocity v = eps - x0 and is given 1000 * t.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from .gaussian import ModelFn
from .sampling import SamplerCallback, working_copy

MODEL_TIME_SCALE = 1000.0
"""The model's time argument over the flow's time, so that flow models use the embedder's whole range."""

FlowMethod = Literal["euler", "heun"]


def flow_noise(x0: Tensor, time: Tensor, noise: Tensor) -> Tensor:
    """Point of the path at `time` (B,) in [0, 1] between the images `x0` and `noise` (B, C, ...)."""
    time = time.to(x0.dtype).reshape(-1, *([1] * (x0.ndim - 1)))
    return (1.0 - time) * x0 + time * noise


def flow_times(steps: int, shift: float = 1.0) -> list[float]:
    """The steps + 1 times from 1 to 0 a sampler visits; `shift` above 1 spends more of them near the noise."""
    if steps < 1:
        raise ValueError(f"flow sampling needs at least 1 step, found {steps}")
    if shift <= 0.0:
        raise ValueError(f"the time shift is {shift}; expected a positive number, 1 for no shift")
    even = [1.0 - step / steps for step in range(steps + 1)]
    return [shift * time / (1.0 + (shift - 1.0) * time) for time in even]


def sample_flow(
    model_fn: ModelFn,
    x: Tensor,
    steps: int,
    *,
    method: FlowMethod = "euler",
    shift: float = 1.0,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """Turn the noise `x` (B, C, ...) into an image by following the model's velocity; draws no noise.

    "heun" corrects every step but the last with the velocity at its end: 2 * steps - 1 evaluations.
    """
    if method not in ("euler", "heun"):
        raise ValueError(f"flow method is {method!r}; expected 'euler' or 'heun'")
    times = flow_times(steps, shift)
    x = working_copy(x)
    with torch.no_grad():
        for number, (time, following) in enumerate(pairwise(times)):
            velocity = flow_velocity(model_fn, x, time)
            x0 = x - time * velocity
            moved = x + (following - time) * velocity
            if method == "heun" and number < steps - 1:
                corrected = flow_velocity(model_fn, moved, following)
                moved = x + (following - time) * 0.5 * (velocity + corrected)
            x = moved
            if callback is not None:
                callback(number, steps, MODEL_TIME_SCALE * time, x, x0)
    return x


def flow_velocity(model_fn: ModelFn, x: Tensor, time: float | Tensor) -> Tensor:
    """The model's velocity at `time`, one number or (B,); raises ValueError unless shaped like `x`."""
    t = torch.as_tensor(time, dtype=torch.float32, device=x.device).expand(x.shape[0]) * MODEL_TIME_SCALE
    velocity = model_fn(x, t)
    if velocity.shape != x.shape:
        raise ValueError(
            f"a rectified-flow model returned shape {tuple(velocity.shape)} for a sample of shape "
            f"{tuple(x.shape)}; expected the same shape (a flow model has learn_sigma = False)"
        )
    return velocity.to(x.dtype)
