"""The picture of a plan: every cell has its level's colour, every bar the height of its share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from sparsedit_core.cache.costs import Costs
from sparsedit_core.cache.costs_flux import FluxShape, flux_names
from sparsedit_core.cache.draw import (
    BAND,
    BOTTOM,
    GAP,
    LEFT,
    MACS,
    RIGHT,
    SHADES,
    TOP,
    draw_plan,
    groups_of,
    step_shares,
)
from sparsedit_core.cache.plan import FULL, CachePlan
from sparsedit_core.canvas import tint

FLUX = flux_names(FluxShape(64, 256, 19, 38, 64, 64, 64, 64, False))


def names_of(kinds: tuple[str, ...], blocks: int) -> tuple[str, ...]:
    return tuple(f"{block}.{kind}" for block in range(blocks) for kind in kinds)


def plan_of(names: tuple[str, ...], steps: int) -> CachePlan:
    table = np.random.default_rng(steps).integers(0, FULL + 1, (steps, len(names)))
    table[0] = FULL
    times = tuple(1 - i / steps for i in range(steps))
    return CachePlan("dit", times, names, tuple(map(tuple, table.tolist())))


def near(pixels: np.ndarray, colour: str) -> np.ndarray:
    return np.abs(pixels.astype(int) - ImageColor.getrgb(colour)).max(axis=-1) < 12


def levels_seen(picture: Image.Image, plan: CachePlan) -> np.ndarray:
    """[step, sub-layer] the level whose colour is nearest to that in the middle of each cell."""
    pixels, shades = np.asarray(picture, int), np.array([ImageColor.getrgb(shade) for shade in SHADES])
    groups, (width, height), steps = groups_of(plan.sublayers), picture.size, len(plan.times)
    upper, row = TOP + BAND + 14, height - BOTTOM - TOP - BAND - 14 - GAP * (len(groups) - 1)
    row /= len(plan.sublayers)
    x = (LEFT + (np.arange(steps) + 0.5) * (width - LEFT - RIGHT) / steps).astype(int)
    seen = np.zeros((steps, len(plan.sublayers)), int)
    place = 0
    for number, group in enumerate(groups):
        for member in group.members:
            found = pixels[int(upper + GAP * number + (place + 0.5) * row), x]
            seen[:, member] = np.abs(found[:, None] - shades).sum(axis=2).argmin(axis=1)
            place += 1
    return seen


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (names_of(("self", "mlp"), 10), 20),
        (names_of(("self", "cross", "mlp"), 10), 20),
        (names_of(("self", "cross", "mlp"), 40), 50),
        (FLUX, 4),
    ],
)
def test_every_cell_has_the_colour_of_its_level(names: tuple[str, ...], steps: int) -> None:
    plan = plan_of(names, steps)
    assert (levels_seen(draw_plan(plan), plan) == np.array(plan.table)).all()


def test_bars_are_as_tall_as_the_macs_of_their_step() -> None:
    costs = Costs(("0.self", "0.mlp"), ((0, 55, 70, 85, 100), (0, 30, 60, 90, 120)), outside=11)
    plan = CachePlan("dit", (1.0, 0.75, 0.5, 0.25), costs.sublayers, ((4, 4), (0, 2), (4, 0), (0, 0)), 0.6)
    assert step_shares(plan, costs) == [1.0, 71 / 231, 111 / 231, 11 / 231]
    assert step_shares(plan) == [1.0, 0.25, 0.5, 0.0]
    pixels = np.asarray(draw_plan(plan, costs))
    heights = []
    for step in range(4):
        x = round(LEFT + (step + 0.5) * (900 - LEFT - RIGHT) / 4)
        heights.append(int(near(pixels[90:180, x - 12], tint(MACS, 0.75)).sum()))
    for height, share in zip(heights[1:], step_shares(plan, costs)[1:], strict=True):
        assert abs(height - share * heights[0]) <= 2


def test_rows_are_grouped_by_stream_and_kind() -> None:
    assert groups_of(("0.self", "0.mlp", "1.self", "1.mlp")) == [("self-attention", (0, 2)), ("MLP", (1, 3))]
    assert [(title, len(members)) for title, members in groups_of(FLUX)] == [
        ("double self-attention", 19), ("double MLP", 19), ("single whole block", 38),
    ]
    assert groups_of(("0.odd",)) == [("odd", (0,))]


def test_a_plan_of_one_step_and_another_size_can_be_drawn() -> None:
    picture = draw_plan(plan_of(("0.mlp",), 1), size=(500, 380))
    assert picture.size == (500, 380)
    assert near(np.asarray(picture), SHADES[FULL]).sum() > 0.9 * (500 - LEFT - RIGHT) * (380 - TOP - BAND - 14 - BOTTOM)


def test_a_plan_without_numbered_blocks_can_be_drawn() -> None:
    draw_plan(CachePlan("other", (1.0, 0.5), ("middle", "a.b.c"), ((4, 4), (0, 1))))


def test_costs_of_another_model_are_refused() -> None:
    costs = Costs(("0.mlp",), ((0, 1, 2, 3, 4),), 0)
    with pytest.raises(ValueError, match="costs of the plan's model"):
        draw_plan(plan_of(("0.self",), 2), costs)
