"""A small drawing surface: coordinates in final pixels, drawn at twice the size so that edges come out smooth."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

INK, SOFT, RULE, PAPER = "#1f2933", "#66727f", "#e3e7ec", "#ffffff"
COLOURS = ("#2f6fde", "#e0722f", "#2a9d6f", "#9b51c4", "#c93a57", "#50606f")
SCALE = 2

Point = tuple[float, float]


class Canvas:
    """A white picture of ``width`` x ``height`` pixels; :meth:`image` gives the finished one."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def image(self) -> Image.Image:
        """The picture at its final size."""
        return self._image.resize((self.width, self.height), Image.Resampling.LANCZOS)

    def line(self, points: Sequence[Point], colour: str, width: float = 1.0) -> None:
        """Straight lines through ``points``."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(width * SCALE)), joint="curve")

    def dashes(self, points: Sequence[Point], colour: str, width: float = 1.0) -> None:
        """Every other piece of a finely sampled curve."""
        for a, b in zip(points[::2], points[1::2], strict=False):
            self.line((a, b), colour, width)

    def box(self, a: Point, b: Point, fill: str | None = None, edge: str | None = None) -> None:
        """A rectangle from corner ``a`` (left, top) to ``b``."""
        (x0, y0), (x1, y1) = a, b
        if x1 > x0 and y1 > y0:
            self._draw.rectangle((x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE), fill=fill, outline=edge)

    def dot(self, centre: Point, radius: float, colour: str) -> None:
        """A filled circle with a white rim."""
        for r, fill in ((radius + 1.0, PAPER), (radius, colour)):
            box = [(centre[0] - r) * SCALE, (centre[1] - r) * SCALE, (centre[0] + r) * SCALE, (centre[1] + r) * SCALE]
            self._draw.ellipse(box, fill=fill)

    def text(
        self, at: Point, words: str, size: float = 14, colour: str = INK, anchor: str = "la", *, halo: bool = False
    ) -> None:
        """Words at a point; ``anchor`` is Pillow's: horizontal l m r, vertical a (top) m s (baseline) d (bottom).

        ``halo`` puts a white rim around them, so that they can stand on lines.
        """
        self._draw.text(
            (at[0] * SCALE, at[1] * SCALE),
            words,
            fill=colour,
            font=_font(size),
            anchor=anchor,
            stroke_width=2 * SCALE if halo else 0,
            stroke_fill=PAPER,
        )

    def fitted(self, at: Point, words: str, width: float, size: float = 14, colour: str = INK) -> None:
        """Words from a point (left, top), shortened with dots where they are longer than ``width``."""
        while len(words) > 4 and text_width(words, size) > width:
            words = words[:-4].rstrip() + "..."
        self.text(at, words, size, colour)


def text_width(words: str, size: float = 14) -> float:
    """Width of words in final pixels."""
    return float(_font(size).getlength(words)) / SCALE


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)  # Pillow's own font: the same on every system


def tint(colour: str, strength: float) -> str:
    """``colour`` mixed with white; strength 1 is the colour itself."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - part) * strength):02x}" for part in parts)
