"""Precision and recall of generated pictures (Kynkaanniemi et al. 2019, "Improved precision and recall metric").

A set of features stands for the union of balls around its members, each reaching to the member's k-th nearest
neighbour. Precision is the share of the generated features inside the real union (are the pictures real ones?), recall
the share of the real features inside the generated union (are all kinds of picture drawn?). Brute force in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 3
"""k of the paper."""

_SAME = 1e-13  # squared distance over squared lengths below which two float64 points are one


@dataclass(frozen=True)
class PrecisionRecall:
    """Both shares in [0, 1]."""

    precision: float
    recall: float


def precision_recall(
    real: Tensor,
    generated: Tensor,
    *,
    k: int = NEIGHBOURS,
    chunk: int = 1000,
    real_radii: Tensor | None = None,
) -> PrecisionRecall:
    """Precision and recall of ``generated`` features (m, d) against ``real`` ones (n, d); n and m above k.

    ``chunk`` rows of distances are held at a time; ``real_radii`` is ``squared_radii(real, k)`` where it is known
    already. The sizes matter: compare numbers of equal n and m only.
    ``ValueError`` for sets too small for k, of different d, or with NaN.
    """
    for name, feats in (("real", real), ("generated", generated)):
        if feats.ndim != 2 or not torch.isfinite(feats).all():
            raise ValueError(f"the {name} features must be finite and of shape (n, d), found {tuple(feats.shape)}")
        if not 1 <= k < len(feats):
            raise ValueError(
                f"{len(feats)} {name} pictures have no neighbour number {k}; precision and recall need more than k"
            )
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"features of {real.shape[1]} and {generated.shape[1]} numbers cannot be compared")
    if real_radii is None:
        real_radii = squared_radii(real, k, chunk)
    return PrecisionRecall(
        precision=_share_inside(real, real_radii, generated, chunk),
        recall=_share_inside(generated, squared_radii(generated, k, chunk), real, chunk),
    )


def squared_radii(feats: Tensor, k: int, chunk: int = 1000) -> Tensor:
    """Squared distance (n,) of every feature (n, d) to its k-th nearest neighbour among the others."""
    parts = []
    for start, distances in _distances(feats, feats, chunk):
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = 0.0  # exactly: the feature itself is the first of its k + 1 nearest
        parts.append(distances.kthvalue(k + 1, dim=1).values)
    return torch.cat(parts)


def _share_inside(members: Tensor, radii: Tensor, queries: Tensor, chunk: int) -> float:
    """Share of the queries that lie in a ball of the members, whose squared radii are given."""
    inside = sum(int((distances <= radii).any(dim=1).sum()) for _, distances in _distances(queries, members, chunk))
    return inside / len(queries)


def _distances(rows: Tensor, columns: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """Squared distances (<= chunk, m) of slices of the rows to all columns, with the number of the first row."""
    # a member as the origin: distances stay and a common offset no longer drowns them; differences are exact, where
    # subtracting a mean would round
    origin = columns[0].double()
    columns = columns.double() - origin
    lengths = columns.square().sum(dim=1)
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk].double() - origin
        sizes = part.square().sum(dim=1, keepdim=True) + lengths
        distances = torch.addmm(sizes, part, columns.T, alpha=-2)
        # a rounding error must not tell equal points apart: a radius among duplicates is zero
        yield start, distances.masked_fill_(distances <= _SAME * sizes, 0.0)
