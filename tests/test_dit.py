"""DiT and SparseDiT: against a plain second implementation, over layouts, sizes, grids and dtypes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from golden_files import relative_difference
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Oracle
from tiny import GRIDS, LAYOUTS, MODULES, SPARSE_LAYOUTS, Ops, config, inputs, random_model
from torch import nn

from sparsedit_core.convert import convert_dense
from sparsedit_core.dit import DiT
from sparsedit_core.layers import attend, tanh_gelu_
from sparsedit_core.layout import SegmentLayout

few = settings(max_examples=20)
SIDE = st.integers(1, 4)


@few
@given(LAYOUTS, GRIDS, st.tuples(SIDE, SIDE), st.booleans(), st.sampled_from([1, 2]))
def test_equals_the_plain_implementation(
    layout: SegmentLayout, grid: tuple[int, int], sparse: tuple[int, int], again: bool, patch: int
) -> None:
    size = grid[0] * patch, grid[1] * patch
    wanted = config(layout, input_size=size, patch_size=patch, reinject_positions=again)
    model = random_model(wanted)
    sparse = min(sparse[0], grid[0]), min(sparse[1], grid[1])
    x, t, y = inputs(wanted)
    with torch.no_grad():
        found = model(x, t, y, sparse_grid=sparse)
        assert relative_difference(found, Oracle(model)(x, t, y, sparse)) < 2e-5


@few
@given(MODULES, st.integers(0, 2), st.tuples(SIDE, SIDE))
def test_identity_layout_is_the_dense_model(
    modules: tuple[tuple[int, int, int, int], ...], top: int, half: tuple[int, int]
) -> None:
    # one generation block: a second one takes its keys and values from the same dense map as the first
    modules = tuple((1, *counts) for _, *counts in modules)
    layout = SegmentLayout(0, modules, top + (not modules))
    wanted = config(depth=layout.depth)
    dense = random_model(wanted).double()
    sparse = convert_dense(dense, layout, fusion="identity")
    x, t, y = inputs(wanted, size=(2 * half[0], 2 * half[1]))
    with torch.no_grad():
        expected = dense(x.double(), t, y)
        found = sparse(x.double(), t, y, sparse_grid=half)
    assert relative_difference(found, expected) < 1e-13


@few
@given(SPARSE_LAYOUTS, st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_any_size_runs_and_keeps_its_size(layout: SegmentLayout, size: tuple[int, int]) -> None:
    wanted = config(layout)
    model = random_model(wanted)
    with torch.no_grad():
        out = model(*inputs(wanted, size=size))
    assert out.shape == (2, wanted.out_channels, *size)
    assert out.isfinite().all()


def test_odd_size_is_padded_with_itself_and_cropped() -> None:
    model = random_model(config("1+1x[1,1,1,1]+1"))
    x, t, y = inputs(model.config, size=(7, 5))
    padded = torch.cat([x, x[:, :, :1]], 2)
    padded = torch.cat([padded, padded[..., :1]], 3)
    with torch.no_grad():
        assert torch.equal(model(x, t, y), model(padded, t, y)[..., :7, :5])


def test_picture_smaller_than_the_padding() -> None:
    wanted = config("0+1x[1,1,1,1]+1", patch_size=8)
    with torch.no_grad():
        out = random_model(wanted)(*inputs(wanted, size=(3, 1)))
    assert out.shape == (2, 8, 3, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [None, "1+1x[1,2,1,1]+1", "1+1x[1,1,2,1]+0"])
def test_half_precision_is_finite_and_close(layout: str | None, dtype: torch.dtype) -> None:
    wanted = config(layout)
    full = random_model(wanted)
    half = random_model(wanted).to(dtype)
    half.pos_embed.data = half.pos_embed.data.float()
    x, t, y = inputs(wanted, batch=6)
    sigma_max = 157.407  # of DiT's linear betas: the largest input before a sampler scales it
    with torch.no_grad():
        for scale in (1.0, sigma_max):
            found = half((scale * x).to(dtype), t, y)
            assert found.dtype == dtype
            assert found.isfinite().all()
            limit = 0.01 if dtype == torch.float16 else 0.08
            assert relative_difference(found, full((scale * x).to(dtype).float(), t, y)) < limit


def test_batch_is_independent_of_its_neighbours() -> None:
    model = random_model(config("1+2x[1,1,1,0]+1"))
    x, t, y = inputs(model.config, batch=3)
    with torch.no_grad():
        together = model(x, t, y, sparse_grid=(3, 2))
        for i in range(3):
            one = slice(i, i + 1)
            assert relative_difference(model(x[one], t[one], y[one], sparse_grid=(3, 2)), together[one]) < 1e-5


def test_default_grid_is_the_checkpoints_side() -> None:
    model = random_model(config("1+1x[1,1,1,1]+1", sparse_side=3))
    x, t, y = inputs(model.config)
    with torch.no_grad():
        assert torch.equal(model(x, t, y), model(x, t, y, sparse_grid=(3, 3)))
        assert not torch.equal(model(x, t, y), model(x, t, y, sparse_grid=(2, 2)))


def test_changing_the_grid_leaves_no_trace() -> None:
    model = random_model(config("1+1x[1,1,1,1]+1"))
    x, t, y = inputs(model.config)
    with torch.no_grad():
        first = model(x, t, y, sparse_grid=(2, 2))
        model(x, t, y, sparse_grid=(4, 4))
        model(x[..., :6], t, y, sparse_grid=(1, 3))
        assert torch.equal(model(x, t, y, sparse_grid=(2, 2)), first)


def test_a_dense_model_takes_no_grid() -> None:
    model = random_model(config())
    with pytest.raises(ValueError, match="given to a dense model"):
        model(*inputs(model.config), sparse_grid=(2, 2))


def test_a_grid_above_the_picture_is_refused() -> None:
    model = random_model(config("1+1x[1,1,1,1]+1"))
    with pytest.raises(ValueError, match="sparse_grid is 5x4 but the picture has 4x4"):
        model(*inputs(model.config), sparse_grid=(5, 4))


@pytest.mark.parametrize("layout", [None, "1+1x[1,1,1,1]+1"])
def test_every_layer_comes_from_ops_and_every_attention_is_injected(layout: str | None) -> None:
    calls: list[int] = []

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
        calls.append(heads)
        return attend(q, k, v, heads)

    ops, wanted = Ops(), config(layout)
    model = DiT(wanted, ops=ops, attention=counted)
    layers = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.Embedding)
    assert ops.made == sum(isinstance(module, layers) for module in model.modules())
    model(*inputs(wanted))
    assert calls == [2] * sum(block.role != "pooled" for block in model.blocks)


def test_the_constructor_reads_no_weight() -> None:
    wanted = config("1+1x[1,1,1,1]+1")
    model = DiT(wanted, device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    model.load_state_dict(random_model(wanted).state_dict(), assign=True)
    x, t, y = inputs(wanted)
    with torch.no_grad():
        assert torch.equal(model(x, t, y), random_model(wanted)(x, t, y))


def test_initial_state() -> None:
    wanted = config("1+1x[1,1,1,1]+1")
    model = DiT(wanted)
    model.initialize_weights()
    x, t, y = inputs(wanted)
    with torch.no_grad():
        assert torch.equal(model(x, t, y), torch.zeros(2, 8, 8, 8))  # adaLN-Zero: nothing comes out yet
    recovery = model.blocks[3]
    assert recovery.role == "recovery"
    assert torch.equal(recovery.merged_layer1.weight, torch.zeros(16, 16))
    assert torch.equal(recovery.merged_layer2.weight, torch.eye(16))


def test_gradients_reach_every_weight() -> None:
    wanted = config("1+1x[2,1,2,1]+1")
    model = random_model(wanted).train()
    model(*inputs(wanted), sparse_grid=(3, 2)).square().mean().backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in trained.items() if gradient is None or not gradient.any()]


def test_without_null_class_and_learned_variance() -> None:
    wanted = replace(config(), null_class=False, learn_sigma=False)
    model = random_model(wanted)
    assert model.y_embedder.embedding_table.weight.shape == (5, 16)
    with torch.no_grad():
        assert model(*inputs(wanted)).shape == (2, 4, 8, 8)


def test_gelu_without_gradients_is_the_tanh_gelu() -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e4, 1e4, 0.0])])
    expected = F.gelu(x.double(), approximate="tanh").float()
    assert torch.equal(tanh_gelu_(x), F.gelu(x, approximate="tanh"))
    with torch.no_grad():
        half = x.bfloat16()
        assert torch.equal(tanh_gelu_(half), F.gelu(half, approximate="tanh"))
        table = x.expand(300, -1).contiguous()
        torch.testing.assert_close(tanh_gelu_(table[None])[0, 299], expected, rtol=0, atol=1e-6)
