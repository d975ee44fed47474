"""The comparison sheet: colours stand for known differences, at the places they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsedit_core.canvas import Canvas
from sparsedit_core.compare_sheet import HEAD, LARGEST, MARGIN, SHOWN, compare_sheet, difference_map
from sparsedit_core.heat import STOPS, heat


def test_colours_of_the_stops_and_between_them():
    steps = len(STOPS) - 1
    wanted = torch.tensor(STOPS).T / 255
    torch.testing.assert_close(heat(torch.linspace(0, 1, steps + 1)), wanted)
    torch.testing.assert_close(heat(torch.tensor([-1.0, 2.0])), wanted[:, [0, -1]])
    torch.testing.assert_close(heat(torch.tensor(0.5 / steps)), (wanted[:, 0] + wanted[:, 1]) / 2)


def test_colours_grow_brighter():
    red, green, blue = heat(torch.linspace(0, 1, 101))
    assert ((0.2126 * red + 0.7152 * green + 0.0722 * blue).diff() > 0).all()


def test_the_map_is_the_mean_difference_of_the_channels():
    images = torch.zeros(2, 3, 4, 5)
    reference = images.clone()
    reference[1, :, 2, 3] = torch.tensor([0.1, 0.2, 0.3])
    colours = difference_map(images, reference, full=0.4)
    torch.testing.assert_close(colours[1, :, 2, 3], torch.tensor(STOPS[2]) / 255)  # 0.2 of 0.4
    assert colours.sum() == colours[1, :, 2, 3].sum()  # black elsewhere


def test_pictures_and_map_stand_side_by_side_unchanged():
    reference = torch.full((1, 3, 300, 260), 100 / 255)
    images = torch.full((1, 3, 300, 260), 151 / 255)
    sheet = np.asarray(compare_sheet(images, reference, [(10.0, 0.5)], full=0.2))
    across = 260 + 14
    for index, wanted in enumerate([(151,) * 3, (100,) * 3, STOPS[-1]]):
        x = MARGIN + index * across
        assert (sheet[HEAD : HEAD + 300, x : x + 260] == wanted).all()
    bar = sheet[HEAD : HEAD + 300, MARGIN + 3 * across]
    assert tuple(bar[0]) == STOPS[-1]
    assert tuple(bar[-1]) == STOPS[0]


@pytest.mark.parametrize(("height", "width"), [(11, 11), (64, 200), (700, 1400), (2000, 20)])
def test_any_size_is_shown_at_a_legible_one(height, width):
    images = torch.rand(1, 3, height, width)
    sheet = compare_sheet(images, images, [(float("inf"), 1.0)], names=("a long name " * 30, ""))
    panel = sheet.height - HEAD - 44, (sheet.width - 2 * MARGIN - 78 - 2 * 14) / 3
    assert 256 <= max(panel) <= LARGEST
    assert (np.asarray(sheet)[:, -8:] == 255).all()


def test_every_pair_is_a_row_with_its_measures_and_the_mean_is_of_all(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(Canvas, "text", lambda self, at, words, *rest, **keywords: told.append(words))
    images = torch.rand(3, 3, 300, 400)
    compare_sheet(images, images, [(10.0, 0.1), (20.0, 0.2), (30.0, 0.6)], names=("sparse", "dense"), full=0.125)
    assert {"sparse", "dense", "difference", "1", "2", "3", "0", "0.0625", "0.125"} <= set(told)
    for words in ("PSNR 10.00 dB, SSIM 0.1000", "PSNR 30.00 dB, SSIM 0.6000", "mean of 3: PSNR 20.00 dB, SSIM 0.3000"):
        assert words in told
    many = torch.zeros(SHOWN + 2, 3, 11, 11)
    told.clear()
    compare_sheet(many, many, [(1.0, 1.0)] * len(many))
    assert str(SHOWN) in told
    assert str(SHOWN + 1) not in told
    assert f"the first {SHOWN} are shown" in told[-1]
