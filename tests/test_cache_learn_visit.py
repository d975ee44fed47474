"""Sampling that a plan is learned by: what is learned is what runs, gradients against closed forms, memory."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learn_models import CAPTIONS, EPS, FLOW, LABELS, Table, flow_model, hard, tables
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from sparsedit_core.cache.costs import sublayer_names
from sparsedit_core.cache.learn_steps import soft_sample
from sparsedit_core.cache.learn_visit import NOTHING, SoftVisit, straight_through
from sparsedit_core.cache.plan import FULL, LEVELS, CachePlan, rows_at
from sparsedit_core.cache.selectors import queue
from sparsedit_core.checkpoint import Loaded
from sparsedit_core.sampling import SampleOptions, evaluation_times, initial_noise, sample


def assert_runs_alike(loaded: Loaded, conditions: Any, table: Table, seed: int, cfg: float, channels: int) -> None:
    names = sublayer_names(loaded.config)
    times = evaluation_times(loaded.prediction, len(table))
    plan = CachePlan(loaded.family, times, names, tuple(map(tuple, table)), seed=seed)
    noise = initial_noise(loaded, 2, seed=seed)
    real = sample(loaded, noise, conditions, SampleOptions(len(table), cfg=cfg, cache=plan)).images
    with torch.no_grad():
        soft = soft_sample(loaded, noise, conditions, hard(table), table, names, seed=seed, cfg=cfg, channels=channels)
    torch.testing.assert_close(soft / loaded.latent.scale, real, rtol=2e-4, atol=2e-4)


@settings(max_examples=8, deadline=None)
@given(tables(6), st.integers(0, 9), st.sampled_from([1.0, 2.0]))
def test_a_choice_gives_what_the_runtime_gives_under_its_plan(table: Table, seed: int, cfg: float) -> None:
    assert_runs_alike(FLOW, LABELS, table, seed, cfg, 3)


@settings(max_examples=6, deadline=None)
@given(tables(9), st.integers(0, 9), st.sampled_from([1.0, 2.0]))
def test_the_same_of_a_noise_predicting_pixart_by_ddim(table: Table, seed: int, cfg: float) -> None:
    assert_runs_alike(EPS, CAPTIONS, table, seed, cfg, 4)


@pytest.mark.parametrize(("level", "refreshed"), [(1, 0), (2, 0), (0, 1), (4, 3), (3, 2)])
def test_the_tables_gradient_is_the_closed_form(level: int, refreshed: int) -> None:
    """Of one sub-layer: dL/dC_s = -p_s (g_s - mean of g under p) / tau, g_s = sum of <dL/dF_i, f_i - cache_i>."""
    grid, tokens, tau, seed = (4, 4), 16, 0.7, 3
    generator = torch.Generator().manual_seed(level)
    x, old, new, by = (torch.randn(2, tokens, 5, generator=generator) for _ in range(4))
    costs = torch.randn(1, len(LEVELS), generator=generator).requires_grad_()
    store = NOTHING
    for value, done in ((old, FULL), (old, refreshed)):  # the queue has come to where `refreshed` leaves it
        visit = SoftVisit(["0.mlp"], [done], hard([[done]])[0], store, seed)
        visit.output("0.mlp", grid, x, lambda _, value=value: value)
        store = visit.store
    weights = straight_through(costs, torch.tensor([level]), tau)
    visit = SoftVisit(["0.mlp"], [level], weights, store, seed)
    (by * visit.output("0.mlp", grid, x, lambda _: new)[0]).sum().backward()

    at = rows_at(refreshed, tokens) % tokens
    order = torch.cat([queue(grid, seed)] * 2)[at : at + tokens]
    gains = (by * (new - old)).sum(dim=(0, 2))[order]
    g = torch.stack([gains[: rows_at(s, tokens)].sum() for s in range(len(LEVELS))])
    p = torch.softmax(-costs.detach()[0] / tau, dim=0)
    torch.testing.assert_close(costs.grad, (-p * (g - (p * g).sum()) / tau)[None], rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_sampling_is_that_of_finite_differences() -> None:
    """In float64, for weights that are no choice: through steps, caches and checkpoints."""
    loaded = flow_model()
    loaded.model.double().requires_grad_(False)
    names, noise = sublayer_names(loaded.config), initial_noise(loaded, 1).double()
    rows = torch.rand(3, len(names), len(LEVELS), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    table = [[FULL] * len(names), [2] * len(names), [1] * len(names)]
    rows = rows.requires_grad_()
    direction = torch.randn(rows.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    value = final_of(loaded, noise, rows, table, names)
    (slope,) = torch.autograd.grad(value, rows)
    with torch.no_grad():
        ahead = final_of(loaded, noise, rows + 1e-5 * direction, table, names)
        behind = final_of(loaded, noise, rows - 1e-5 * direction, table, names)
    assert float((slope * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-5)
    assert slope[0].abs().max() == 0  # the first step is full whatever its weights


def final_of(loaded: Loaded, noise: Tensor, rows: Tensor, table: Table, names: Any) -> Tensor:
    return soft_sample(loaded, noise, LABELS[: len(noise)], list(rows.unbind()), table, names).square().sum()


class Held(TorchDispatchMode):
    """The most bytes of tensors that were alive at one time, of those made while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in torch.utils._pytree.tree_leaves(result):
            if isinstance(each, Tensor) and each.untyped_storage() not in self._known:
                storage = each.untyped_storage()
                self._known[storage] = True
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, size: int) -> None:
        self.now -= size


def peak_bytes(steps: int, checkpointing: bool) -> int:
    loaded = flow_model()
    loaded.model.requires_grad_(False)
    names = sublayer_names(loaded.config)
    rows = torch.rand(steps, len(names), len(LEVELS)).requires_grad_()
    table = [[FULL] * len(names)] * steps
    noise = initial_noise(loaded, 2)
    with Held() as held:
        x = soft_sample(loaded, noise, LABELS, list(rows.unbind()), table, names, checkpointing=checkpointing)
        x.square().sum().backward()
    return held.peak


def test_activations_of_one_step_alone_are_held_and_what_lies_between_the_steps() -> None:
    """The kept outputs (6 sub-layers x 2 pictures x 16 tokens x 16 numbers) and the sample grow with the steps, the
    activations do not."""
    between = 4 * (6 * 2 * 16 * 16 + 2 * 3 * 8 * 8)
    growth = {way: (peak_bytes(12, way) - peak_bytes(4, way)) / 8 for way in (True, False)}
    assert between * 0.8 < growth[True] < between * 1.5
    assert growth[False] > 4 * between
