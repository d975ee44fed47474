"""Statistics of attention maps: closed forms, an account by hand, and that watching changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GRIDS, config, inputs, random_model
from torch import Tensor

from sparsedit_core.analysis import maps as module
from sparsedit_core.analysis.maps import (
    UNIFORM,
    MapStatistics,
    attention_layers,
    attention_maps,
    map_statistics,
    replacing_attention,
    watching,
)
from sparsedit_core.analysis.moments import Moment, predict
from sparsedit_core.dit import DiT
from sparsedit_core.layers import attend
from sparsedit_core.tokens import Grid


def by_hand(q: Tensor, k: Tensor, head: slice, queries: Grid, keys: Grid, dense: Grid) -> tuple[float, float, float]:
    """Departure, entropy and reach of one head, token by token."""

    def centre(index: int, grid: Grid) -> tuple[float, float]:
        row, column = divmod(index, grid[1])
        return (row + 0.5) * dense[0] / grid[0], (column + 0.5) * dense[1] / grid[1]

    count, rows = k.shape[1], []
    for sample in range(q.shape[0]):
        for i in range(q.shape[1]):
            scores = [math.exp(float(q[sample, i, head] @ k[sample, j, head]) / math.sqrt(2)) for j in range(count)]
            share = [score / sum(scores) for score in scores]
            far = [math.dist(centre(i, queries), centre(j, keys)) for j in range(count)]
            entropy = -sum(p * math.log(p) for p in share) / math.log(count) if count > 1 else 1.0
            departure = sum(abs(p - 1 / count) for p in share) / 2
            reach = sum(p * distance for p, distance in zip(share, far, strict=True))
            rows.append((departure, entropy, reach, sum(far) / count))
    departure, entropy, reach, whole = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return departure, entropy, reach / whole if whole else 1.0


@given(GRIDS, GRIDS, st.integers(0, 99), st.sampled_from([1, 50, 1 << 22]))
@settings(max_examples=25, deadline=None)
def test_statistics_are_those_of_the_map_in_any_chunks(queries: Grid, keys: Grid, seed: int, chunk: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, queries[0] * queries[1], 4, generator=generator)
    k = torch.randn(2, keys[0] * keys[1], 4, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        found = map_statistics(q, k, 2, queries, keys, (6, 6))
    for head in range(2):
        expected = by_hand(q, k, slice(2 * head, 2 * head + 2), queries, keys, (6, 6))
        got = found.departure[head], found.entropy[head], found.reach[head]
        assert got == pytest.approx(expected, abs=1e-5)


def test_no_preference_is_uniform() -> None:
    found = map_statistics(torch.zeros(1, 12, 8), torch.randn(1, 6, 8), 2, (3, 4), (2, 3), (3, 4))
    assert found.departure == pytest.approx((0, 0), abs=1e-6)
    assert found.entropy == pytest.approx((1, 1), abs=1e-6)
    assert found.reach == pytest.approx((1, 1), abs=1e-6)
    assert (UNIFORM.departure, UNIFORM.entropy, UNIFORM.reach) == ((0.0,), (1.0,), (1.0,))


def test_one_key_is_the_other_end() -> None:
    """Every token attends to itself alone: distance 0; to its only neighbour: twice the uniform mean of 1/2."""
    own = torch.eye(9)[None] * 100
    found = map_statistics(own, own, 1, (3, 3), (3, 3), (3, 3))
    assert found == MapStatistics(pytest.approx((1 - 1 / 9,)), pytest.approx((0,)), pytest.approx((0,)))
    pair = torch.eye(2)[None] * 100
    found = map_statistics(pair, pair.flip(1), 1, (1, 2), (1, 2), (1, 2))
    assert found == MapStatistics(pytest.approx((0.5,)), pytest.approx((0,)), pytest.approx((2,)))


def test_a_token_alone_is_uniform() -> None:
    found = map_statistics(torch.randn(1, 1, 4), torch.randn(1, 1, 4), 1, (1, 1), (1, 1), (4, 4))
    assert found == MapStatistics(pytest.approx((0,)), (1.0,), (1.0,))


def moment(sparse: bool = True) -> tuple[DiT, Moment]:
    wanted = config("1+1x[1,1,2,1]+1" if sparse else None)
    model = random_model(wanted)
    x, t, y = inputs(wanted)
    return model, Moment(0.5, x, t, y)


def test_every_block_of_a_sparse_model_on_its_grids() -> None:
    model, at = moment()
    found = attention_maps(model, at, (2, 3))
    dense, sparse = (4, 4), (2, 3)
    assert [one.block for one in found] == list(range(7))
    assert [(one.role, one.queries, one.keys) for one in found] == [
        ("pooled", dense, dense),
        ("generation", sparse, dense),
        ("sparse", sparse, sparse),
        ("recovery", dense, sparse),
        ("recovery", dense, dense),
        ("dense", dense, dense),
        ("dense", dense, dense),
    ]
    assert found[0].statistics == UNIFORM
    assert all(one.time == 0.5 and len(one.statistics.entropy) == 2 for one in found[1:])
    assert all(one.statistics.mean("departure") > 1e-4 for one in found[1:])


def test_a_model_without_queries_is_uniform_everywhere() -> None:
    model, at = moment(sparse=False)
    with torch.no_grad():
        for layer in attention_layers(model).values():
            layer.qkv.weight[:16] = 0
            layer.qkv.bias[:16] = 0
    for one in attention_maps(model, at):
        assert one.statistics.mean("departure") < 1e-6
        assert one.statistics.mean("reach") == pytest.approx(1, abs=1e-6)


def test_watching_changes_nothing_and_ends() -> None:
    model, at = moment()
    layers = attention_layers(model)
    assert sorted(layers) == [1, 2, 3, 4, 5, 6]
    before = predict(model, at, (2, 2))
    seen: list[int] = []
    with watching(model, lambda number, *_: seen.append(number)):
        torch.testing.assert_close(predict(model, at, (2, 2)), before, rtol=0, atol=0)
    assert seen == sorted(layers)
    assert all(layer.attention is attend for layer in layers.values())


def test_an_error_inside_puts_attention_back() -> None:
    model, _ = moment()

    def broken() -> None:
        with replacing_attention(model, lambda number, own: lambda q, k, v, heads: q):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        broken()
    assert all(layer.attention is attend for layer in attention_layers(model).values())


def test_no_map_of_a_thousand_tokens_exists_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that softmax sees keeps to the chunk."""
    sizes: list[int] = []
    whole = Tensor.log_softmax

    def noted(self: Tensor, dim: int) -> Tensor:
        sizes.append(self.numel())
        return whole(self, dim=dim)

    monkeypatch.setattr(Tensor, "log_softmax", noted)
    monkeypatch.setattr(module, "_CHUNK", 1 << 18)
    q = torch.randn(2, 1024, 16)
    map_statistics(q, q, 4, (32, 32), (32, 32), (32, 32))
    assert max(sizes) <= 1 << 18
    assert sum(sizes) == 2 * 4 * 1024 * 1024
