"""Token grids: pooling and upsampling are torch's, default grids keep aspect and count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GRIDS

from sparsedit_core.tokens import (
    Pooling,
    check_grid,
    default_sparse_grid,
    resample_positions,
    sincos_table,
    upsample,
)

Grid = tuple[int, int]
PAIRS = GRIDS.flatmap(lambda big: st.tuples(st.just(big), st.tuples(st.integers(1, big[0]), st.integers(1, big[1]))))
CPU = torch.device("cpu")


def tokens(grid: Grid) -> torch.Tensor:
    return torch.randn(2, grid[0] * grid[1], 4, generator=torch.Generator().manual_seed(3))


def as_image(x: torch.Tensor, grid: Grid) -> torch.Tensor:
    return x.transpose(1, 2).unflatten(2, grid)


@settings(max_examples=40)
@given(PAIRS)
def test_pooling_is_adaptive_average_pooling(pair: tuple[Grid, Grid]) -> None:
    dense, sparse = pair
    x = tokens(dense)
    expected = F.adaptive_avg_pool2d(as_image(x, dense), sparse).flatten(2).transpose(1, 2)
    torch.testing.assert_close(Pooling(dense, sparse, CPU)(x), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=40)
@given(PAIRS)
def test_upsampling_is_nearest(pair: tuple[Grid, Grid]) -> None:
    dense, sparse = pair
    x = tokens(sparse)
    expected = F.interpolate(as_image(x, sparse), size=dense, mode="nearest").flatten(2).transpose(1, 2)
    assert torch.equal(upsample(x, sparse, dense), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pooling_of_half_precision_adds_in_float32(dtype: torch.dtype) -> None:
    x = torch.full((1, 64 * 64, 4), 60000.0 if dtype == torch.float16 else 3e38).to(dtype)
    assert torch.equal(Pooling((64, 64), (1, 1), CPU)(x), x[:, :1])


@settings(max_examples=40)
@given(GRIDS, st.integers(1, 64))
def test_default_grid_fits_and_is_the_side_on_a_square(dense: Grid, side: int) -> None:
    rows, columns = default_sparse_grid(dense, side)
    assert 1 <= rows <= dense[0]
    assert 1 <= columns <= dense[1]
    assert default_sparse_grid((64, 64), side) == (side, side)


def test_default_grid_keeps_aspect_and_count() -> None:
    assert default_sparse_grid((32, 32), 8) == (8, 8)
    assert default_sparse_grid((16, 64), 8) == (4, 16)
    assert default_sparse_grid((64, 16), 8) == (16, 4)
    assert default_sparse_grid((16, 64), 100) == (16, 64)


@pytest.mark.parametrize("grid", [(0, 2), (5, 2), (2, 5), (-1, 1)])
def test_a_grid_that_does_not_fit_is_refused(grid: Grid) -> None:
    with pytest.raises(ValueError, match=f"sparse_grid is {grid[0]}x{grid[1]} but the picture has 4x4"):
        check_grid(grid, (4, 4))


def test_position_table_is_the_sum_of_a_row_and_a_column_part() -> None:
    table = sincos_table(16, (3, 5))
    assert table.shape == (1, 15, 16)
    image = table.view(3, 5, 16)
    assert torch.equal(image[:, :, :8], image[:1, :, :8].expand(3, 5, 8))  # first half: the column alone
    assert torch.equal(image[:, :, 8:], image[:, :1, 8:].expand(3, 5, 8))
    assert torch.equal(image[0, 0], torch.tensor([0.0] * 4 + [1.0] * 4 + [0.0] * 4 + [1.0] * 4))


def test_positions_resampled_to_their_own_grid_are_untouched() -> None:
    table = sincos_table(16, (4, 4))
    assert resample_positions(table, (4, 4), (4, 4)) is table
    wide = resample_positions(table, (4, 4), (4, 8))
    assert wide.shape == (1, 32, 16)
    assert wide.isfinite().all()
