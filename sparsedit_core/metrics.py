"""How alike two pictures are: PSNR and SSIM, one value per picture of the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
"""Gaussian window of SSIM (Wang, Bovik, Sheikh, Simoncelli 2004)."""


def psnr(a: Tensor, b: Tensor, *, data_range: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,) float64; infinite where the pictures are equal.

    a, b: (B, C, H, W) of one shape; data_range is white minus black (2 for pictures in [-1, 1]).
    """
    a, b = _pair(a, b)
    error = (a - b).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(data_range**2 / error)


def ssim(a: Tensor, b: Tensor, *, data_range: float = 2.0) -> Tensor:
    """Structural similarity in [-1, 1], (B,) float64; 1 where the pictures are equal.

    a, b: (B, C, H, W) with sides >= 11. Gaussian window 11, sigma 1.5, K1 = 0.01, K2 = 0.03, population
    variance, no padding: the mean over all windows that lie inside the picture and over the channels.
    """
    a, b = _pair(a, b)
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW}x{WINDOW}, found {tuple(a.shape[-2:])}")
    luminance, contrast = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a * mean_a
    var_b = _blur(b * b) - mean_b * mean_b
    covariance = _blur(a * b) - mean_a * mean_b
    above = (2 * mean_a * mean_b + luminance) * (2 * covariance + contrast)
    below = (mean_a.square() + mean_b.square() + luminance) * (var_a + var_b + contrast)
    return (above / below).mean(dim=(1, 2, 3))


def gaussian_window() -> Tensor:
    """The 11 weights of one axis, float64, sum 1."""
    distance = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weight = torch.exp(-distance.square() / (2 * SIGMA**2))
    return weight / weight.sum()


def _blur(x: Tensor) -> Tensor:
    window = gaussian_window().to(x.device)
    flat = x.flatten(0, 1)[:, None]
    flat = F.conv2d(F.conv2d(flat, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return flat.view(*x.shape[:2], *flat.shape[-2:])


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            f"two batches of one shape (B, C, H, W) are compared, found {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return a.double(), b.double()
