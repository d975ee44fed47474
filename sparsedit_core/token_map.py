"""Pictures of the token grid along a run: what of a picture the sparse blocks tell apart at which time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor

from .canvas import COLOURS, INK, SOFT, Canvas, text_width
from .run_record import Evaluation, RunRecord
from .sheets import to_pictures
from .tokens import Grid, Pooling, upsample

STYLES = ("cells", "grid")
"""How a panel shows its tokens: each as the mean colour of its cell, or as lines over the paled picture."""
SIDE, SHOWN, PANELS = 288, 8, 16
"""Pixels of a panel's longer side, most rows and most panels in a row."""
MARGIN, GAP, HEAD, UNDER = 20, 14, 78, 84


def parse_times(text: str) -> tuple[float, ...]:
    """``"1, 0.5, 0"`` as times; ``ValueError`` where one is no number from 0 (picture) to 1 (noise)."""
    times = []
    for word in text.replace(";", ",").replace("\n", ",").split(","):
        try:
            time = float(word) if word.strip() else None
        except ValueError:
            time = math.nan
        if time is not None and not 0 <= time <= 1:
            raise ValueError(
                f"{word.strip()!r} is no time; give numbers from 1 (noise) to 0 (picture), such as 1, 0.5, 0"
            )
        times += [] if time is None else [time]
    if not 1 <= len(times) <= PANELS:
        raise ValueError(f"there are {len(times)} times; give 1 to {PANELS}, such as 1, 0.75, 0.5, 0.25, 0")
    return tuple(times)


def nearest(run: RunRecord, times: Sequence[float]) -> list[int]:
    """The numbers (from 0) of the evaluations nearest to the ``times``, in order and each once.

    Evaluations that a cache answered had no tokens and are passed over. ``ValueError`` where nothing was computed.
    """
    computed = [number for number, evaluation in enumerate(run.evaluations) if evaluation.macs]
    if not computed:
        raise ValueError("the run computed no evaluation, so there is no token grid to show; sample with more steps")
    return sorted({min(computed, key=lambda n: abs(run.evaluations[n].time - time)) for time in times})


def cells(images: Tensor, dense: Grid, sparse: Grid) -> Tensor:
    """Pictures (B, 3, H, W) as (B, 3, *dense) of what tokens stand for: pooled and spread as the method does it.

    The pixels of each dense token are averaged, those averages pooled to ``sparse``, and these repeated over the
    dense tokens that are given them.
    """
    b, c, h, w = images.shape
    pixels = images.float().flatten(2).mT  # (B, H*W, 3)
    tokens = Pooling((h, w), dense, images.device)(pixels)
    spread = upsample(Pooling(dense, sparse, images.device)(tokens), sparse, dense)
    return spread.mT.reshape(b, c, *dense)


def borders(dense: int, sparse: int) -> list[int]:
    """Where along ``dense`` tokens of a side one of ``sparse`` cells ends and the next begins."""
    numbers = torch.arange(sparse, dtype=torch.float32).reshape(1, sparse, 1)
    owner = upsample(numbers, (sparse, 1), (dense, 1)).flatten().tolist()  # torch rounds some ratios by itself
    return [number for number, (a, b) in enumerate(pairwise(owner), 1) if a != b]


def preview_colours(latent: Tensor, factors: Sequence[Sequence[float]], bias: Sequence[float] | None) -> Tensor:
    """Rough colours (B, 3, H, W) in 0..1 of latents (B, C, H, W) by a linear map (C, 3) to -1..1."""
    matrix = torch.tensor(factors, dtype=torch.float32, device=latent.device)
    offset = torch.tensor(bias if bias is not None else [0.0] * 3, dtype=torch.float32, device=latent.device)
    colours = latent.float().movedim(1, -1) @ matrix + offset
    return ((colours + 1) / 2).clamp(0, 1).movedim(-1, 1)


def draw_token_map(
    run: RunRecord, images: Tensor, times: Sequence[float], *, style: str = "cells", note: str = ""
) -> Image.Image:
    """A panel for each of the run's evaluations nearest to ``times``, noise first, and a row for each picture.

    images: (B, 3, H, W) in 0..1, the first ``SHOWN`` of them; ``style`` is one of ``STYLES``, ``note`` a word on where
    the pictures come from. Below each panel: time, grid and tokens, share of the dense model's MACs.
    """
    if style not in STYLES:
        raise ValueError(f"style is {style!r}; choose {' or '.join(STYLES)}")
    numbers, rows = nearest(run, times), min(len(images), SHOWN)
    size = _panel_size(images.shape[-2], images.shape[-1])
    across = max(size[0], 224) + GAP
    wide = max(2 * MARGIN + len(numbers) * across - GAP, 560)
    canvas = Canvas(wide, HEAD + rows * (size[1] + GAP) - GAP + UNDER)
    canvas.fitted((MARGIN, 12), run.source, wide - 2 * MARGIN, 24)
    what = "each cell is a token of the sparse blocks" if run.layout else "each cell is a token; a dense model"
    if len(images) > SHOWN:
        note = f"{note}; the first {SHOWN} of {len(images)}".removeprefix("; ")
    canvas.fitted((MARGIN, 44), what + (f" ({note})" if note else ""), wide - 2 * MARGIN, 17, SOFT)
    corners = [MARGIN + index * across for index in range(len(numbers))]
    for x, number in zip(corners, numbers, strict=True):
        _caption(canvas, (x, canvas.height - UNDER + 8), number, run)
    sheet = canvas.image()
    for x, number in zip(corners, numbers, strict=True):
        for row, panel in enumerate(_panels(images[:rows], run.evaluations[number], style, size)):
            sheet.paste(panel, (x, HEAD + row * (size[1] + GAP)))
    return sheet


def _panels(images: Tensor, evaluation: Evaluation, style: str, size: tuple[int, int]) -> list[Image.Image]:
    dense, sparse = evaluation.dense, evaluation.sparse or evaluation.dense
    if style == "cells":
        pictures = to_pictures(cells(images, dense, sparse) * 2 - 1)
        return [picture.resize(size, Image.Resampling.NEAREST) for picture in pictures]
    return [_lined(picture, dense, sparse, size) for picture in to_pictures(images * 2 - 1)]


def _lined(picture: Image.Image, dense: Grid, sparse: Grid, size: tuple[int, int]) -> Image.Image:
    """The paled picture under the borders of the cells."""
    enlarge = Image.Resampling.NEAREST if picture.width < size[0] else Image.Resampling.BOX
    pale = Image.blend(picture.resize(size, enlarge), Image.new("RGB", size, "white"), 0.35)
    lines = Image.new("L", size, 0)
    for number in [0, *borders(dense[1], sparse[1]), dense[1]]:
        x = min(round(number * size[0] / dense[1]), size[0] - 1)
        lines.paste(190, (x, 0, x + 1, size[1]))
    for number in [0, *borders(dense[0], sparse[0]), dense[0]]:
        y = min(round(number * size[1] / dense[0]), size[1] - 1)
        lines.paste(190, (0, y, size[0], y + 1))
    pale.paste(Image.new("RGB", size, COLOURS[0]), (0, 0), lines)
    return pale


def _caption(canvas: Canvas, at: tuple[float, float], number: int, run: RunRecord) -> None:
    """Time and number of the evaluation, its grid, its MACs."""
    evaluation = run.evaluations[number]
    total = evaluation.dense[0] * evaluation.dense[1]
    title = f"time {evaluation.time:.2f}"
    canvas.text(at, title, 20, INK)
    place = at[0] + text_width(title, 20) + 10, at[1] + 3
    canvas.text(place, f"{number + 1} of {len(run.evaluations)}", 16, SOFT)
    tokens = f"{evaluation.grid_name}, {evaluation.tokens} of {total} tokens"
    canvas.text((at[0], at[1] + 28), tokens, 16, COLOURS[0])
    share = f"{100 * evaluation.macs / evaluation.dense_macs:.1f} % of dense MACs"
    canvas.text((at[0], at[1] + 49), share, 16, COLOURS[1])


def _panel_size(height: int, width: int) -> tuple[int, int]:
    longer = max(height, width)
    return max(1, round(SIDE * width / longer)), max(1, round(SIDE * height / longer))
