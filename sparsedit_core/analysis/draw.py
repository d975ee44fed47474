"""Pictures of an analysis: heat maps of blocks against times, and the curves of the toy experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..canvas import COLOURS, INK, PAPER, RULE, SOFT, Canvas, text_width, tint
from ..plots import round_step

CELL_WIDTH, CELL_HEIGHT = 58, 26
LABELS, GAP, UPPER, LOWER = 118, 34, 98, 52


@dataclass(frozen=True)
class HeatMap:
    """Values [block][time] with a title and a line that says what they mean; colours go from white at ``empty`` to
    the darkest at ``full``, which may be the smaller of the two."""

    title: str
    meaning: str
    values: Sequence[Sequence[float]]
    empty: float = 0.0
    full: float = 1.0

    def strength(self, value: float) -> float:
        """The colour of a value, 0 white .. 1; ``empty`` and ``full`` differ."""
        return min(max((value - self.empty) / (self.full - self.empty), 0.0), 1.0)


def draw_heat_maps(title: str, blocks: Sequence[str], times: Sequence[float], maps: Sequence[HeatMap]) -> Image.Image:
    """Heat maps side by side, as an RGB image: a row for each block, a column for each time, the value in every cell.

    ``blocks`` names the rows. ``ValueError`` where there is no map.
    """
    if not maps:
        raise ValueError("there is no heat map to draw; give at least one")
    panel = max(
        CELL_WIDTH * len(times),
        *(round(text_width(heat.title, 15)) + 4 for heat in maps),
        *(round(text_width(heat.meaning, 12)) + 4 for heat in maps),
    )
    width = LABELS + len(maps) * (panel + GAP)
    canvas = Canvas(max(width, LABELS + round(text_width(title, 20)) + GAP), UPPER + CELL_HEIGHT * len(blocks) + LOWER)
    canvas.text((24, 14), title, 20)
    canvas.text((LABELS - 12, UPPER - 10), "block", 12, SOFT, "rd")
    for row, name in enumerate(blocks):
        canvas.text((LABELS - 12, UPPER + CELL_HEIGHT * (row + 0.5)), name, 13, INK, "rm")
    for number, heat in enumerate(maps):
        _panel(canvas, LABELS + number * (panel + GAP), panel, times, heat)
    return canvas.image()


def _panel(canvas: Canvas, left: float, width: float, times: Sequence[float], heat: HeatMap) -> None:
    canvas.text((left, UPPER - 46), heat.title, 15)
    canvas.text((left, UPPER - 26), heat.meaning, 12, SOFT)
    step = width / len(times)
    for row, values in enumerate(heat.values):
        y = UPPER + CELL_HEIGHT * row
        for column, value in enumerate(values):
            x = left + step * column
            strength = heat.strength(value)
            canvas.box((x, y), (x + step - 1, y + CELL_HEIGHT - 1), tint(COLOURS[0], strength), RULE)
            colour = PAPER if strength > 0.6 else INK
            canvas.text((x + step / 2, y + CELL_HEIGHT / 2), f"{value:.2f}", 12, colour, "mm")
    under = UPPER + CELL_HEIGHT * len(heat.values)
    for column, time in enumerate(times):
        canvas.text((left + step * (column + 0.5), under + 6), f"{time:.3g}", 12, SOFT, "ma")
    canvas.text((left + width / 2, under + 26), "diffusion time, 1 noise to 0 image", 12, SOFT, "ma")


def draw_toy(
    title: str, times: Sequence[float], first: Sequence[Sequence[float]], single: Sequence[Sequence[float]]
) -> Image.Image:
    """The toy experiment, as an RGB image: the prediction's relative change against blocks, a curve for each time.

    ``first`` [time][k], k = 0 .. depth, the first k blocks uniform; ``single`` [time][block] that block alone.
    """
    canvas = Canvas(1040, 460)
    canvas.text((24, 14), title, 20)
    x = 24.0
    for number, time in enumerate(times):
        canvas.line(((x, 56), (x + 20, 56)), _colour(number, len(times)), 3.0)
        words = f"time {time:.3g}"
        canvas.text((x + 26, 56), words, 13, SOFT, "lm")
        x += 50 + text_width(words, 13)
    top = max(0.01, *(value for values in (*first, *single) for value in values))
    _curves(canvas, (74, 520), top, first, "the first k blocks uniform", "k")
    _curves(canvas, (594, 1014), top, single, "one block alone uniform", "block")
    return canvas.image()


def _curves(
    canvas: Canvas,
    across: tuple[float, float],
    top: float,
    curves: Sequence[Sequence[float]],
    title: str,
    axis: str,
) -> None:
    """One set of axes between the pixels ``across``; ``top`` is the highest value to show."""
    (left, right), (upper, lower) = across, (112, 402)
    count = len(curves[0])
    step = round_step(top / 5)
    ticks = int(top / step + 0.999)
    high = step * max(ticks, 1)

    def at(number: float, value: float) -> tuple[float, float]:
        share = number / max(count - 1, 1)
        return left + 10 + share * (right - left - 20), lower - value / high * (lower - upper)

    canvas.text((left, upper - 28), title, 15)
    for tick in range(ticks + 1):
        y = at(0, step * tick)[1]
        canvas.line(((left, y), (right, y)), RULE if tick else SOFT, 1.0)
        canvas.text((left - 8, y), f"{100 * step * tick:.3g} %", 12, SOFT, "rm")
    every = -(-count // 16)
    for number in range(0, count, every):
        x = at(number, 0)[0]
        canvas.line(((x, lower), (x, lower + 4)), SOFT, 1.0)
        canvas.text((x, lower + 8), str(number), 12, SOFT, "ma")
    canvas.text(((left + right) / 2, lower + 28), f"{axis}; change of the prediction, of its norm", 12, SOFT, "ma")
    for number, values in enumerate(curves):
        colour = _colour(number, len(curves))
        points = [at(place, value) for place, value in enumerate(values)]
        canvas.line(points, colour, 2.0)
        for point in points:
            canvas.dot(point, 2.4, colour)


def _colour(number: int, count: int) -> str:
    """From blue for the first curve to orange for the last."""
    share = number / max(count - 1, 1)
    ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS[:2]]
    return "#" + "".join(f"{round((1 - share) * a + share * b):02x}" for a, b in zip(*ends, strict=True))
