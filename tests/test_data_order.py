"""The order of samples: every one once an epoch, the same however it is asked for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedit_core.train.data.order import EpochOrder, sample_draw


@given(count=st.integers(1, 60), seed=st.integers(0, 2**64), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_sample_once_an_epoch(count: int, seed: int, epoch: int) -> None:
    found = EpochOrder(count, seed).indices(epoch * count, count)
    assert sorted(found.tolist()) == list(range(count))


@given(
    count=st.integers(1, 20),
    seed=st.integers(0, 9),
    cuts=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    start=st.integers(0, 50),
)
@settings(max_examples=60, deadline=None)
def test_batches_of_any_size_are_parts_of_one_stream(count: int, seed: int, cuts: list[int], start: int) -> None:
    whole = EpochOrder(count, seed).indices(start, sum(cuts))
    order, parts, first = EpochOrder(count, seed), [], start
    for size in cuts:
        parts.append(order.indices(first, size))
        first += size
    assert np.array_equal(np.concatenate(parts), whole)
    alone = [int(EpochOrder(count, seed).indices(start + place, 1)[0]) for place in range(len(whole))]
    assert alone == whole.tolist()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [tuple(EpochOrder(12, seed).indices(12 * epoch, 12)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16


def test_permutations_are_even() -> None:
    orders = [EpochOrder(4, seed).indices(0, 4).tolist() for seed in range(3000)]
    places = Counter((index, place) for order in orders for place, index in enumerate(order))
    expected = 3000 / 4
    chi = sum((places[i, place] - expected) ** 2 / expected for i in range(4) for place in range(4))
    assert chi < 33.7  # 9 degrees of freedom: an even shuffle stays below in 9999 of 10000 cases


def test_the_order_is_that_of_philox_everywhere() -> None:
    """Random123's known answer for Philox4x64-10 with counter and key zero anchors the generator."""
    generator = np.random.Philox(key=np.zeros(2, np.uint64), counter=np.zeros(4, np.uint64) - np.uint64(1))
    assert [hex(int(value)) for value in generator.random_raw(4)] == [
        "0x16554d9eca36314c",
        "0xdb20fe9d672d0fdc",
        "0xd7e772cee186176b",
        "0x7e68b68aec7ba23b",
    ]


def test_draws_belong_to_the_sample() -> None:
    coins = [sample_draw(5, number)[0] for number in range(2000)]
    assert 900 < sum(coins) < 1100
    noise = [torch.randn(3, generator=sample_draw(5, number)[1]) for number in (0, 1, 0)]
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], torch.randn(3, generator=sample_draw(6, 0)[1]))


def test_numbers_begin_at_zero() -> None:
    with pytest.raises(ValueError, match="numbers begin at 0"):
        EpochOrder(4, 0).indices(-1, 2)
