"""Which tokens come first: the queue, the scores, the maps behind them."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedit_core.cache import selectors
from sparsedit_core.cache.selectors import CELL_BONUS, best_rows, entropy, influence, queue

GRIDS = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
)


@given(GRIDS, st.integers(0, 99))
def test_the_queue_takes_one_token_of_every_cell_before_a_second(grid: tuple[int, ...], seed: int) -> None:
    order = queue(grid, seed).tolist()
    assert sorted(order) == list(range(math.prod(grid)))
    places = [tuple(int(i) for i in place) for place in torch.cartesian_prod(*map(torch.arange, grid)).tolist()]
    cells = [(*place[:-2], place[-2] // 2, place[-1] // 2) for place in places]
    seen: dict[tuple[int, ...], int] = {}
    turns = []
    for token in order:
        seen[cells[token]] = seen.get(cells[token], -1) + 1
        turns.append(seen[cells[token]])
    assert turns == sorted(turns)


def test_the_queue_is_random_by_its_seed() -> None:
    orders = {tuple(queue((8, 8), seed).tolist()) for seed in range(10)}
    assert len(orders) == 10
    assert torch.equal(queue((8, 8), 3), queue((8, 8), 3))


@settings(max_examples=50)
@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.data())
def test_the_best_rows_are_those_of_the_highest_score(grid: tuple[int, int], data: st.DataObject) -> None:
    tokens = math.prod(grid)
    values = st.lists(st.floats(0.1, 10), min_size=tokens, max_size=tokens, unique=True)
    signal, age = (torch.tensor([data.draw(values)]) for _ in range(2))
    count = data.draw(st.integers(1, tokens))
    score = (signal / signal.mean() * age)[0].tolist()
    cell = [(i // grid[1] // 2, i % grid[1] // 2) for i in range(tokens)]
    best = {c: max(score[i] for i in range(tokens) if cell[i] == c) for c in set(cell)}
    raised = [s * (1 + CELL_BONUS) if s == best[cell[i]] else s for i, s in enumerate(score)]
    rows = best_rows(signal, age, count, grid)[0].tolist()
    assert len(set(rows)) == count
    left = [raised[i] for i in range(tokens) if i not in rows]
    assert min(raised[i] for i in rows) >= max(left, default=-1.0) - 1e-4


def test_influence_and_entropy_are_those_of_the_whole_map() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 7, 12), torch.randn(2, 5, 12)
    heads = [(each.reshape(2, -1, 3, 4).transpose(1, 2)) for each in (q, k)]
    maps = (heads[0] @ heads[1].transpose(2, 3) / 2).softmax(dim=-1)
    for chunk in (2**24, 16):
        selectors._CHUNK = chunk  # in pieces too
        torch.testing.assert_close(influence(q, k, 3), maps.mean(dim=1).sum(dim=1))
    selectors._CHUNK = 2**24
    torch.testing.assert_close(entropy(q, k, 3), -(maps * maps.log()).sum(-1).mean(1))
    mask = torch.tensor([[True, True, False, True, False], [True, False, False, False, False]])
    found = entropy(q, k, 3, mask)
    scores = (heads[0] @ heads[1].transpose(2, 3) / 2)[:1, ..., mask[0]].softmax(dim=-1)
    torch.testing.assert_close(found[:1], -(scores * scores.log()).sum(-1).mean(1))
    torch.testing.assert_close(found[1], torch.zeros(7))
