"""What a model is trained on: numbered samples, the same whenever they are asked for again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..checkpoint import Latent
from ..conditions import Captions, Conditions
from ..words import WordEncoder
from .picture_captions import LONGEST, WORDS, captions
from .pictures import CLASS_NAMES, SIDE, VERSION, attributes, pictures

PIXELS = Latent(channels=3, scale=0.5, factor=1, kind="pixel")
"""The space of the procedural pictures: RGB in -1..1, halved.

A picture of 64 x 64 pixels is told from noise earlier than a latent of 32 x 32, since four times as many values show
the same things; at half the contrast the decisions are spread over the sampling again (Hoogeboom et al., simple
diffusion, 2023).
"""


class Source(Protocol):
    """An endless, deterministic stream of training samples; all batches of a source have one size.

    ``count`` is the number of different samples, ``None`` for unlimited; sample ``n`` of a finite source belongs to
    epoch ``n // count``, in an order of that epoch's own. ``fingerprint`` changes when the data do.
    """

    @property
    def latent(self) -> Latent:
        """The space of the samples; they are in model space, the latent's ``scale`` applied."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Rows and columns of a sample."""

    @property
    def num_classes(self) -> int:
        """Labels lie in 0 .. num_classes - 1; 0 where samples have captions."""

    @property
    def caption_channels(self) -> int | None:
        """Width of the captions' features; ``None`` where samples have labels."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """One name per class, where the data have any."""

    @property
    def caption_tokens(self) -> int:
        """Tokens of the longest caption, 0 where samples have labels."""

    @property
    def count(self) -> int | None:
        """Different samples, ``None`` for unlimited."""

    @property
    def fingerprint(self) -> str:
        """A hash of what the samples are made from."""

    def batch(self, first: int, size: int) -> tuple[Tensor, Conditions]:
        """Samples ``first`` .. ``first + size - 1``: (size, C, H, W) float32 and labels (size,) int64 or captions."""


@dataclass(frozen=True)
class ProceduralSource:
    """The project's own pictures (see pictures.py); needs no files."""

    seed: int = 0
    split: str = "train"

    latent = PIXELS
    input_size = (SIDE, SIDE)
    num_classes = len(CLASS_NAMES)
    class_names = CLASS_NAMES
    caption_channels = None
    caption_tokens = 0
    count = None

    @property
    def fingerprint(self) -> str:
        """Of the generator's version, the seed and the split."""
        text = f"procedural {VERSION}|{self.seed}|{self.split}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """See :class:`Source`."""
        images, labels = pictures(first, size, seed=self.seed, split=self.split)
        return images * self.latent.scale, labels


@dataclass(frozen=True)
class ProceduralCaptions:
    """The same pictures in the same order, with a short caption each (see picture_captions.py)."""

    seed: int = 0
    split: str = "train"

    latent = PIXELS
    input_size = (SIDE, SIDE)
    num_classes = 0
    class_names = None
    caption_channels = len(WORDS)
    caption_tokens = LONGEST
    words = WORDS
    count = None

    @property
    def fingerprint(self) -> str:
        """Of the generator's version, the words, the seed and the split."""
        text = f"procedural captions {VERSION}|{' '.join(WORDS)}|{self.seed}|{self.split}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def batch(self, first: int, size: int) -> tuple[Tensor, Captions]:
        """See :class:`Source`; captions have one-hot features, one token a word."""
        images, _ = pictures(first, size, seed=self.seed, split=self.split)
        texts = captions(attributes(first, size, seed=self.seed, split=self.split))
        return images * self.latent.scale, WordEncoder(WORDS)(texts, LONGEST)
