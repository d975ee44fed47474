"""The two samplers of the original projects: ancestral DDPM and DDIM.

Both walk the steps of a `Diffusion` from the noisiest to the cleanest. The sample is kept in float32 (or
float64, if given) whatever the model computes in. To stop a run, raise from the callback.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .gaussian import Denoised, Diffusion, ModelFn, gather
from .noise import Generators, StepNoise, noise_at

SamplerCallback = Callable[[int, int, float, Tensor, Tensor], None]
"""`callback(step, total, t, x, x0)` after every step, step from 0: the t the model was given, the new sample,
the image predicted in this step. An exception raised in it ends the run and reaches the caller."""


def ddpm_step(denoised: Denoised, index: Tensor, noise: Tensor | None) -> Tensor:
    """Ancestral step from `index` (B,): the predicted mean plus noise of the predicted variance.

    Samples at index 0, the last step, get no noise; `noise` may be None if all are there.
    """
    if noise is None:
        return denoised.mean
    return denoised.mean + _unless_last(index, noise) * (0.5 * denoised.log_variance).exp()


def ddim_step(
    diffusion: Diffusion, denoised: Denoised, x: Tensor, index: Tensor, noise: Tensor | None, eta: float = 0.0
) -> Tensor:
    """DDIM step from the sample `x` at `index` (B,); `eta` 0 is deterministic, 1 as noisy as DDPM.

    `noise` may be None where eta is 0 or all samples are at the last step.
    """
    now, before = diffusion.alphas_cumprod, diffusion.alphas_cumprod_prev
    sigma = eta * ((1.0 - before) / (1.0 - now)).sqrt() * (1.0 - now / before).sqrt()
    toward = (1.0 - before - sigma**2).clamp(min=0.0).sqrt()
    eps = diffusion.predict_eps(x, index, denoised.x0)
    mean = gather(before.sqrt(), index, x) * denoised.x0 + gather(toward, index, x) * eps
    if noise is None:
        return mean
    return mean + gather(sigma, index, x) * _unless_last(index, noise)


def _unless_last(index: Tensor, noise: Tensor) -> Tensor:
    """`noise`, zero for the samples whose step is the last."""
    keep = (index != 0).reshape(-1, *([1] * (noise.ndim - 1)))
    return noise * keep.to(device=noise.device, dtype=noise.dtype)


def sample_ddpm(
    diffusion: Diffusion,
    model_fn: ModelFn,
    x: Tensor,
    *,
    noise: StepNoise = None,
    generator: Generators = None,
    clip: bool = False,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """Turn the noise `x` (B, C, ...) into an image by ancestral sampling, with the learned variance if any.

    `noise` gives the noise of every step but the last (counted from 0), else `generator` draws it. Step
    count and spacing are the diffusion's.
    """

    def step(denoised: Denoised, _: Tensor, index: Tensor, drawn: Tensor | None) -> Tensor:
        return ddpm_step(denoised, index, drawn)

    return _walk(diffusion, model_fn, x, step, True, noise, generator, clip, callback)


def sample_ddim(
    diffusion: Diffusion,
    model_fn: ModelFn,
    x: Tensor,
    *,
    eta: float = 0.0,
    noise: StepNoise = None,
    generator: Generators = None,
    clip: bool = False,
    callback: SamplerCallback | None = None,
) -> Tensor:
    """Turn the noise `x` (B, C, ...) into an image by DDIM; noise is used only where `eta` is above 0."""
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta is {eta}; expected 0 (deterministic) to 1 (as noisy as DDPM)")

    def step(denoised: Denoised, x: Tensor, index: Tensor, drawn: Tensor | None) -> Tensor:
        return ddim_step(diffusion, denoised, x, index, drawn, eta)

    return _walk(diffusion, model_fn, x, step, eta > 0.0, noise, generator, clip, callback)


_Step = Callable[[Denoised, Tensor, Tensor, Tensor | None], Tensor]


def _walk(
    diffusion: Diffusion,
    model_fn: ModelFn,
    x: Tensor,
    step: _Step,
    noisy: bool,
    given: StepNoise,
    generators: Generators,
    clip: bool,
    callback: SamplerCallback | None,
) -> Tensor:
    """Apply `step` from the noisiest index to 0; the one loop both samplers share."""
    total = len(diffusion)
    x = working_copy(x)
    with torch.no_grad():
        for number in range(total):
            index = torch.full((x.shape[0],), total - 1 - number, dtype=torch.int64, device=x.device)
            t = diffusion.timesteps(index)
            denoised = diffusion.denoise(model_fn(x, t), x, index, clip=clip)
            last = number == total - 1
            drawn = noise_at(number, x, given, generators) if noisy and not last else None
            x = step(denoised, x, index, drawn)
            if callback is not None:
                timestep = float(diffusion.timestep_map[total - 1 - number])
                callback(number, total, timestep, x, denoised.x0)
    return x


def working_copy(x: Tensor) -> Tensor:
    """`x` in at least float32, the precision samples are kept in."""
    if not x.is_floating_point():
        raise ValueError(f"samples start from floating-point noise, found {x.dtype}")
    return x.to(torch.promote_types(x.dtype, torch.float32))
