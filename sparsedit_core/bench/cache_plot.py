"""The picture of :mod:`.cache`: PSNR to dense against MACs and against seconds, a line for every method."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from ..canvas import COLOURS, INK, RULE, SOFT, Canvas, Point, text_width, tint
from ..plots import round_step
from .cache import CALIBRATED, DENSE, FEWER, FIRST_BLOCK, LEARNED, Row
from .cache_verdict import took

STYLES = {
    LEARNED: (COLOURS[4], 3.4),
    CALIBRATED: (COLOURS[0], 3.4),
    FEWER: (INK, 2.0),
    "uniform": (tint(COLOURS[5], 0.55), 1.6),
    "fora": (COLOURS[2], 1.6),
    "toca": (tint(COLOURS[2], 0.55), 1.6),
    FIRST_BLOCK: (COLOURS[3], 1.6),
    "EasyCache": (COLOURS[1], 1.6),
    "LazyCache": (tint(COLOURS[1], 0.6), 1.6),
}
"""Colour and width of every method's line, in the order of the legend."""
PANEL = (430, 300)
LEFT, RIGHT, TOP, LOWER = 58, 14, 40, 46
"""Room within a panel: for the numbers at the left, at the right, for its title, for the numbers below."""
HEAD = 104


def draw_rows(rows: Sequence[Row]) -> Image.Image:
    """Two panels for every number of steps, MACs and seconds across, the models beside each other.

    ``ValueError`` where nothing but dense sampling was measured.
    """
    shown = [row for row in rows if row.method != DENSE and math.isfinite(row.psnr)]
    if not shown:
        raise ValueError("nothing but dense sampling was measured, so there is nothing to draw; give more samples")
    models = list(dict.fromkeys(row.model for row in shown))
    every = sorted({row.steps for row in shown}, reverse=True)
    canvas = Canvas(2 * PANEL[0] * len(models) + 16, HEAD + PANEL[1] * len(every) + 8)
    _legend(canvas, [method for method in STYLES if any(row.method == method for row in shown)])
    by_processor = all(row.processor is not None for row in shown)
    for column, model in enumerate(models):
        for line, steps in enumerate(every):
            some = [row for row in shown if (row.model, row.steps) == (model, steps)]
            for half, what in enumerate(("MACs", "seconds of the processor" if by_processor else "seconds")):
                corner = 8 + (2 * column + half) * PANEL[0], HEAD + line * PANEL[1]
                panel = Panel(canvas, corner, some, seconds=half == 1)
                panel.frame(f"{model}, {steps} steps" if half == 0 else "", what)
                panel.lines()
    return canvas.image()


class Panel:
    """The rows of one model and number of steps against MACs or against ``seconds``."""

    def __init__(self, canvas: Canvas, corner: tuple[float, float], rows: Sequence[Row], *, seconds: bool) -> None:
        self.canvas, self.rows, self.seconds = canvas, rows, seconds
        self.left, self.right = corner[0] + LEFT, corner[0] + PANEL[0] - RIGHT
        self.upper, self.lower = corner[1] + TOP, corner[1] + PANEL[1] - LOWER
        across, up = [self.share(row) for row in rows], [row.psnr for row in rows]
        self.across = _range(across, 0.1, 0.1)
        self.up = _range(up, 0.5, 2.0)

    def share(self, row: Row) -> float:
        """What a row is drawn at, across."""
        return took(row) if self.seconds else row.macs

    def at(self, share: float, decibels: float) -> Point:
        """Where a value lies."""
        x = (share - self.across[0]) / (self.across[1] - self.across[0])
        y = (decibels - self.up[0]) / (self.up[1] - self.up[0])
        return self.left + x * (self.right - self.left), self.lower - y * (self.lower - self.upper)

    def frame(self, title: str, what: str) -> None:
        """Rules, numbers and words."""
        canvas = self.canvas
        if title:
            canvas.text((self.left, self.upper - 26), title, 17, INK, "lm")
        step = round_step((self.up[1] - self.up[0]) / 6)
        for number in range(math.ceil(self.up[0] / step - 1e-9), math.floor(self.up[1] / step + 1e-9) + 1):
            y = self.at(self.across[0], number * step)[1]
            canvas.line(((self.left, y), (self.right, y)), RULE, 1.0)
            canvas.text((self.left - 7, y), f"{number * step:g}", 12, SOFT, "rm")
        for number in range(math.ceil(self.across[0] * 10 - 1e-9), math.floor(self.across[1] * 10 + 1e-9) + 1):
            x = self.at(number / 10, self.up[0])[0]
            canvas.line(((x, self.upper), (x, self.lower)), RULE, 1.0)
            canvas.text((x, self.lower + 6), f"{10 * number} %", 12, SOFT, "ma")
        canvas.line(((self.left, self.lower), (self.right, self.lower)), SOFT, 1.0)
        canvas.line(((self.left, self.upper), (self.left, self.lower)), SOFT, 1.0)
        words = f"{what}, share of dense"
        canvas.text(((self.left + self.right) / 2, self.lower + 22), words, 13, SOFT, "ma")
        canvas.text((self.left - 7, self.upper - 10), "dB", 12, SOFT, "rm")

    def lines(self) -> None:
        """A line for every method, ours last, on top."""
        for method in reversed(STYLES):
            colour, width = STYLES[method]
            points = sorted(self.at(self.share(row), row.psnr) for row in self.rows if row.method == method)
            if len(points) > 1:
                self.canvas.line(points, colour, width)
            for point in points:
                self.canvas.dot(point, 2.0 + width, colour)


def _range(values: Sequence[float], step: float, least: float) -> tuple[float, float]:
    """Multiples of ``step`` around the values with some room beside them, at least ``least`` apart."""
    room = 0.05 * (max(values) - min(values)) + 0.2 * step
    low = math.floor((min(values) - room) / step) * step
    return low, max(math.ceil((max(values) + room) / step) * step, low + least)


def _legend(canvas: Canvas, methods: Sequence[str]) -> None:
    """What is drawn, and the methods' colours in one line or several."""
    canvas.text((8 + LEFT, 24), "How near the dense pictures: PSNR in dB, higher is nearer", 20, INK, "lm")
    x, y = 8.0 + LEFT, 58.0
    for method in methods:
        colour, width = STYLES[method]
        need = 30 + text_width(method, 14) + 22
        if x + need > canvas.width:
            x, y = 8.0 + LEFT, y + 22
        canvas.line(((x, y), (x + 22, y)), colour, width)
        canvas.dot((x + 11, y), 2.0 + width, colour)
        canvas.text((x + 30, y), method, 14, INK, "lm")
        x += need
