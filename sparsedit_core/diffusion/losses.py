"""Training losses, one value per picture: DiT's, SparseDiT's min-SNR variant, and rectified flow's."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .flow import flow_noise, flow_velocity
from .gaussian import Diffusion, ModelFn, gather, split_output

Weighting = Literal["none", "min_snr"]

MIN_SNR_GAMMA = 5.0
"""SparseDiT's limit on the signal-to-noise ratio (CHECKPOINTS section 3)."""


def training_losses(
    diffusion: Diffusion,
    model_fn: ModelFn,
    x0: Tensor,
    index: Tensor,
    noise: Tensor,
    *,
    weighting: Weighting = "none",
    gamma: float = MIN_SNR_GAMMA,
) -> dict[str, Tensor]:
    """Losses (B,) at the steps `index` (B,), equal to the timesteps unless the diffusion is respaced.

    "mse" is the error of the predicted noise, "vb" the variational bound in bits per dimension, which trains
    only a learned variance (left out where the model has none); "loss" is their sum. `weighting` "min_snr" is
    SparseDiT's own: mse times min(snr, gamma) / snr, vb as it is; "none" is DiT's.
    """
    if weighting not in ("none", "min_snr"):
        raise ValueError(f"loss weighting is {weighting!r}; expected 'none' or 'min_snr'")
    check_index(diffusion, index, x0.shape[0])
    x = diffusion.add_noise(x0, index, noise)
    output = model_fn(x, diffusion.timesteps(index))
    eps, values = split_output(output, x)
    mse = mean_flat((noise - eps) ** 2)
    if weighting == "min_snr":
        mse = mse * min_snr_weight(diffusion, index, mse, gamma)
    if values is None:
        return {"loss": mse, "mse": mse}
    # The bound must not pull on the mean prediction: that one is trained by the mean squared error.
    vb = variational_bound(diffusion, torch.cat([eps.detach(), values], dim=1), x0, x, index)
    return {"loss": mse + vb, "mse": mse, "vb": vb}


def flow_losses(model_fn: ModelFn, x0: Tensor, time: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """Rectified-flow losses (B,) at `time` (B,) in [0, 1]: the squared error of the velocity noise - x0."""
    if time.shape != (x0.shape[0],) or bool((time < 0).any() or (time > 1).any()):
        raise ValueError(
            f"flow training needs one time in [0, 1] for each of {x0.shape[0]} pictures, found shape "
            f"{tuple(time.shape)} in [{float(time.min()):g}, {float(time.max()):g}]"
        )
    velocity = flow_velocity(model_fn, flow_noise(x0, time, noise), time)
    mse = mean_flat((noise - x0 - velocity) ** 2)
    return {"loss": mse, "mse": mse}


def check_index(diffusion: Diffusion, index: Tensor, batch: int) -> None:
    """Raise ValueError unless `index` holds one step of the schedule for every picture."""
    if index.is_floating_point() or index.shape != (batch,):
        raise ValueError(f"expected {batch} integer steps, found {index.dtype} of shape {tuple(index.shape)}")
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= len(diffusion):
        raise ValueError(f"steps reach from {low} to {high}; this schedule has 0 to {len(diffusion) - 1}")


def min_snr_weight(diffusion: Diffusion, index: Tensor, like: Tensor, gamma: float = MIN_SNR_GAMMA) -> Tensor:
    """min(snr, gamma) / snr (B,): lowers the weight of nearly clean samples, whose snr is high."""
    snr = diffusion.alphas_cumprod / (1.0 - diffusion.alphas_cumprod)
    return gather(snr.clamp(max=gamma) / snr, index, like)


def variational_bound(diffusion: Diffusion, output: Tensor, x0: Tensor, x: Tensor, index: Tensor) -> Tensor:
    """One term of the variational bound per picture (B,), in bits per dimension.

    The divergence between the true step towards the image `x0` and the one read from `output`; at index 0 the
    negative log likelihood of the image's 8-bit values.
    """
    true_mean, true_log_variance = diffusion.posterior(x0, x, index)
    denoised = diffusion.denoise(output, x, index)
    divergence = normal_kl(true_mean, true_log_variance, denoised.mean, denoised.log_variance)
    likelihood = discretized_log_likelihood(x0, denoised.mean, 0.5 * denoised.log_variance)
    bits = torch.where(index.to(x.device) == 0, -mean_flat(likelihood), mean_flat(divergence))
    return bits / math.log(2.0)


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """Divergence, in nats per element, of the second normal distribution from the first."""
    log_ratio = log_variance2 - log_variance1
    distance = (mean1 - mean2) ** 2 * torch.exp(-log_variance2)
    return 0.5 * (log_ratio - 1.0 + torch.exp(-log_ratio) + distance)


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability, in nats per element, of 8-bit values rescaled to [-1, 1] under a normal distribution.

    A value owns the interval of half a level (1/255) to both sides; the outermost ones reach to infinity.
    """
    inverse = torch.exp(-log_scale)
    upper = normal_cdf((x - mean + 1.0 / 255.0) * inverse)
    lower = normal_cdf((x - mean - 1.0 / 255.0) * inverse)
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1.0 - lower, upper - lower))
    return probability.clamp(min=1e-12).log()


def normal_cdf(x: Tensor) -> Tensor:
    """The original project's tanh approximation of the standard normal distribution function."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def mean_flat(values: Tensor) -> Tensor:
    """Mean over everything but the batch: (B, ...) -> (B,)."""
    return values.flatten(1).mean(dim=1)
