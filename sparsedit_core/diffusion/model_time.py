"""From the number a model is given to diffusion time: 1 = pure noise, 0 = image."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .betas import BASE_STEPS
from .flow import MODEL_TIME_SCALE

Prediction = Literal["eps", "flow"]


def diffusion_time(t: Tensor | float, prediction: Prediction = "eps") -> float:
    """Diffusion time of the model's timestep `t`, a number or a batch (B,) of equal ones.

    t / 999 for noise-predicting models, t / 1000 for rectified flow. A pruning schedule asks for it: a model
    function turns its `t` into a grid by `schedule.grid(diffusion_time(t), dense_grid)`. Raises ValueError where
    a batch holds several times, because a batch runs on one grid, and for a time outside the process.
    """
    if prediction not in ("eps", "flow"):
        raise ValueError(f"prediction is {prediction!r}; expected 'eps' or 'flow'")
    last = float(BASE_STEPS - 1) if prediction == "eps" else MODEL_TIME_SCALE
    value = _single(t) if isinstance(t, Tensor) else float(t)
    # The tolerance is for times that went through float32 or bfloat16 arithmetic near the end.
    if not 0.0 <= value <= last * (1.0 + 1e-2):
        raise ValueError(f"timestep {value:g} is outside 0 .. {last:g} of a model with {prediction!r} prediction")
    return min(value / last, 1.0)


def _single(t: Tensor) -> float:
    """The value all entries of `t` share."""
    low, high = float(t.min()), float(t.max())
    if low != high:
        raise ValueError(
            f"the batch holds timesteps from {low:g} to {high:g}, but one batch runs on one token grid; "
            "split it by timestep"
        )
    return low
