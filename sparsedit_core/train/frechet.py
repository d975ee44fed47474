"""Frechet distance of two sets of features, each seen as a Gaussian (the formula behind FID), in float64."""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of features that come in batches: float64, merged without keeping the features.

    Chan, Golub and LeVeque (1979): two sets' sums of squares about their means differ from that about the common mean
    by the outer product of the shift, so that nothing is lost to cancellation as it is in sums of raw squares.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, feats: Tensor) -> None:
        """Take in features (n, d); ``ValueError`` for another d than before and for NaN."""
        other = Moments()
        if feats.ndim != 2 or not torch.isfinite(feats).all():
            raise ValueError(
                f"features must be finite and of shape (n, d), found shape {tuple(feats.shape)}"
                f"{' with NaN or infinite values: are the pictures finite?' if feats.ndim == 2 else ''}"
            )
        if len(feats):
            feats = feats.double()
            other.count, other._mean = len(feats), feats.mean(dim=0)
            centred = feats - other._mean
            other._scatter = centred.T @ centred
        self.merge(other)

    def merge(self, other: Moments) -> None:
        """Take in everything that ``other`` has seen."""
        if not other.count:
            return
        if not self.count:
            self.count, self._mean, self._scatter = other.count, other._mean, other._scatter.clone()
            return
        if len(self._mean) != len(other._mean):
            raise ValueError(f"features of {len(self._mean)} and {len(other._mean)} numbers cannot be compared")
        total = self.count + other.count
        shift = other._mean - self._mean
        self._scatter += other._scatter + torch.outer(shift, shift) * (self.count * other.count / total)
        self._mean = self._mean + shift * (other.count / total)
        self.count = total

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean (d,) and unbiased covariance (d, d); ``ValueError`` for fewer than two features."""
        if self.count < 2:
            raise ValueError(f"a Frechet distance needs at least 2 pictures on each side, found {self.count}")
        return self._mean, self._scatter / (self.count - 1)

    def distance(self, other: Moments) -> float:
        """|mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)) of the unbiased covariances A, B.

        Zero for equal sets, in units of squared features. ``ValueError`` for fewer than two features on a side, and
        for features of different d.
        """
        if self.count and other.count and len(self._mean) != len(other._mean):
            raise ValueError(f"features of {len(self._mean)} and {len(other._mean)} numbers cannot be compared")
        return gaussian_distance(*self.statistics(), *other.statistics())


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
