"""Short captions of the procedural pictures, and how a picture's colour is measured."""

from __future__ import annotations

import torch
from torch import Tensor

from .pictures import COLOURS, SHAPES, TEXTURES, Attributes, colour_of

WORDINGS: tuple[str, ...] = (
    "a {colour} {texture} {shape}",
    "a {texture} {shape} in {colour}",
    "{shape} {texture} {colour}",
)
"""Each is as frequent as the others."""

WORDS: tuple[str, ...] = ("a", "in", *COLOURS, *TEXTURES, *SHAPES)
"""All words of the captions: the vocabulary of their encoder."""

LONGEST = 5
"""Words of the longest caption."""

_VIVID = 0.55  # chroma: that of the vivid tone is 0.72 or more, that of every other tone 0.36 or less
_FEW = 16  # pixels that the colour is measured on where none is vivid


def captions(found: Attributes) -> list[str]:
    """A caption for each picture."""
    return [
        WORDINGS[wording % len(WORDINGS)].format(shape=SHAPES[shape], texture=TEXTURES[texture], colour=COLOURS[colour])
        for shape, texture, colour, wording in zip(
            found.shape.tolist(), found.texture.tolist(), found.colour.tolist(), found.wording.tolist(), strict=True
        )
    ]


def measured_colour(images: Tensor) -> Tensor:
    """The number in COLOURS (n,) of pictures (n, 3, H, W) in [-1, 1]: the hue of their vivid pixels' median.

    In a procedural picture half of the shape has the vivid tone and nothing else comes near its chroma. Where no pixel
    is vivid the most colourful ones are taken.
    """
    pixels = ((images.float().clamp(-1, 1) + 1) / 2).flatten(2)  # (n, 3, P)
    chroma = pixels.amax(1) - pixels.amin(1)
    least = torch.minimum(torch.tensor(_VIVID), chroma.topk(_FEW, dim=1).values[:, -1])
    dull = chroma < least[:, None]
    return colour_of(_hue(pixels.masked_fill(dull[:, None], torch.nan).nanmedian(dim=2).values))


def _hue(rgb: Tensor) -> Tensor:
    """HSV hue in [0, 1] of (n, 3) in [0, 1]; 0 of grey."""
    high, top = rgb.max(1)
    chroma = (high - rgb.amin(1)).clamp_min(1e-6)
    red, green, blue = rgb.unbind(1)
    sixths = torch.stack([(green - blue) / chroma, (blue - red) / chroma + 2, (red - green) / chroma + 4], 1)
    return sixths.gather(1, top[:, None])[:, 0].div(6).remainder(1)
