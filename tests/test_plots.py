"""The drawings of schedules: every kind can be drawn, at any size, and shows what it should."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from sparsedit_core.canvas import COLOURS
from sparsedit_core.plots import draw_schedule, draw_schedules
from sparsedit_core.schedule import PRESETS, PruningSchedule
from sparsedit_core.schedule_cost import even_times

SCHEDULES = {
    "paper": PRESETS["512 fast"],
    "exact": PruningSchedule(0.96, 0.2, levels=None, curve="cosine", hold="clean"),
    "windowed": PruningSchedule(0.9, 0.3, start=0.2, end=0.8, curve="steps"),
    "custom": PruningSchedule(0.9, 0.3, curve="custom", points=((0.3, 0.8), (0.6, 0.4))),
    "constant": PruningSchedule(0.0, 0.0),
}


def pixels_of(image: Image.Image, colour: str) -> int:
    """How many pixels are nearly of this colour."""
    distance = np.abs(np.asarray(image, dtype=int) - ImageColor.getrgb(colour)).max(axis=-1)
    return int((distance < 24).sum())


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dense", [(16, 16), (64, 40), (3, 50), (1, 1)])
def test_every_schedule_can_be_drawn(name: str, dense: tuple[int, int]) -> None:
    image = draw_schedule(SCHEDULES[name], dense, title=name, times=even_times(8))
    assert image.size == (900, 420)
    assert image.mode == "RGB"
    assert pixels_of(image, COLOURS[0]) > 800  # the step line crosses the whole picture
    assert pixels_of(image, COLOURS[1]) > 8 * 15  # eight evaluations


def test_schedules_are_drawn_together_in_their_colours() -> None:
    image = draw_schedules(SCHEDULES, (32, 32), size=(1200, 500))
    assert image.size == (1200, 500)
    for colour in COLOURS[: len(SCHEDULES)]:
        assert pixels_of(image, colour) > 300
    with pytest.raises(ValueError, match="at least one"):
        draw_schedules({}, (16, 16))


def test_small_sizes_and_long_titles_fit() -> None:
    image = draw_schedule(PRESETS["256 fast"], (16, 16), title="a very long title " * 20, size=(420, 260))
    right_margin = np.asarray(image)[:, -6:]
    assert (right_margin == 255).all()
