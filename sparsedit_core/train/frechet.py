"""Frechet distance of two sets of features, each seen as a Gaussian (the formula behind FID), in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(feats_a: Tensor, feats_b: Tensor) -> float:
    """|mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)) of the unbiased covariances A, B.

    feats_a (n, d), feats_b (m, d) with n, m >= 2; zero for equal sets, units of squared features.
    """
    _check(feats_a, feats_b)
    mean_a, cov_a = moments(feats_a)
    mean_b, cov_b = moments(feats_b)
    return gaussian_distance(mean_a, cov_a, mean_b, cov_b)


def moments(feats: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and unbiased covariance (d, d) of features (n, d), float64."""
    feats = feats.double()
    mean = feats.mean(dim=0)
    centred = feats - mean
    return mean, centred.T @ centred / (len(feats) - 1)


def gaussian_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Frechet (Wasserstein-2) distance of two Gaussians, float64, never negative."""
    shift = (mean_a - mean_b).double().square().sum()
    spread = cov_a.double().trace() + cov_b.double().trace() - 2 * trace_sqrt_product(cov_a, cov_b)
    return float((shift + spread).clamp_min(0))


def trace_sqrt_product(cov_a: Tensor, cov_b: Tensor) -> Tensor:
    """tr((A B)^(1/2)) of two symmetric positive semi-definite matrices, singular ones included.

    A B has the eigenvalues of the symmetric A^(1/2) B A^(1/2), so symmetric decompositions suffice.
    """
    values, vectors = torch.linalg.eigh(cov_a.double())
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    product = root @ cov_b.double() @ root
    squares: Tensor = torch.linalg.eigvalsh((product + product.T) / 2)
    return squares.clamp_min(0).sqrt().sum()


def _check(feats_a: Tensor, feats_b: Tensor) -> None:
    for name, feats in (("first", feats_a), ("second", feats_b)):
        if feats.ndim != 2 or len(feats) < 2:
            raise ValueError(f"the {name} features have shape {tuple(feats.shape)}, expected (n >= 2, d)")
        if not torch.isfinite(feats).all():
            raise ValueError(f"the {name} features hold NaN or infinite values; were the samples finite?")
    if feats_a.shape[1] != feats_b.shape[1]:
        raise ValueError(f"features of {feats_a.shape[1]} and {feats_b.shape[1]} numbers cannot be compared")
