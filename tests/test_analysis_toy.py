"""The toy experiment against models that are uniform by construction; the surrogate against blocks run by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny import config, inputs, random_model
from torch import Tensor

from sparsedit_core import convert_dense
from sparsedit_core.analysis.moments import Moment, predict
from sparsedit_core.analysis.sensitivity import assembled_changes, measure_sensitivity
from sparsedit_core.analysis.surrogate import ON_SPARSE, Run, Surrogate
from sparsedit_core.analysis.toy import relative_change, toy_experiment, uniform_attention, uniform_blocks
from sparsedit_core.dit import DiT
from sparsedit_core.layers import attend
from sparsedit_core.layout import Role, SegmentLayout
from sparsedit_core.schedule import PruningSchedule
from sparsedit_core.sdtm import Block

ROLES: tuple[Role, ...] = ("dense", "generation", "sparse", "recovery")


def model_and_moment(depth: int = 4, time: float = 0.5, **changes: object) -> tuple[DiT, Moment]:
    wanted = config(depth=depth, **changes)
    x, t, y = inputs(wanted)
    return random_model(wanted), Moment(time, x, t, y)


def test_uniform_attention_is_attention_without_preference() -> None:
    q, k, v = torch.zeros(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(uniform_attention(q, k, v, 2), attend(q, k, v, 2))


def test_relative_change_is_a_share_of_energy() -> None:
    assert relative_change(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(1 / 25)
    with pytest.raises(ArithmeticError, match="energy 0"):
        relative_change(torch.ones(2), torch.zeros(2))
    with pytest.raises(ArithmeticError, match="nan"):
        relative_change(torch.tensor([float("nan")]), torch.ones(1))


@pytest.mark.parametrize("k", [0, 1, 3, 4])
def test_uniform_blocks_are_poolingformers(k: int) -> None:
    """Attention replaced by ones is the converted model whose bottom has as many Poolingformers."""
    model, moment = model_and_moment()
    pooled = convert_dense(model, SegmentLayout(k, (), 4 - k), sparse_side=2)
    with uniform_blocks(model, range(k)):
        torch.testing.assert_close(predict(model, moment), predict(pooled, moment))


def test_the_toy_experiment_of_a_dense_model() -> None:
    model, moment = model_and_moment()
    calls: list[int] = []
    found = toy_experiment(model, moment, progress=calls.append)
    before = predict(model, moment)
    for k in range(5):
        pooled = convert_dense(model, SegmentLayout(k, (), 4 - k), sparse_side=2)
        assert found.first[k] == pytest.approx(relative_change(predict(pooled, moment), before), rel=1e-4, abs=1e-10)
    assert found.single[0] == found.first[1] > 0
    assert (found.first[0], len(found.single), sum(calls)) == (0.0, 4, 8)


def test_poolingformers_of_a_sparse_model_change_nothing_more() -> None:
    wanted = config("1+1x[1,1,1,0]+1")
    x, t, y = inputs(wanted)
    found = toy_experiment(random_model(wanted), Moment(0.5, x, t, y), (2, 2))
    assert (found.single[0], found.first[1]) == (0.0, 0.0)
    assert min(found.single[1:]) > 0


def patches(model: DiT, prediction: Tensor) -> Tensor:
    """A prediction (B, C, H, W) as the surrogate gives it: (B, N, p*p*C)."""
    p, channels = model.config.patch_size, model.config.in_channels
    cut = prediction.unfold(2, p, p).unfold(3, p, p)  # (B, C, h, w, p, p)
    return cut.permute(0, 2, 3, 4, 5, 1).reshape(len(prediction), -1, p * p * channels)


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_a_surrogate_of_dense_blocks_is_the_model(learn_sigma: bool) -> None:
    model, moment = model_and_moment(learn_sigma=learn_sigma)
    surrogate = Surrogate(model)
    found = surrogate.predict(surrogate.record(moment), ["dense"] * 4, (2, 2))
    torch.testing.assert_close(found, patches(model, predict(model, moment)))


@given(st.lists(st.sampled_from(ROLES), min_size=4, max_size=4))
@settings(max_examples=30, deadline=None)
def test_on_the_full_grid_every_order_of_roles_is_the_dense_model(roles: list[Role]) -> None:
    """But for a generation block on tokens that are sparse already: it reads the dense tokens that entered."""
    assume(not any(a in ON_SPARSE and b == "generation" for a, b in pairwise(roles)))
    model, moment = model_and_moment()
    surrogate = Surrogate(model)
    run = surrogate.record(moment)
    expected = surrogate.predict(run, ["dense"] * 4, (4, 4))
    torch.testing.assert_close(surrogate.predict(run, roles, (4, 4)), expected, rtol=1e-4, atol=1e-5)


def test_poolingformers_of_the_surrogate_are_those_of_the_toy_experiment() -> None:
    model, moment = model_and_moment()
    surrogate = Surrogate(model)
    found = surrogate.predict(surrogate.record(moment), ["pooled", "pooled", "dense", "dense"], (2, 2))
    with uniform_blocks(model, (0, 1)):
        torch.testing.assert_close(found, patches(model, predict(model, moment)))


def by_hand(model: DiT, run: Run, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Blocks 1 to 3 of five as one module [1,1,1]: torch's own pooling and upsampling, roles from a converted model."""
    sparse = convert_dense(model, "1+1x[1,1,1,0]+1", sparse_side=2)
    c, blocks = run.c, [block for block in sparse.blocks if isinstance(block, Block)]

    def image(tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)

    small = F.adaptive_avg_pool2d(image(x, (4, 4)), grid).flatten(2).transpose(1, 2)
    changed = blocks[2](blocks[1](small, c, x), c)
    up = F.interpolate(image(changed - small, grid), size=(4, 4), mode="nearest").flatten(2).transpose(1, 2)
    return blocks[3](x + up, c, changed)  # type: ignore[no-any-return]


@torch.no_grad()
@pytest.mark.parametrize("grid", [(2, 2), (3, 2), (1, 4)])
def test_a_module_is_what_its_blocks_give_by_hand(grid: tuple[int, int]) -> None:
    model, moment = model_and_moment(depth=5)
    surrogate = Surrogate(model)
    run = surrogate.record(moment)
    found = surrogate.predict(run, ["dense", "generation", "sparse", "recovery", "dense"], grid)
    tokens = model.blocks[4](by_hand(model, run, run.states[1], grid), run.c)
    expected = model.final_layer(tokens, run.c)
    expected = expected.unflatten(-1, (4, 8))[..., :4].flatten(2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_second_recovery_block_reads_dense_tokens() -> None:
    model, moment = model_and_moment()
    surrogate = Surrogate(model)
    run = surrogate.record(moment)
    once = surrogate.predict(run, ["generation", "recovery", "dense", "dense"], (2, 2))
    torch.testing.assert_close(surrogate.predict(run, ["generation", "recovery", "recovery", "dense"], (2, 2)), once)
    alone = surrogate.predict(run, ["generation", "recovery", "dense", "recovery"], (2, 2))
    assert not torch.allclose(alone, once)


def test_a_sparse_model_has_no_surrogate() -> None:
    with pytest.raises(ValueError, match=r"SparseDiT already .*1\+1x\[1,1,1,0\]\+1.* dense model that it came from"):
        Surrogate(random_model(config("1+1x[1,1,1,0]+1")))


def test_sensitivities_of_single_blocks_and_of_assembled_layouts_agree() -> None:
    """A layout whose only changed block is the first: what its blocks predict is what is measured."""
    model, moment = model_and_moment(depth=4)
    moments = [moment, Moment(0.9, moment.x, moment.t, moment.y)]
    schedule = PruningSchedule(rate_noise=0.9, rate_clean=0.5, levels=None)
    pooled = [toy_experiment(model, one).first for one in moments]
    calls: list[int] = []
    found = measure_sensitivity(model, moments, schedule, pooled, progress=calls.append)
    assert sum(calls) == 2 * 3 * 4
    assert found.grids == (schedule.grid(0.5, (4, 4)), schedule.grid(0.9, (4, 4)))
    assert found.grids[0] != found.grids[1]
    surrogate = Surrogate(model)
    for number, one in enumerate(moments):
        run = surrogate.record(one)
        before = surrogate.predict(run, ["dense"] * 4, (4, 4))
        alone = surrogate.predict(run, ["dense", "dense", "sparse", "dense"], found.grids[number])
        assert found.roles["sparse"][number][2] == pytest.approx(relative_change(alone, before))
    layouts = [SegmentLayout(0, (), 4), SegmentLayout(2, (), 2), SegmentLayout.parse("0+1x[1,0,1,2]+0")]
    nothing, bottom, module = assembled_changes(model, moments, schedule, layouts)
    assert (nothing, found.predicted(layouts[0])) == (0.0, 0.0)
    assert found.predicted(layouts[1]) == pytest.approx(bottom, rel=1e-4)
    expected = sum(found.mean(role)[i] for i, role in enumerate(("generation", "recovery")))  # type: ignore[arg-type]
    assert found.predicted(layouts[2]) == pytest.approx(expected)
    assert module > 0
    again = SegmentLayout.parse("0+1x[1,0,2,1]+0")  # a second recovery block reads dense tokens and changes nothing
    assert found.predicted(again) == found.predicted(layouts[2])
    with pytest.raises(ValueError, match="3 blocks but the model has 4"):
        found.predicted(SegmentLayout(1, (), 2))
