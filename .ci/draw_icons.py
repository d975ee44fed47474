"""Draws the pack's icon and banner for the registry: ``python .ci/draw_icons.py [FOLDER]``, by default web/images.

One scene in coarse cells at the left (few tokens, early in the sampling) that become fine at the right (all tokens).
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
OVER = 3  # drawn larger and reduced, for smooth corners
GROUND = (18, 24, 38)
SKY = ((28, 34, 84), (88, 62, 150), (226, 112, 122), (255, 190, 110))  # top to horizon
HILLS = (  # base, height, waves, phase and colour, the farthest first
    (0.60, 0.05, 2.3, 0.4, (74, 66, 138)),
    (0.70, 0.06, 1.7, 2.1, (44, 58, 112)),
    (0.82, 0.05, 2.9, 4.0, (24, 42, 80)),
)
SUN, SUN_AT, SUN_RADIUS = (255, 236, 190), (0.70, 0.40), 0.17


def scene(x: float, y: float, wide: float) -> tuple[int, int, int]:
    """Colour at (x, y) in [0, 1]; ``wide`` is width over height, so that the sun is round."""
    for base, height, waves, phase, colour in reversed(HILLS):
        if y > base - height * math.sin(waves * x * math.sqrt(wide) * math.pi + phase):
            return colour
    away = math.hypot((x - SUN_AT[0]) * wide, y - SUN_AT[1])
    if away < SUN_RADIUS:
        return SUN
    at = min(y / 0.62, 0.999) * (len(SKY) - 1)
    low, part = int(at), at - int(at)
    glow = max(0.0, 1 - (away - SUN_RADIUS) / 0.35) ** 2 * 0.45
    sky = (a + (b - a) * part for a, b in zip(SKY[low], SKY[low + 1], strict=True))
    return tuple(round(a + (b - a) * glow) for a, b in zip(sky, SUN, strict=True))  # type: ignore[return-value]


def mean(x: float, y: float, side: float, width: int, height: int) -> tuple[int, int, int]:
    """The scene's mean colour over a cell, as a pooled token sees it."""
    n = 5
    points = ((x + side * (i + 0.5) / n, y + side * (j + 0.5) / n) for i in range(n) for j in range(n))
    colours = [scene(a / width, b / height, width / height) for a, b in points]
    return tuple(round(sum(part) / len(colours)) for part in zip(*colours, strict=True))  # type: ignore[return-value]


def draw(width: int, height: int, columns: list[tuple[int, int]]) -> Image.Image:
    """``columns``: how many columns of cells of which side, from the left; the sides divide the height."""
    picture = Image.new("RGB", (width * OVER, height * OVER), GROUND)
    brush, left = ImageDraw.Draw(picture), 0
    for count, side in columns:
        gap = max(1.0, side * 0.05)
        for column in range(count):
            for top in range(0, height, side):
                x = left + column * side
                box = (x + gap / 2, top + gap / 2, x + side - gap / 2, top + side - gap / 2)
                colour = mean(x, top, side, width, height)
                brush.rounded_rectangle([value * OVER for value in box], side * 0.12 * OVER, colour)
        left += count * side
    if left != width:
        raise ValueError(f"the columns are {left} wide, the picture is {width}; change a count")
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def main(folder: Path) -> None:
    """Write icon.png (400 x 400) and banner.png (21:9)."""
    pictures = {
        "icon": draw(400, 400, [(1, 100), (2, 50), (4, 25), (10, 10)]),
        "banner": draw(1260, 540, [(1, 180), (2, 90), (4, 60), (8, 30), (12, 20), (18, 10)]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        few = picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(folder / f"{name}.png", optimize=True)
        print(f"{name}.png {picture.width} x {picture.height}, {(folder / f'{name}.png').stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "web" / "images")
