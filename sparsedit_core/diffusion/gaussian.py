"""Gaussian diffusion of the DiT family: what the forward process adds and what one reverse step removes.

Epsilon prediction, linear betas; the variance is learned where the model returns twice the image's
channels (CHECKPOINTS section 3), else fixed. Everything is vectorised over a batch: `index` holds, for every
sample, a step of *this* (possibly respaced) schedule, while models get original timesteps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .betas import linear_betas, respaced_betas
from .respace import Respacing, respaced_timesteps

ModelFn = Callable[[Tensor, Tensor], Tensor]
"""`model_fn(x, t)`: x (B, C, ...), t (B,) as the model was trained with (original timesteps, or 1000 * time
for rectified flow); returns (B, C, ...), or (B, 2C, ...) with a learned variance."""

FixedVariance = Literal["large", "small"]


@dataclass(frozen=True)
class Denoised:
    """What a model's output says about one reverse step; all tensors shaped like the sample.

    `mean` and `log_variance` describe the distribution of the next sample, `x0` is the predicted image.
    """

    mean: Tensor
    log_variance: Tensor
    x0: Tensor


class Diffusion:
    """A schedule of noise levels, possibly on a subset of the training timesteps.

    `timesteps` is a respacing specification (see respace.py), e.g. "250", "ddim50" or None for all 1000;
    `fixed_variance` is used only for models without a learned variance: "large" (betas, as the original
    project does) or "small" (posterior variance).
    """

    def __init__(self, timesteps: Respacing = None, *, fixed_variance: FixedVariance = "large") -> None:
        if fixed_variance not in ("large", "small"):
            raise ValueError(f"fixed_variance is {fixed_variance!r}; expected 'large' or 'small'")
        kept = respaced_timesteps(timesteps)
        self.timestep_map = torch.tensor(kept, dtype=torch.int64)
        self.betas = respaced_betas(linear_betas(), kept)
        self.alphas_cumprod = torch.cumprod(1.0 - self.betas, dim=0)
        one = torch.ones(1, dtype=torch.float64)
        self.alphas_cumprod_prev = torch.cat([one, self.alphas_cumprod[:-1]])
        self._set_posterior()
        self._fixed_log_variance = self._fixed_variance_table(fixed_variance)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.betas)

    def _set_posterior(self) -> None:
        """Tables of q(x at the step before | x, x0): its mean is a x0 + b x, its variance is stored clipped."""
        before, now = self.alphas_cumprod_prev, self.alphas_cumprod
        self.posterior_variance = self.betas * (1.0 - before) / (1.0 - now)
        self.posterior_x0 = self.betas * before.sqrt() / (1.0 - now)
        self.posterior_x = (1.0 - before) * (1.0 - self.betas).sqrt() / (1.0 - now)
        clipped = self.posterior_variance.clone()
        # The variance of the last step is 0; its neighbour's stands in so that the logarithm exists.
        clipped[0] = clipped[1] if len(clipped) > 1 else self.betas[0]
        self.posterior_log_variance_clipped = clipped.log()

    def _fixed_variance_table(self, kind: FixedVariance) -> Tensor:
        """Log variance of a model that does not learn it."""
        if kind == "small":
            return self.posterior_log_variance_clipped
        large = self.betas.clone()
        large[0] = self.posterior_log_variance_clipped[0].exp()
        return large.log()

    def timesteps(self, index: Tensor) -> Tensor:
        """Original timesteps (B,), int64, of the steps `index` (B,): what the model is given."""
        return self.timestep_map.to(index.device)[index]

    def add_noise(self, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Sample of the forward process at `index`: x0 and `noise` (B, C, ...) mixed by signal level."""
        signal = gather(self.alphas_cumprod.sqrt(), index, x0)
        return signal * x0 + gather((1.0 - self.alphas_cumprod).sqrt(), index, x0) * noise

    def predict_x0(self, x: Tensor, index: Tensor, eps: Tensor) -> Tensor:
        """Image (B, C, ...) that explains `x` if its noise is `eps`."""
        scale = gather((1.0 / self.alphas_cumprod).sqrt(), index, x)
        return scale * x - gather((1.0 / self.alphas_cumprod - 1.0).sqrt(), index, x) * eps

    def predict_eps(self, x: Tensor, index: Tensor, x0: Tensor) -> Tensor:
        """Noise (B, C, ...) that explains `x` if its image is `x0`; the inverse of predict_x0."""
        scale = gather((1.0 / self.alphas_cumprod).sqrt(), index, x)
        return (scale * x - x0) / gather((1.0 / self.alphas_cumprod - 1.0).sqrt(), index, x)

    def posterior(self, x0: Tensor, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and clipped log variance of the step before `index`, given the image and the sample there."""
        mean = gather(self.posterior_x0, index, x) * x0 + gather(self.posterior_x, index, x) * x
        return mean, gather(self.posterior_log_variance_clipped, index, x).expand_as(x)

    def denoise(self, output: Tensor, x: Tensor, index: Tensor, *, clip: bool = False) -> Denoised:
        """Read a model's `output` (B, C or 2C, ...) at the sample `x` (B, C, ...).

        `clip` limits the predicted image to [-1, 1]; latents are not limited, so it is off by default.
        """
        eps, values = split_output(output, x)
        x0 = self.predict_x0(x, index, eps)
        if clip:
            x0 = x0.clamp(-1.0, 1.0)
        mean, _ = self.posterior(x0, x, index)
        return Denoised(mean, self._log_variance(values, x, index), x0)

    def _log_variance(self, values: Tensor | None, x: Tensor, index: Tensor) -> Tensor:
        """Interpolate between the two bounds of the variance by the model's `values` (-1 lowest, 1 highest)."""
        if values is None:
            return gather(self._fixed_log_variance, index, x).expand_as(x)
        low = gather(self.posterior_log_variance_clipped, index, x)
        high = gather(self.betas.log(), index, x)
        share = (values + 1.0) / 2.0
        return share * high + (1.0 - share) * low


def gather(table: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """`table[index]` in the dtype and on the device of `like`, shaped (B, 1, 1, ...) to scale it."""
    values = table.to(like.dtype).to(like.device)[index.to(like.device)]
    return values.reshape(-1, *([1] * (like.ndim - 1)))


def split_output(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split a model's output into the noise (B, C, ...) and, where learned, the variance values.

    Both come in the dtype of `x`. Raises ValueError where the channels are neither C nor 2C.
    """
    channels = x.shape[1]
    output = output.to(x.dtype)
    if output.shape == x.shape:
        return output, None
    if output.shape == (x.shape[0], 2 * channels, *x.shape[2:]):
        return output[:, :channels], output[:, channels:]
    raise ValueError(
        f"the model returned shape {tuple(output.shape)} for a sample of shape {tuple(x.shape)}; expected the "
        f"same shape with {channels} channels, or {2 * channels} with a learned variance"
    )
