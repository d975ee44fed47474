"""The results of a sweep: the sheet of its pictures, a table, plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .canvas import INK, RULE, SOFT, Canvas, text_width
from .run_record import RunRecord
from .sheets import GAP, HEAD, MARGIN
from .sweep import Cell, Sweep
from .units import amount

SMALL, LARGE = 176, 384
"""Sides of a picture on the sheet in pixels: smaller ones are enlarged, larger ones made smaller."""
REFERENCE = "dense tokens"
_NAME, _FACT = 13.0, 12.0
_UNDER = 2 * 16 + 14


@dataclass(frozen=True)
class Result:
    """What one cell gave; ``cell`` is ``None`` for the reference, which keeps every token.

    ``psnr``  of its picture against the reference in dB, infinite where they are equal
    """

    cell: Cell | None
    picture: Image.Image
    run: RunRecord
    psnr: float

    @property
    def seconds(self) -> float:
        """Time in the model, without loading it and without the decoder."""
        return sum(evaluation.seconds for evaluation in self.run.evaluations)

    @property
    def name(self) -> str:
        """The cell's, or the reference's."""
        return self.cell.name if self.cell else REFERENCE

    def facts(self) -> tuple[str, str]:
        """Two lines for under the picture."""
        macs = f"{amount(self.run.macs)}MACs, {100 * self.run.ratio:.0f} % of dense"
        return macs, f"{_seconds(self.seconds)}, {_decibel(self.psnr) if self.cell else 'reference'}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``psnr`` is null where the pictures are equal."""
        place = {"column": self.cell.column, "row": self.cell.row} if self.cell else {}
        psnr = self.psnr if math.isfinite(self.psnr) else None
        return {"name": self.name, **place, "psnr": psnr, "model_seconds": self.seconds, **self.run.to_json()}


def draw_sweep(sweep: Sweep, reference: Result, results: Sequence[Result], *, title: str, below: str) -> Image.Image:
    """The reference at the left, then the rates across and the other axis down, under each picture what it cost."""
    everything = [reference, *results]
    shown = [_resized(result.picture) for result in everything]
    width, height = max(picture.width for picture in shown), max(picture.height for picture in shown)
    words = [fact for result in everything for fact in result.facts()] + [REFERENCE, *sweep.columns]
    width = max(width, int(max(text_width(text, _NAME) for text in words)) + 4)
    middle = MARGIN + width + 14
    left = middle + 14 + int(max(text_width(row, _NAME) for row in sweep.rows)) + 16
    top, tall = HEAD + 28, height + _UNDER
    wide = left + len(sweep.columns) * (width + GAP) - GAP + MARGIN
    wide = max(wide, 2 * MARGIN + int(max(text_width(title, 22), text_width(below, 13))) + 4)
    canvas = Canvas(wide, top + len(sweep.rows) * tall + MARGIN - 14)
    canvas.text((MARGIN, 12), title, 22)
    canvas.text((MARGIN, 40), below, 13, SOFT)
    canvas.line(((middle, HEAD + 8), (middle, canvas.height - MARGIN)), RULE, 1.0)
    places = [(MARGIN, top)]
    for number, row in enumerate(sweep.rows):
        y = top + number * tall
        canvas.text((middle + 14, y + height / 2), row, _NAME, INK, "lm")
        places += [(left + place * (width + GAP), y) for place in range(len(sweep.columns))]
    for (x, _), name in zip(places, (REFERENCE, *sweep.columns), strict=False):
        canvas.text((x + width / 2, top - 8), name, _NAME, INK, "md")
    for (x, y), result in zip(places, everything, strict=True):
        for line, fact in enumerate(result.facts()):
            canvas.text((x + width / 2, y + height + 4 + 16 * line), fact, _FACT, SOFT if line else INK, "ma")
    sheet = canvas.image()
    for (x, y), picture in zip(places, shown, strict=True):
        sheet.paste(picture, (x + (width - picture.width) // 2, y))
    return sheet


def sweep_table(reference: Result, results: Sequence[Result]) -> str:
    """One line per picture: what it cost and how far it is from the reference."""
    everything = [reference, *results]
    longest = max(len(result.name) for result in everything)
    lines = [f"{'':{longest}}       MACs  of dense  seconds     PSNR"]
    for result in everything:
        psnr = _decibel(result.psnr) if result.cell else "-"
        lines.append(
            f"{result.name:{longest}}  {amount(result.run.macs):>9}  {100 * result.run.ratio:6.1f} %  "
            f"{result.seconds:7.3f}  {psnr:>7}"
        )
    return "\n".join(lines)


def sweep_json(reference: Result, results: Sequence[Result]) -> dict[str, Any]:
    """Plain values: all runs as a report has them, the reference first, each with its name and PSNR."""
    return {"runs": [result.to_json() for result in (reference, *results)]}


def _shown(size: tuple[int, int]) -> tuple[int, int]:
    """Size on the sheet: a whole multiple of a small picture, at most ``LARGE`` along the longer side."""
    longer = max(size)
    if longer > LARGE:
        return max(1, round(size[0] * LARGE / longer)), max(1, round(size[1] * LARGE / longer))
    zoom = min(-(-SMALL // size[0]), LARGE // longer)
    return size[0] * zoom, size[1] * zoom


def _resized(picture: Image.Image) -> Image.Image:
    size = _shown(picture.size)
    shrinks = size[0] < picture.width
    return picture.resize(size, Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def _decibel(psnr: float) -> str:
    return f"{psnr:.1f} dB" if math.isfinite(psnr) else "equal"
