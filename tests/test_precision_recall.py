"""Precision, recall and merged moments against brute force, closed cases and the whole computed at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsedit_core.train.frechet import Moments, gaussian_distance
from sparsedit_core.train.precision_recall import precision_recall, squared_radii


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(real: list[list[int]], generated: list[list[int]], k: int) -> tuple[float, float]:
    """The definition, word by word, in whole numbers: no rounding anywhere."""

    def distance(a: list[int], b: list[int]) -> int:
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    def share(members: list[list[int]], queries: list[list[int]]) -> float:
        radii = [
            sorted(distance(one, other) for j, other in enumerate(members) if j != i)[k - 1]
            for i, one in enumerate(members)
        ]
        inside = [any(distance(q, m) <= r for m, r in zip(members, radii, strict=True)) for q in queries]
        return sum(inside) / len(inside)

    return share(real, generated), share(generated, real)


# few values and many points: ties and duplicates are the rule
POINTS = st.lists(st.tuples(*[st.integers(-4, 4)] * 3).map(list), min_size=5, max_size=14)


@settings(max_examples=150, deadline=None)
@given(POINTS, POINTS, st.integers(1, 4), st.integers(1, 20))
def test_it_is_the_definition(real: list[list[int]], generated: list[list[int]], k: int, chunk: int) -> None:
    found = precision_recall(torch.tensor(real), torch.tensor(generated), k=k, chunk=chunk)
    assert (found.precision, found.recall) == naive(real, generated, k)


def test_a_set_covers_itself_and_not_what_is_far() -> None:
    real = normal(60, 7)
    same = precision_recall(real, real.flip(0))
    assert (same.precision, same.recall) == (1.0, 1.0)
    far = precision_recall(real, real + 1000)
    assert (far.precision, far.recall) == (0.0, 0.0)


def test_one_mode_of_two_is_precise_and_half_recalled() -> None:
    left, right = normal(50, 4), normal(50, 4, seed=1) + 100
    found = precision_recall(torch.cat([left, right]), torch.cat([left, left]))
    assert (found.precision, found.recall) == (1.0, 0.5)
    other = precision_recall(torch.cat([left, left]), torch.cat([left, right]))
    assert (other.precision, other.recall) == (0.5, 1.0)


def test_duplicates_far_from_the_origin_have_radius_zero() -> None:
    point = 1e4 + normal(1, 96)
    feats = torch.cat([point.expand(5, -1), normal(30, 96)])
    radii = squared_radii(feats, 3, chunk=4)
    assert radii[:5].tolist() == [0.0] * 5
    expected = torch.cdist(feats, feats, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(4, dim=1).values
    torch.testing.assert_close(radii.sqrt()[5:], expected[5:], rtol=1e-6, atol=0)


def test_bad_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="3 real pictures have no neighbour number 3"):
        precision_recall(normal(3, 2), normal(9, 2))
    with pytest.raises(ValueError, match="4 generated pictures have no neighbour number 4"):
        precision_recall(normal(9, 2), normal(4, 2), k=4)
    with pytest.raises(ValueError, match="of 2 and 3 numbers"):
        precision_recall(normal(9, 2), normal(9, 3))
    with pytest.raises(ValueError, match="generated features must be finite"):
        precision_recall(normal(9, 2), normal(9, 2) / 0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_moments_merge_to_those_of_all(sizes: list[int], seed: int) -> None:
    feats = 1e6 + normal(sum(sizes) + 3, 5, seed=seed)  # a mean that raw sums of squares would drown in
    one, rest = Moments(), Moments()
    start = 0
    for number, size in enumerate([*sizes, 3]):
        (one if number % 2 else rest).add(feats[start : start + size].float().double())
        start += size
    one.merge(rest)
    mean, covariance = one.statistics()
    expected = feats.float().double()
    torch.testing.assert_close(mean, expected.mean(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(covariance, torch.cov(expected.T), rtol=1e-8, atol=1e-8)


def test_merged_distance_is_the_distance_of_all_features() -> None:
    a, b = normal(70, 6), 2 * normal(50, 6, seed=1) + 1
    left, right = Moments(), Moments()
    for part in a.split(9):
        left.add(part)
    for part in b.split(20):
        right.add(part)
    assert left.distance(right) == pytest.approx(
        gaussian_distance(a.mean(dim=0), torch.cov(a.T), b.mean(dim=0), torch.cov(b.T)), rel=1e-10
    )
    with pytest.raises(ValueError, match="at least 2 pictures on each side, found 0"):
        left.distance(Moments())
    with pytest.raises(ValueError, match="of 6 and 2 numbers"):
        left.add(normal(3, 2))
    with pytest.raises(ValueError, match="finite"):
        left.add(normal(3, 6) / 0)
