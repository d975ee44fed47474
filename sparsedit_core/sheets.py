"""Contact sheets: pictures in rows with a description each, or in a plain grid with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from .canvas import INK, RULE, SOFT, Canvas, text_width

GAP, MARGIN, HEAD = 8, 20, 62
_TITLE, _NOTE, _NAME = 17.0, 13.0, 13.0


@dataclass(frozen=True)
class Row:
    """A line of pictures of one size; ``notes`` are short lines under the ``title``."""

    title: str
    notes: Sequence[str]
    pictures: Sequence[Image.Image]


def to_pictures(images: Tensor, *, zoom: int = 1) -> list[Image.Image]:
    """RGB pictures of (B, 3, H, W) in [-1, 1], enlarged ``zoom`` times without smoothing."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"pictures are (B, 3, H, W), found {tuple(images.shape)}")
    levels = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pictures = [Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()) for image in levels]
    if zoom == 1:
        return pictures
    size = images.shape[-1] * zoom, images.shape[-2] * zoom
    return [picture.resize(size, Image.Resampling.NEAREST) for picture in pictures]


def row_sheet(rows: Sequence[Row], columns: Sequence[str] = (), *, title: str, below: str = "") -> Image.Image:
    """Rows of pictures, each described at its left, the columns named above, a title on top."""
    width, height = rows[0].pictures[0].size
    notes = max(len(row.notes) for row in rows)
    tall = max(height, int(26 + notes * 18)) + 2 * GAP
    words = [(row.title, _TITLE) for row in rows] + [(note, _NOTE) for row in rows for note in row.notes]
    left = MARGIN + int(max(text_width(text, size) for text, size in words)) + 24
    names = [_two_lines(name, width - 6) for name in columns]
    top = HEAD + (17 * max((len(name) for name in names), default=0) + 8 if names else 0)
    count = max(len(row.pictures) for row in rows)
    wide = left + count * (width + GAP) + MARGIN - GAP
    wide = max(wide, MARGIN * 2 + int(max(text_width(title, 22), text_width(below, 13))) + 4)
    canvas = Canvas(wide, top + len(rows) * tall + MARGIN - GAP)
    _heading(canvas, title, below)
    for index, name in enumerate(names):
        for line, text in enumerate(reversed(name)):
            canvas.text((left + index * (width + GAP) + width / 2, top - 4 - 17 * line), text, _NAME, INK, "md")
    for number, row in enumerate(rows):
        y = top + number * tall
        canvas.line(((MARGIN, y), (wide - MARGIN, y)), RULE, 1.0)
        start = y + (tall - 24 - 18 * len(row.notes)) / 2
        canvas.text((MARGIN, start), row.title, _TITLE)
        for line, note in enumerate(row.notes):
            canvas.text((MARGIN, start + 26 + 18 * line), note, _NOTE, SOFT)
    sheet = canvas.image()
    for number, row in enumerate(rows):
        for index, picture in enumerate(row.pictures):
            y = top + number * tall + (tall - height) // 2
            sheet.paste(picture, (left + index * (width + GAP), y))
    return sheet


def grid_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], *, columns: int, title: str, below: str = ""
) -> Image.Image:
    """Pictures of one size in a grid of ``columns``, each with its caption below."""
    width, height = pictures[0].size
    names = [_two_lines(caption, width) for caption in captions]
    under = 17 * max(len(name) for name in names) + 10
    columns = min(columns, len(pictures))
    lines = -(-len(pictures) // columns)
    wide = 2 * MARGIN + columns * (width + GAP) - GAP
    wide = max(wide, MARGIN * 2 + int(max(text_width(title, 22), text_width(below, 13))) + 4)
    canvas = Canvas(wide, HEAD + lines * (height + under) + MARGIN)
    _heading(canvas, title, below)
    corners = []
    for index, name in enumerate(names):
        x = MARGIN + index % columns * (width + GAP)
        y = HEAD + index // columns * (height + under)
        corners.append((x, y))
        for line, text in enumerate(name):
            canvas.text((x + width / 2, y + height + 3 + 17 * line), text, _NAME, INK, "ma")
    sheet = canvas.image()
    for corner, picture in zip(corners, pictures, strict=True):
        sheet.paste(picture, corner)
    return sheet


def _heading(canvas: Canvas, title: str, below: str) -> None:
    canvas.text((MARGIN, 12), title, 22)
    canvas.text((MARGIN, 40), below, 13, SOFT)


def _two_lines(name: str, width: float) -> list[str]:
    """A name as it is, or broken at its spaces where it is wider than its picture."""
    lines = [""]
    for word in name.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, _NAME) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
