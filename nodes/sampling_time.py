"""Diffusion time of a ComfyUI sampling: 1 is pure noise, 0 the image."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def diffusion_time(model_sampling: Any, sigma: Tensor) -> float:
    """The time of ``sigma`` (any shape, one value), from the timestep that the model itself is given.

    Noise-predicting models: t / 999. Flow models: the shifted sigma. Never from a step index, which samplers
    with two evaluations per step, img2img and split sampling make meaningless. Costs one device synchronisation.
    """
    last = model_sampling.timestep(model_sampling.sigma_max)
    return model_timestep(model_sampling, sigma) / float(last)


def model_timestep(model_sampling: Any, sigma: Tensor) -> float:
    """The timestep the model is given at ``sigma``: 0 .. 999 for noise prediction, 1000 * time for flow."""
    return float(model_sampling.timestep(sigma.flatten()[:1]).float())
