"""Procedural pictures: five shapes filled with two textures, 64x64 RGB, unlimited and deterministic.

A picture depends only on (seed, split, index): every random number is a hash of those, so any batch can be
drawn again in any order. Nuisance (colours, place, scale, rotation, direction of the stripes) has one
distribution for all classes, every shape covers the same area and both texture colours share it equally, so
that no class can be told from its mean colour: a model has to draw the shape and the fine texture (bands and
squares of two pixels) to be judged right.

The texture is finer than a token of 4x4 pixels, as most texture of a photograph is finer than the 16 pixels
that a token of DiT stands for: what a token holds of it is in the token's channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]
Integers = NDArray[np.int64]

VERSION = 2
"""Counts up whenever a picture changes; part of the fingerprint that trained files and runs keep."""

SIDE = 64
SHAPES: tuple[str, ...] = ("disc", "square", "triangle", "star", "ring")
TEXTURES: tuple[str, ...] = ("striped", "checkered")
COLOURS: tuple[str, ...] = ("red", "orange", "yellow", "green", "blue", "purple")
"""Names of the vivid tone's hue; between them they cover the wheel, see :func:`colour_of`."""
CLASS_NAMES: tuple[str, ...] = tuple(f"{texture} {shape}" for texture in TEXTURES for shape in SHAPES)
"""Class c is texture c // 5 on shape c % 5."""

SPLITS: tuple[str, ...] = ("train", "heldout")
SHAPE_AREA = 1040.0
"""Area of every shape at scale 1, in square pixels."""

_SCALE, _JITTER, _TILT = 0.06, 2.8, np.deg2rad(12.0)
_BAND = 2  # width of a stripe across and down, and side of a square, in pixels
_STAR_INNER, _RING_INNER = 0.50, 0.50
_HUE_ENDS = (0.035, 0.11, 0.19, 0.45, 0.70, 0.94)  # where red .. purple end; red goes on from there
_MASK64 = (1 << 64) - 1


def pictures(
    start: int | Sequence[int] | NDArray[np.int64],
    count: int | None = None,
    *,
    seed: int = 0,
    split: str = "train",
    labels: int | Sequence[int] | NDArray[np.int64] | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw pictures start .. start + count - 1, or those of the given indices.

    Returns images (n, 3, 64, 64) float32 in [-1, 1] and labels (n,) int64. Without `labels` picture i is of
    class i % 10; with them the same nuisance is drawn with the class that was asked for.
    Raises ValueError for an unknown split, a missing or superfluous count and labels that do not fit.
    """
    indices = _indices(start, count)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    classes = _classes(indices, labels)
    draw = _Uniform(indices, seed, SPLITS.index(split))
    inside, texture = _geometry(draw, classes)
    image = _colour(draw, inside, texture)
    return torch.from_numpy(image), torch.from_numpy(classes)


@dataclass(frozen=True)
class Attributes:
    """What is to be said about pictures, all (n,) int64.

    ``shape``, ``texture``, ``colour``  numbers in SHAPES, TEXTURES and COLOURS; ``wording``  below 2^24, by chance
    """

    shape: Tensor
    texture: Tensor
    colour: Tensor
    wording: Tensor

    @property
    def label(self) -> Tensor:
        """The class: shape and texture."""
        return self.texture * len(SHAPES) + self.shape

    def __len__(self) -> int:
        return len(self.shape)


def attributes(
    start: int | Sequence[int] | NDArray[np.int64],
    count: int | None = None,
    *,
    seed: int = 0,
    split: str = "train",
    labels: int | Sequence[int] | NDArray[np.int64] | Tensor | None = None,
) -> Attributes:
    """Those of the pictures that :func:`pictures` draws for the same arguments."""
    indices = _indices(start, count)
    classes = torch.from_numpy(_classes(indices, labels))
    draw = _Uniform(indices, seed, SPLITS.index(split))
    colour = colour_of(torch.from_numpy(_painter_hue(draw(11))).flatten())
    wording = torch.from_numpy(draw(21, 0, 1 << 24)).flatten().long()
    return Attributes(classes % len(SHAPES), classes // len(SHAPES), colour, wording)


def colour_of(hue: Tensor) -> Tensor:
    """The number in COLOURS of HSV hues in [0, 1]."""
    return torch.bucketize(hue, torch.tensor(_HUE_ENDS, device=hue.device), right=True) % len(COLOURS)


class _Uniform:
    """Uniform numbers in [0, 1) per picture: hash(seed, split, index, channel), a counter-based generator.

    The hash is the finaliser of splitmix64 (Steele, Lea, Flood 2014), applied once for the key of the picture
    and once for each channel.
    """

    def __init__(self, indices: Integers, seed: int, split: int) -> None:
        salt = np.uint64((seed * 2 + split + 1) * 0xD1342543DE82EF95 & _MASK64)
        self.keys = _mix(_mix(indices.astype(np.uint64)) ^ _mix(np.full(1, salt)))

    def __call__(self, channel: int, low: float = 0.0, high: float = 1.0) -> Array:
        """Channel number `channel` of every picture, scaled to [low, high); shape (n, 1, 1)."""
        step = np.uint64((channel + 1) * 0x9E3779B97F4A7C15 & _MASK64)
        unit = (_mix(self.keys + step) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
        numbers: Array = np.float32(low) + np.float32(high - low) * unit
        return numbers.reshape(-1, 1, 1)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed


def _indices(start: int | Sequence[int] | NDArray[np.int64], count: int | None) -> Integers:
    if isinstance(start, (int, np.integer)):
        if count is None or count < 0:
            raise ValueError(f"count is {count}; with a first index a count of pictures >= 0 is needed")
        indices = np.arange(start, int(start) + count, dtype=np.int64)
    else:
        indices = np.asarray(start, dtype=np.int64).reshape(-1)
        if count is not None and count != len(indices):
            raise ValueError(f"count is {count} but {len(indices)} indices were given; leave count out")
    if len(indices) and indices.min() < 0:
        raise ValueError(f"picture indices must be >= 0, found {int(indices.min())}")
    return indices


def _classes(indices: Integers, labels: int | Sequence[int] | NDArray[np.int64] | Tensor | None) -> Integers:
    if labels is None:
        return indices % len(CLASS_NAMES)
    given = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels, dtype=np.int64)
    if given.ndim and given.shape != indices.shape:
        raise ValueError(f"labels have shape {given.shape}, expected one for each of {len(indices)} pictures")
    classes = np.array(np.broadcast_to(given, indices.shape))
    if len(classes) and (classes.min() < 0 or classes.max() >= len(CLASS_NAMES)):
        raise ValueError(f"labels must lie in 0..{len(CLASS_NAMES) - 1}, found {classes.min()}..{classes.max()}")
    return classes


# geometry: coverage of the shape and of the first texture colour, both (n, 64, 64) in [0, 1]


def _geometry(draw: _Uniform, classes: Integers) -> tuple[Array, Array]:
    axis = np.arange(SIDE, dtype=np.float32) - np.float32((SIDE - 1) / 2)
    x = axis[None, None, :] - draw(0, -_JITTER, _JITTER)
    y = axis[None, :, None] - draw(1, -_JITTER, _JITTER)
    tilt = draw(2, -_TILT, _TILT)
    scale = draw(3, 1 - _SCALE, 1 + _SCALE)
    cos, sin = np.cos(tilt), np.sin(tilt)
    across, down = cos * x + sin * y, cos * y - sin * x
    inside = np.empty((len(classes), SIDE, SIDE), np.float32)
    for shape, name in enumerate(SHAPES):
        rows = np.flatnonzero(classes % len(SHAPES) == shape)
        if len(rows):
            distance = _DISTANCES[name](across[rows], down[rows], scale[rows])
            inside[rows] = np.clip(np.float32(0.5) - distance, 0, 1)
    return inside, _texture(draw, classes)


def _texture(draw: _Uniform, classes: Integers) -> Array:
    """1 where the first colour is: stripes along a diagonal or squares, in the same place in all pictures."""
    pixel = np.arange(SIDE)
    across, down = pixel[None, None, :], pixel[None, :, None]
    stripes = np.where(draw(5) < 0.5, across + down, across - down) // _BAND % 2
    squares = (across // _BAND + down // _BAND) % 2
    checkered = (classes // len(SHAPES) == 1)[:, None, None]
    texture: Array = np.where(checkered, squares, stripes).astype(np.float32)
    return texture


# signed distances in pixels (negative inside); each shape has the area SHAPE_AREA * scale^2


def _disc(x: Array, y: Array, scale: Array) -> Array:
    distance: Array = np.hypot(x, y) - np.float32(np.sqrt(SHAPE_AREA / np.pi)) * scale
    return distance


def _square(x: Array, y: Array, scale: Array) -> Array:
    distance: Array = np.maximum(np.abs(x), np.abs(y)) - np.float32(np.sqrt(SHAPE_AREA) / 2) * scale
    return distance


def _triangle(x: Array, y: Array, scale: Array) -> Array:
    inner = np.float32(np.sqrt(SHAPE_AREA / (3 * np.sqrt(3)))) * scale
    y = y - np.float32(0.5) * inner  # centre of its height, not of its mass, in the picture's centre
    slanted = np.float32(np.sqrt(3) / 2) * np.abs(x) - np.float32(0.5) * y
    distance: Array = np.maximum(slanted, y) - inner
    return distance


def _star(x: Array, y: Array, scale: Array) -> Array:
    wedge = np.pi / 5
    outer = np.sqrt(SHAPE_AREA / (5 * _STAR_INNER * np.sin(wedge)))
    tip = np.array([outer, 0.0])
    notch = outer * _STAR_INNER * np.array([np.cos(wedge), np.sin(wedge)])
    normal = np.array([notch[1] - tip[1], tip[0] - notch[0]]) / np.hypot(*(tip - notch))
    angle = np.arctan2(x, -y)  # 0 points up
    folded = np.abs(angle - np.float32(2 * wedge) * np.round(angle / np.float32(2 * wedge)))
    radius = np.hypot(x, y)
    along = np.float32(normal[0]) * np.cos(folded) + np.float32(normal[1]) * np.sin(folded)
    distance: Array = radius * along - np.float32(normal @ tip) * scale
    return distance


def _ring(x: Array, y: Array, scale: Array) -> Array:
    outer = np.sqrt(SHAPE_AREA / (np.pi * (1 - _RING_INNER**2)))
    middle, half = outer * (1 + _RING_INNER) / 2, outer * (1 - _RING_INNER) / 2
    distance: Array = np.abs(np.hypot(x, y) - np.float32(middle) * scale) - np.float32(half) * scale
    return distance


_DISTANCES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
}


# colours: a vivid tone with a pale partner on a dark ground, or with a deep partner on a pale ground


def _colour(draw: _Uniform, inside: Array, texture: Array) -> Array:
    hue = _painter_hue(draw(11))
    vivid = _rgb(hue, draw(12, 0.78, 0.95), draw(13, 0.92, 1.0))
    luma = np.tensordot(vivid[:, :, 0, 0], np.array([0.30, 0.59, 0.11], np.float32), 1)[:, None, None]
    night = luma < draw(10, 0.30, 0.78)  # a dark tone likes a pale partner, a light one a deep partner
    pale = _rgb(hue + draw(14, -0.10, 0.10), draw(15, 0.06, 0.22), draw(16, 0.95, 1.0))
    deep = _rgb(hue + draw(14, -0.10, 0.10), draw(15, 0.75, 0.95), draw(16, 0.22, 0.34))
    far = hue + draw(17, 0.35, 0.65)  # ground of the opposite tone
    ground_night = _rgb(far, draw(18, 0.55, 0.80), draw(19, 0.26, 0.40))
    ground_day = _rgb(far, draw(18, 0.16, 0.30), draw(19, 0.90, 0.98))
    partner = np.where(night[:, None], pale, deep)
    ground = np.where(night[:, None], ground_night, ground_day)
    slope = _gradient(draw)[:, None]
    image = ground * (1 + slope)
    filling = partner + (vivid - partner) * texture[:, None]
    image = image + (filling - image) * inside[:, None]
    scaled: Array = np.clip(image, 0, 1) * np.float32(2) - np.float32(1)
    return scaled


def _gradient(draw: _Uniform) -> Array:
    """Brightness of the ground from one side of the picture to the other, mean 0; (n, 64, 64)."""
    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)
    direction = draw(20, 0, 2 * np.pi)
    ramp = np.cos(direction) * axis[None, None, :] + np.sin(direction) * axis[None, :, None]
    slope: Array = (0.11 * ramp).astype(np.float32)
    return slope


def _painter_hue(wheel: Array) -> Array:
    """Red-yellow-blue colour wheel to HSV hue: as much orange and yellow as green, unlike an even hue."""
    stops = (0.0, 0.075, 0.15, 0.36, 0.57, 0.77, 1.0)
    hue: Array = np.interp(wheel, np.linspace(0, 1, len(stops)), stops).astype(np.float32)
    return hue


def _rgb(hue: Array, saturation: Array, value: Array) -> Array:
    """HSV in [0, 1] (hue wraps) to RGB in [0, 1]; (n, 1, 1) each to (n, 3, 1, 1)."""
    sector = np.stack([np.mod(hue * 6 + offset, 6) for offset in (5, 3, 1)], axis=1)
    fade = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    rgb: Array = (value[:, None] * (1 - saturation[:, None] * fade)).astype(np.float32)
    return rgb
