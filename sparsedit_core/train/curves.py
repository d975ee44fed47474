"""The curves of a run: loss, gradient norm and learning rate over the pictures seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from ..canvas import COLOURS, INK, RULE, SOFT, Canvas
from ..plots import round_step

LEFT, RIGHT, TOP, GAP, BOTTOM = 84, 26, 88, 40, 44
PANELS = (("loss", "loss (smoothed)", 200), ("grad_norm", "norm of the gradient", 110), ("rate", "learning rate", 110))


def draw_curves(rows: Sequence[Mapping[str, Any]], *, title: str, width: int = 900) -> Image.Image:
    """A picture of the log's ``rows``, a panel for each of loss, gradient and learning rate; the x axis is pictures.

    Numbers that are none (NaN, infinity, None) leave a gap. ``ValueError`` without rows.
    """
    if not rows:
        raise ValueError("there is no line of a log to draw yet")
    height = TOP + sum(panel[2] for panel in PANELS) + GAP * (len(PANELS) - 1) + BOTTOM
    canvas = Canvas(width, height)
    seen = [float(row["pictures"]) for row in rows]
    canvas.fitted((LEFT, 12), title, width - LEFT - RIGHT, 20)
    last = rows[-1]
    below = f"{last['pictures']} pictures, {last['step']} of {last['steps']} steps, {last['seconds'] / 60:.1f} minutes"
    canvas.fitted((LEFT, 38), f"{below}, loss {last['loss']:.4f}", width - LEFT - RIGHT, 13, SOFT)
    top = float(TOP)
    for index, (name, label, tall) in enumerate(PANELS):
        values = [math.nan if row[name] is None else float(row[name]) for row in rows]
        _panel(canvas, (top, top + tall), seen, values, label, COLOURS[index])
        top += tall + GAP
    for share in (0.0, 0.5, 1.0):
        x = LEFT + share * (width - LEFT - RIGHT)
        words = f"{share * seen[-1]:,.0f}" + (" pictures" if share == 1 else "")
        canvas.text((x, height - BOTTOM + 8), words, 12, SOFT, {0.0: "la", 1.0: "ra"}.get(share, "ma"))
    return canvas.image()


def _panel(
    canvas: Canvas, rows: tuple[float, float], seen: Sequence[float], values: Sequence[float], label: str, colour: str
) -> None:
    """One curve with its own scale: from zero, logarithmic where the values span more than a factor of 30."""
    upper, lower = rows
    finite = [value for value in values if math.isfinite(value)]
    positive = [value for value in finite if value > 0]
    canvas.text((LEFT, upper - 18), label, 13, INK)
    logarithmic = bool(positive) and len(positive) == len(finite) and max(positive) > 30 * min(positive)
    low = math.log10(min(positive)) if logarithmic else 0.0
    high = math.log10(max(positive)) if logarithmic else 1.05 * max(positive, default=1.0)
    span = high - low or 1.0
    if logarithmic:  # both ends and the powers of ten that lie apart from them
        inner = [float(power) for power in range(math.ceil(low), math.floor(high) + 1)]
        ticks = [low, *(power for power in inner if low + 0.15 * span < power < high - 0.15 * span), high]
    else:
        step = round_step(span / 3)
        ticks = [step * index for index in range(math.floor(span / step) + 1)]
    for value in ticks:
        y = lower - (value - low) / span * (lower - upper)
        canvas.line(((LEFT, y), (canvas.width - RIGHT, y)), RULE if value > low else SOFT, 1.0)
        canvas.text((LEFT - 8, y), f"{10**value if logarithmic else value:.3g}", 12, SOFT, "rm")
    wide, piece = canvas.width - LEFT - RIGHT, []
    for place, value in zip([*seen, 0.0], [*values, math.nan], strict=True):
        if math.isfinite(value) and (value > 0 or not logarithmic):
            shown = math.log10(value) if logarithmic else value
            share = min(max((shown - low) / span, 0.0), 1.0)
            piece.append((LEFT + wide * place / max(seen[-1], 1.0), lower - share * (lower - upper)))
        elif piece:
            if len(piece) > 1:
                canvas.line(piece, colour, 2.0)
            canvas.dot(piece[-1], 2.5, colour)
            piece = []
