"""A sheet of two batches of pictures side by side, with a map of where they differ and how much."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from .canvas import INK, RULE, SOFT, Canvas
from .heat import heat
from .sheets import to_pictures

SHOWN = 16
"""Rows of a sheet; further pictures are only counted."""
SMALLEST, LARGEST = 256, 512
"""Pixels of a panel's longer side: smaller pictures are enlarged in whole steps, larger ones reduced."""
MARGIN, GAP, HEAD, UNDER, BAR = 20, 14, 56, 36, 78


def difference_map(images: Tensor, reference: Tensor, full: float) -> Tensor:
    """Mean absolute difference of red, green and blue as colours (B, 3, H, W) in 0..1; ``full`` is the brightest.

    images, reference: (B, 3, H, W) in 0..1.
    """
    return heat((images.float() - reference.float()).abs().mean(dim=1) / full).movedim(0, 1)


def compare_sheet(
    images: Tensor,
    reference: Tensor,
    measures: Sequence[tuple[float, float]],
    *,
    names: tuple[str, str] = ("images", "reference"),
    full: float = 0.25,
) -> Image.Image:
    """A row for each pair: both pictures, the difference, a colour bar from 0 to ``full``, PSNR and SSIM below.

    images, reference: (B, 3, H, W) in 0..1; ``measures`` are PSNR in dB and SSIM of each. The first ``SHOWN`` pairs.
    """
    shown = min(len(images), SHOWN)
    batches = [images[:shown], reference[:shown], difference_map(images[:shown], reference[:shown], full)]
    columns = [_panels(batch) for batch in batches]
    width, height = columns[0][0].size
    across = width + GAP
    below = _mean(measures, len(images)) if len(images) > 1 else ""
    wide = 2 * MARGIN + 3 * across - GAP + BAR
    canvas = Canvas(wide, HEAD + shown * (height + UNDER) + (40 if below else 8))
    for index, name in enumerate((*names, "difference")):
        canvas.fitted((MARGIN + index * across, 18), name, width, 22, INK)
    right = MARGIN + 3 * across
    for row in range(shown):
        y = HEAD + row * (height + UNDER)
        number = f"{row + 1}" if len(images) > 1 else ""
        canvas.text((MARGIN, y + height + 5), number, 18, SOFT)
        told = measure_words(*measures[row])
        canvas.fitted((MARGIN + 2 * across, y + height + 5), told, width + BAR, 18, INK)
        for part, words in ((0.0, "0"), (0.5, f"{full / 2:.3g}"), (1.0, f"{full:.3g}")):
            at = y + (1 - part) * (height - 1)
            canvas.line(((right + 18, at), (right + 23, at)), SOFT)
            anchor = {0.0: "ld", 1.0: "la"}.get(part, "lm")
            canvas.text((right + 27, at), words, 16, SOFT, anchor)
    if below:
        y = canvas.height - 36
        canvas.line(((MARGIN, y), (wide - MARGIN, y)), RULE)
        canvas.fitted((MARGIN, y + 8), below, wide - 2 * MARGIN, 18, INK)
    sheet = canvas.image()
    for row in range(shown):
        y = HEAD + row * (height + UNDER)
        for index, column in enumerate(columns):
            sheet.paste(column[row], (MARGIN + index * across, y))
        sheet.paste(_bar(18, height), (right, y))
    return sheet


def measure_words(noise: float, structure: float) -> str:
    """``PSNR 20.00 dB, SSIM 0.9832``."""
    return f"PSNR {noise:.2f} dB, SSIM {structure:.4f}"


def _mean(measures: Sequence[tuple[float, float]], count: int) -> str:
    noise, structure = (sum(column) / len(measures) for column in zip(*measures, strict=True))
    more = f";  the first {SHOWN} are shown" if count > SHOWN else ""
    return f"mean of {count}: {measure_words(noise, structure)}{more}"


def _panels(batch: Tensor) -> list[Image.Image]:
    longer = max(batch.shape[-2:])
    pictures = to_pictures(batch * 2 - 1, zoom=max(1, -(-SMALLEST // longer)))
    if longer <= LARGEST:
        return pictures
    size = (max(1, round(batch.shape[-1] * LARGEST / longer)), max(1, round(batch.shape[-2] * LARGEST / longer)))
    return [picture.resize(size, Image.Resampling.BOX) for picture in pictures]


def _bar(width: int, height: int) -> Image.Image:
    """The colours from full (top) to 0."""
    column = heat(torch.linspace(1, 0, height))[None, :, :, None].expand(1, 3, height, width)
    return to_pictures(column * 2 - 1)[0]
