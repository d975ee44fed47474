"""Costs of FLUX and Wan2.1 from plain numbers; that they are what ComfyUI's networks compute is checked in ComfyUI."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedit_core.cache.costs import Costs
from sparsedit_core.cache.costs_flux import FluxShape, flux_bytes, flux_costs
from sparsedit_core.cache.costs_wan import WanShape, wan_bytes, wan_costs
from sparsedit_core.cache.plan import FULL, LEVELS, NONE, rows_at
from sparsedit_core.cache.solver_speed import FLUX_DEV, WAN_1B

numbers = st.integers(1, 40)
flux_shapes = st.builds(
    FluxShape, numbers, numbers, st.integers(1, 3), st.integers(1, 3), numbers, numbers, numbers, numbers, st.booleans()
)
wan_shapes = st.builds(WanShape, numbers, numbers, st.integers(1, 4), numbers, numbers, numbers, numbers, numbers)


def check_levels(costs: Costs, tokens: int) -> None:
    """Level 0 costs nothing, and what a level costs above its fixed part is in proportion to its tokens."""
    for row in costs.macs:
        assert row[NONE] == 0
        assert list(row) == sorted(row)
        counts = [rows_at(level, tokens) for level in range(len(LEVELS))]
        rise, run = row[FULL] - row[1], counts[FULL] - counts[1]
        for level in (2, 3):  # on the line through the others
            assert (row[level] - row[1]) * run == rise * (counts[level] - counts[1])
    assert costs.dense == costs.outside + sum(row[FULL] for row in costs.macs)


@settings(deadline=None)
@given(shape=flux_shapes, grid=st.tuples(numbers, numbers), text=numbers, reference=st.integers(0, 30))
def test_flux(shape: FluxShape, grid: tuple[int, int], text: int, reference: int) -> None:
    costs = flux_costs(shape, grid, text, reference)
    assert len(costs.sublayers) == 2 * shape.depth + shape.depth_single == len(costs.macs)
    check_levels(costs, math.prod(grid))
    # inside the attention, tokens of reference pictures cost what text tokens do
    merged = flux_costs(shape, grid, text + reference)
    for name, row, other in zip(costs.sublayers, costs.macs, merged.macs, strict=True):
        assert row == other or name.endswith(".mlp")
    # so do they in an MLP, whichever of the two streams it belongs to
    own = costs.dense - shape.hidden_size * (reference * (shape.inputs + shape.outputs) + text * shape.context)
    same = merged.dense - shape.hidden_size * (text + reference) * shape.context
    assert own == same


@settings(deadline=None)
@given(shape=wan_shapes, tokens=st.integers(1, 500), text=numbers)
def test_wan(shape: WanShape, tokens: int, text: int) -> None:
    costs = wan_costs(shape, tokens, text)
    assert len(costs.sublayers) == 3 * shape.depth == len(costs.macs)
    check_levels(costs, tokens)


def test_a_block_of_wan_by_hand() -> None:
    """4 tokens of width 2 read 3 text tokens; at half, 2 tokens are computed."""
    attention, cross, mlp = wan_costs(WanShape(2, 5, 1, 1, 1, 1), 4, 3).macs
    assert attention[2] == 4 * 2 * 4 + 2 * 2 * 4 + 2 * 4 * 2 * 2  # keys and values; queries and output; both products
    assert cross[2] == 2 * 2 * 4 + 3 * 2 * 4 + 2 * 3 * 2 * 2
    assert mlp[2] == 2 * 2 * 2 * 5


def test_a_block_of_flux_by_hand() -> None:
    """4 image tokens and 1 text token of width 2; at a quarter, 1 of the image's is computed."""
    shape = FluxShape(2, 5, 1, 1, 1, 1, 1, 1, True)
    attention, mlp, block = flux_costs(shape, (2, 2), 1).macs
    assert attention[1] == 5 * 3 * 4 + 2 * 5 * 2 * 2 + 2 * 4
    assert mlp[1] == 2 * 2 * 5
    assert block[1] == 5 * 2 * (6 + 5) + 2 * 5 * 2 * 2 + 2 * (2 + 5) * 2


@pytest.mark.parametrize(("rows", "itemsize"), [(1, 2), (4, 4)])
def test_memory(rows: int, itemsize: int) -> None:
    """FLUX keeps the text with the attention that makes it; Wan keeps its tokens alone."""
    found = flux_bytes(FLUX_DEV, (64, 64), 512, rows, itemsize, ["double.0.self", "double.0.mlp", "single.7.block"])
    one = 3072 * rows * itemsize
    assert found == {"double.0.self": 4608 * one, "double.0.mlp": 4096 * one, "single.7.block": 4608 * one}
    assert wan_bytes(WAN_1B, 9 * 30 * 52, rows, itemsize, ["3.cross"]) == {"3.cross": 14040 * 1536 * rows * itemsize}
