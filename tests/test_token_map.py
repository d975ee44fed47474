"""The token map: the cells are the method's own pooling, the panels the run's own evaluations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sparsedit_core.canvas import COLOURS
from sparsedit_core.run_record import RunRecord, measure
from sparsedit_core.token_map import (
    HEAD,
    MARGIN,
    SHOWN,
    SIDE,
    borders,
    cells,
    draw_token_map,
    nearest,
    parse_times,
    preview_colours,
)
from sparsedit_core.tokens import upsample

SPARSE = tiny.config("1+1x[1,1,1,0]+1")


def run_of(times, grids=None, *, config=SPARSE, dense=(8, 8), skipped=()):
    grids = grids or [(2, 2)] * len(times)
    rows = tuple(
        measure(config, time, 999 * time, dense, grid, 1, 0 if number in skipped else 1, 1.0)
        for number, (time, grid) in enumerate(zip(times, grids, strict=True))
    )
    return RunRecord("a file.safetensors", config, None, rows, 1.0)


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_cells_are_adaptive_pooling_and_nearest_upsampling(rows, columns, data):
    sparse = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    factor = data.draw(st.integers(1, 4))
    images = torch.rand(2, 3, rows * factor, columns * factor)
    tokens = F.avg_pool2d(images, factor)
    wanted = F.interpolate(F.adaptive_avg_pool2d(tokens, sparse), size=(rows, columns), mode="nearest")
    if sparse == (rows, columns):
        wanted = tokens
    torch.testing.assert_close(cells(images, (rows, columns), sparse), wanted)


@given(st.integers(1, 64), st.data())
def test_borders_are_where_upsampled_tokens_change(dense, data):
    sparse = data.draw(st.integers(1, dense))
    column = upsample(torch.arange(sparse).float().view(1, sparse, 1), (sparse, 1), (dense, 1)).flatten()
    assert borders(dense, sparse) == [i for i in range(1, dense) if column[i] != column[i - 1]]
    assert len(borders(dense, sparse)) == sparse - 1


def test_the_nearest_evaluations_each_once_and_in_order():
    run = run_of([1.0, 0.9, 0.4, 0.1])
    assert nearest(run, (0.0, 1.0, 0.5, 0.55)) == [0, 2, 3]
    assert nearest(run, (0.7,)) == [1]
    assert nearest(run_of([1.0, 0.5, 0.0], skipped=(1,)), (1.0, 0.6)) == [0]
    with pytest.raises(ValueError, match="no evaluation"):
        nearest(run_of([1.0], skipped=(0,)), (1.0,))


def test_times_as_people_write_them():
    assert parse_times("1, 0.75,0.5;\n 0,") == (1.0, 0.75, 0.5, 0.0)
    for text, found in (("1, x", "'x'"), ("1.5", "'1.5'"), ("-0.1", "'-0.1'"), ("nan", "'nan'"), ("", "0 times")):
        with pytest.raises(ValueError, match=found):
            parse_times(text)
    with pytest.raises(ValueError, match="17 times"):
        parse_times("1," * 17)


def test_preview_colours_are_a_linear_map():
    latent = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    colours = preview_colours(latent, [[0.5, 0.0, 1.0], [0.0, 0.5, 3.0]], [0.1, 0.0, 0.0])
    torch.testing.assert_close(colours.flatten(), torch.tensor([0.8, 0.25, 0.0]))
    torch.testing.assert_close(
        preview_colours(latent, [[0.5, 0.0, 1.0], [0.0, 0.5, 3.0]], None).flatten(), torch.tensor([0.75, 0.25, 0.0])
    )


def test_panels_show_each_grid_on_the_picture():
    image = torch.rand(1, 3, 16, 16)
    picture = draw_token_map(run_of([1.0, 0.0], [(1, 1), (8, 8)]), image, (1, 0))
    first, last = (panel_of(picture, index) for index in (0, 1))
    mean = 255 * image.mean(dim=(0, 2, 3)).numpy()
    assert np.abs(first - mean).max() <= 1  # one token: one colour
    tokens = 255 * F.avg_pool2d(image, 2)[0].permute(1, 2, 0).numpy()
    step = SIDE // 8
    assert np.abs(last[step // 2 :: step, step // 2 :: step] - tokens).max() <= 1


def test_lines_stand_at_the_borders():
    picture = draw_token_map(run_of([1.0], [(2, 4)]), torch.ones(1, 3, 32, 32), (1,), style="grid")
    panel = panel_of(picture, 0)
    middle_row, middle_column = panel[SIDE // 4 + 9], panel[:, SIDE // 8 + 9]
    assert [x for x in range(SIDE) if middle_row[x].min() < 200] == [0, 72, 144, 216, 287]
    assert [y for y in range(SIDE) if middle_column[y].min() < 200] == [0, 144, 287]
    assert COLOURS[0] == "#2f6fde"


def panel_of(picture: Image.Image, index: int) -> np.ndarray:
    x = MARGIN + index * (SIDE + 14)
    return np.asarray(picture, dtype=int)[HEAD : HEAD + SIDE, x : x + SIDE]


@pytest.mark.parametrize("style", ["cells", "grid"])
def test_every_shape_and_batch(style):
    times = (1.0, 0.75, 0.5, 0.25, 0.0)
    run = run_of(times, [(1, 1), (3, 2), (5, 3), (9, 5), (9, 5)], dense=(9, 5))
    one = draw_token_map(run, torch.rand(1, 3, 90, 50), times, style=style)
    many = draw_token_map(run, torch.rand(SHOWN + 3, 3, 90, 50), times, style=style, note="latent")
    assert many.width == one.width
    assert many.height - one.height == (SHOWN - 1) * (SIDE + 14)
    dense = run_of([1.0], [None], config=tiny.config(depth=5))
    assert draw_token_map(replace(dense, source="x" * 200), torch.rand(1, 3, 1000, 30), times, style=style).width >= 560


def test_a_style_that_there_is_not():
    with pytest.raises(ValueError, match="cells or grid"):
        draw_token_map(run_of([1.0]), torch.rand(1, 3, 8, 8), (1,), style="dots")
