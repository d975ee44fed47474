"""The engine of the token cache against a plain reference: everything computed, unselected tokens overwritten."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny
import tiny_pixart
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsedit_core.cache.costs import cache_bytes, sublayer_names
from sparsedit_core.cache.plan import FULL, CachePlan, Selector, check_plan, rows_at
from sparsedit_core.cache.runtime import PlanVisit, TokenCache
from sparsedit_core.cache.selectors import queue
from sparsedit_core.cache.visit import Visit, put, take

SELECTORS: tuple[Selector, ...] = ("age", "change", "influence", "entropy")


class Reference(PlanVisit):
    """All tokens of every sub-layer computed; of those that were not selected the old output is put back."""

    kept: dict[str, Tensor]
    places: dict[str, int]
    grids: dict[str, Any]

    def output(self, name: str, grid: Any, x: Tensor, compute: Any) -> tuple[Tensor, ...]:
        full, level = compute(None), self._levels[name]
        old = self.kept.get(name)
        if old is not None and (old.shape != full.shape or self.grids[name] != grid):
            old = None
        self.grids[name] = grid
        if old is not None and level < FULL:
            if full.shape[1] == 1 < x.shape[1]:  # a Poolingformer's attention: one token for all
                full = full if level else old
            else:
                tokens, start = full.shape[1], self.places.get(name, 0)
                count = rows_at(level, tokens)
                order = queue(grid, self.cache.plan.seed).tolist()
                chosen = [order[(start + i) % tokens] for i in range(count)]
                self.places[name] = (start + count) % tokens
                stale = [token for token in range(tokens) if token not in chosen]
                full = full.clone()
                full[:, stale] = old[:, stale]
        elif old is None:
            self.places[name] = 0
        self.kept[name] = full
        return (full,)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, Any, list[tuple[Any, Any]], CachePlan]:
    """A model's config, its module of helpers, grids of every evaluation and a plan."""
    family, layout, dense = draw(st.sampled_from(["dit", "pixart"])), draw(tiny.LAYOUTS), draw(tiny.GRIDS)
    make: Any = tiny if family == "dit" else tiny_pixart
    config = make.config(layout)
    names, steps = sublayer_names(config), draw(st.integers(1, 4))
    rows = [(FULL,) * len(names)] + [draw(st.tuples(*[st.integers(0, FULL)] * len(names))) for _ in range(steps)]
    grids = [
        (dense, tuple(draw(st.integers(1, side)) for side in dense) if layout.modules else None)
        for _ in range(steps + 1)
    ]
    times = tuple(1 - step / (steps + 1) for step in range(steps + 1))
    return config, make, grids, CachePlan(family, times, names, tuple(rows), seed=draw(st.integers(0, 9)))


@settings(max_examples=40)
@given(cases())
def test_selected_tokens_are_computed_and_the_others_kept(case: Any) -> None:
    config, make, grids, plan = case
    model, cache = make.random_model(config), TokenCache(plan)
    kept: dict[str, Tensor] = {}
    places: dict[str, int] = {}
    seen: dict[str, Any] = {}
    for number, (time, (dense, sparse)) in enumerate(zip(plan.times, grids, strict=True)):
        size = tuple(2 * side for side in dense)
        x, t, y, *more = make.inputs(config, size=size, seed=number)
        extra = {"mask": more[0]} if more else {}
        reference = Reference(cache, TokenCache(plan).evaluation(time)._store, plan.row(time), 1)
        reference.kept, reference.places, reference.grids = kept, places, seen
        with torch.no_grad():
            visit = cache.evaluation(time)
            found = model(x, t, y, sparse_grid=sparse, cache=visit, **extra)
            expected = model(x, t, y, sparse_grid=sparse, cache=reference, **extra)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        for name, level in visit.done.items():
            assert level == (FULL if name in visit.forced else plan.row(time)[plan.sublayers.index(name)])
        if number == 0:
            assert set(visit.levels()) == {FULL}
    if all(grid == grids[0] for grid in grids):
        dense, sparse = grids[0]
        sizes = cache_bytes(config, dense, 2, 4, sparse=sparse, names=plan.reused())
        assert cache.peak_bytes == sum(sizes.values()), "what is kept is what was announced"


@settings(max_examples=20)
@given(tiny.LAYOUTS, tiny.GRIDS, st.sampled_from(["dit", "pixart"]))
def test_a_full_plan_is_the_model_bit_for_bit(layout: Any, dense: Any, family: str) -> None:
    make: Any = tiny if family == "dit" else tiny_pixart
    config = make.config(layout)
    names = sublayer_names(config)
    model, cache = make.random_model(config), TokenCache(CachePlan(family, (1.0,), names, ((FULL,) * len(names),)))
    x, t, y, *more = make.inputs(config, size=tuple(2 * side for side in dense))
    extra = {"mask": more[0]} if more else {}
    with torch.no_grad():
        expected = model(x, t, y, **extra)
        assert torch.equal(model(x, t, y, cache=cache.evaluation(1.0), **extra), expected)
    assert cache.peak_bytes == 0, "nothing is kept that is never reused"


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("level", range(FULL))
def test_the_same_input_gives_the_same_output_whatever_is_recomputed(
    selector: Selector, shared: bool, level: int
) -> None:
    config = tiny_pixart.config(qk_norm=True)
    names = sublayer_names(config)
    plan = CachePlan(
        "pixart", (1.0, 0.5), names, ((FULL,) * len(names), (level,) * len(names)), selector=selector, shared=shared
    )
    model, cache = tiny_pixart.random_model(config), TokenCache(plan)
    x, t, y, mask, *_ = tiny_pixart.inputs(config, batch=4)
    with torch.no_grad():
        first = model(x, t, y, mask=mask, cache=cache.evaluation(1.0, ("cond", "uncond")))
        for _ in range(3):
            again = model(x, t, y, mask=mask, cache=cache.evaluation(0.5, ("cond", "uncond")))
            torch.testing.assert_close(again, first, rtol=1e-4, atol=1e-4)
        other = model(x.flip(0), t, y, mask=mask, cache=cache.evaluation(0.5, ("cond", "uncond")))
    assert level == 0 or not torch.allclose(other, first, rtol=1e-3, atol=1e-3)


def plain(level: int, **values: Any) -> tuple[Any, CachePlan]:
    config = tiny.config()
    names = sublayer_names(config)
    return config, CachePlan("dit", (1.0, 0.5), names, ((FULL,) * len(names), (level,) * len(names)), **values)


def rows_of(plan: CachePlan, members: int, evaluations: int, tokens: int = 16, batch: int = 4) -> list[Tensor]:
    """The tokens that one sub-layer computes in evaluations after the first."""
    cache, found = TokenCache(plan), []
    x, side = torch.zeros(batch, tokens, 3), math.isqrt(tokens)

    def compute(rows: Tensor | None) -> Tensor:
        if rows is not None:
            found.append(rows if rows.ndim == 2 else rows.expand(batch, -1))
        return torch.zeros_like(take(x, rows))

    for number in range(evaluations + 1):
        visit = cache.evaluation(0.5 if number else 1.0, range(members))
        visit.output(plan.sublayers[0], (side, side), x, compute)
    return [rows.clone() for rows in found]


@given(st.sampled_from([1, 2, 3]), st.integers(0, 5))
def test_no_token_waits_longer_than_the_queue_takes(level: int, seed: int) -> None:
    _, plan = plain(level, seed=seed)
    count = rows_at(level, 16)
    longest = -(-16 // count)
    waited = [0] * 16
    for rows in rows_of(plan, 1, 12):
        assert len(set(rows[0].tolist())) == count
        waited = [0 if token in rows[0].tolist() else wait + 1 for token, wait in enumerate(waited)]
        assert max(waited) < longest


def test_halves_of_guidance_share_their_tokens_or_do_not() -> None:
    for rows in rows_of(plain(1, shared=True)[1], 2, 4):
        assert torch.equal(rows[0], rows[2])
    for rows in rows_of(plain(1, shared=False)[1], 2, 4):
        assert torch.equal(rows[0], rows[1])
        assert not set(rows[0].tolist()) & set(rows[2].tolist())


def test_other_groups_windows_and_sizes_begin_in_full() -> None:
    config, plan = plain(0)
    model, cache = tiny.random_model(config), TokenCache(plan)
    x, t, y = tiny.inputs(config)

    def forced(visit: Visit, picture: Tensor = x) -> bool:
        with torch.no_grad():
            model(picture, t[: len(picture)], y[: len(picture)], cache=visit)
        return bool(visit.forced)

    assert forced(cache.evaluation(0.5, ("a", "b")))
    assert not forced(cache.evaluation(0.5, ("a", "b")))
    assert forced(cache.evaluation(0.5, ("b", "a"))), "another order is another group"
    assert forced(cache.evaluation(0.5, ("a", "b"))), "the group of before was dropped with it"
    assert forced(cache.evaluation(0.5, ("a", "b"), where=1))
    assert not forced(cache.evaluation(0.5, ("a", "b"))), "another window leaves this one alone"
    assert forced(cache.evaluation(0.5, ("a", "b")), torch.randn(2, 4, 8, 12))
    assert forced(cache.evaluation(0.5, ("a", "b"))), "sizes have no store of their own within a group"
    assert not forced(cache.evaluation(0.5, ("a", "b"), full=True)), "asked for in full, not forced"
    cache.clear()
    assert forced(cache.evaluation(0.5, ("a", "b")))


def test_what_is_kept_of_half_precision_is_half_precision() -> None:
    config, plan = plain(2)
    model, cache = tiny.random_model(config).to(torch.bfloat16), TokenCache(plan)
    x, t, y = tiny.inputs(config)
    for time in plan.times:
        with torch.no_grad():
            out = model(x.bfloat16(), t, y, cache=cache.evaluation(time))
    assert out.dtype == torch.bfloat16
    assert cache.peak_bytes == sum(cache_bytes(config, (4, 4), 2, 2).values())


def test_put_and_take_are_inverse() -> None:
    x = torch.randn(2, 5, 3)
    for rows in (torch.tensor([3, 0]), torch.tensor([[3, 0], [1, 4]])):
        new = torch.randn(2, 2, 3)
        changed = put(x.clone(), rows, new)
        assert torch.equal(take(changed, rows), new)
        assert (changed != x).any(dim=-1).sum() == 4


def test_plans_for_other_models_are_refused() -> None:
    _, plan = plain(0)
    check_plan(plan, "dit", plan.sublayers)
    with pytest.raises(ValueError, match="the model is a pixart"):
        check_plan(plan, "pixart", plan.sublayers)
    with pytest.raises(ValueError, match="with 2 "):
        check_plan(plan, "dit", ("0.self", "0.mlp"))
    entropic = plain(0, selector="entropy")[1]
    with pytest.raises(ValueError, match="reads none"):
        check_plan(entropic, "dit", entropic.sublayers)
