"""The drawing of a run: bars as tall as what they stand for, and every kind of run can be drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import tiny_pixart
from PIL import Image, ImageColor

from sparsedit_core.canvas import Canvas, text_width
from sparsedit_core.measured import Speedup
from sparsedit_core.plots_run import LEFT, RIGHT, SECONDS, TOKENS, WARM_UP, draw_run, scale
from sparsedit_core.run_record import RunRecord, measure

SPARSE = tiny.config("1+1x[1,1,1,0]+1")
UPPER, LOWER = 226, 388.4  # the panel of shares


def run_of(grids, seconds, *, config=SPARSE, dense=(8, 8), skipped=()):
    count = len(grids)
    rows = tuple(
        measure(config, 1 - i / max(count, 1), 500.0, dense, grid, 2, 0 if i in skipped else 2, seconds[i])
        for i, grid in enumerate(grids)
    )
    return RunRecord("a file.safetensors", config, None, rows, sum(seconds), "float32 on cpu")


def column(picture: Image.Image, number: int, count: int, colour: str) -> int:
    """How many pixels of a colour an evaluation's middle column has, below the figures and the legends."""
    x = round(LEFT + (number + 0.5) * (picture.width - LEFT - RIGHT) / count)
    near = np.abs(np.asarray(picture, dtype=int)[210:, x] - ImageColor.getrgb(colour)).max(axis=-1) < 8
    return int(near.sum())


def test_bars_of_tokens_are_as_tall_as_their_share():
    grids = [(2, 2), (4, 4), (6, 6), (8, 8)]
    picture = draw_run(run_of(grids, [1.0] * 4))
    for number, (rows, columns) in enumerate(grids):
        wanted = rows * columns / 64 * (LOWER - UPPER)
        assert abs(column(picture, number, 4, TOKENS) - wanted) < 8  # rules, the MACs' line and its rim cross it


def test_bars_of_seconds_are_as_tall_as_they_lasted():
    picture = draw_run(run_of([(4, 4)] * 3, [1.0, 2.0, 1.0]))
    first, second, third = (column(picture, i, 3, colour) for i, colour in enumerate((WARM_UP, SECONDS, SECONDS)))
    assert abs(second - 2 * third) < 6
    assert abs(first - third) < 6


def test_skipped_evaluations_have_no_bar():
    picture = draw_run(run_of([(4, 4)] * 5, [1.0] * 5, skipped=(2,)))
    assert [column(picture, number, 5, TOKENS) > 0 for number in range(5)] == [True, True, False, True, True]


def test_the_scale_leaves_out_what_stands_far_out():
    assert scale([60.0, 1.0, 2.0, 1.5]) == 2.0
    assert scale([5.0, 2.0, 2.0]) == 5.0  # within four medians
    assert scale([60.0, 1.0, 90.0, 1.0], 3.0) == 3.0
    assert scale([7.0]) == 7.0
    assert scale([0.0, 0.0]) > 0
    assert scale([]) > 0


@pytest.mark.parametrize("count", [0, 1, 2, 4, 20, 50, 250])
def test_any_number_of_evaluations(count):
    seconds = [9.0, *[0.1 * (1 + number % 3) for number in range(1, count)]][:count]
    run = run_of([(4, 4)] * count, seconds)
    picture = draw_run(run)
    assert picture.size == (900, 600)
    assert (np.asarray(picture)[:, -8:] == 255).all()  # nothing runs out of the margin
    assert np.array_equal(np.asarray(draw_run(run)), np.asarray(picture))


def test_all_kinds_of_models():
    dense = run_of([None] * 3, [1.0] * 3, config=tiny.config(depth=5))
    pixart = run_of([(2, 2)] * 3, [1.0] * 3, config=tiny_pixart.config("1+1x[1,1,1,0]+1"), dense=(5, 3))
    every = run_of([(2, 2)] * 3, [1.0] * 3, skipped=(0, 1, 2))
    for run in (dense, pixart, every, replace(dense, source="a long name " * 30, seconds=123456.0)):
        assert draw_run(run).size == (900, 600)


def test_the_measured_figure_is_told_where_there_is_one(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(Canvas, "text", lambda self, at, words, *rest, **keywords: told.append(words))
    run = run_of([(2, 2)] * 3, [1.0] * 3)
    dense = replace(run_of([None] * 3, [3.0, 2.0, 2.0], config=tiny.config(depth=5)), source="dense.pt")
    draw_run(run)
    assert "upper estimate of the speed-up" in told
    assert not any("measured" in words for words in told)
    told.clear()
    draw_run(run, against=Speedup(2.0, dense))
    assert {"2.00x", "faster than the dense run", "measured: dense.pt", "the dense run: 2 s"} <= set(told)
    assert not any("estimate" in words for words in told)
    assert all(text_width(words, 16) < 900 for words in told)
