"""A text encoder without weights: a table of words, of which a PixArt learns its own embedding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import one_hot

from .backbone import Backbone
from .conditions import Captions

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class WordEncoder:
    """Texts to captions of one-hot features, one token a word; ``words`` are all it knows, in lower case.

    A PixArt's first layer for text is then the table of its word embeddings. Words carry no position: captions whose
    order matters need another encoder.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        wrong = [word for word in self.words if _WORD.fullmatch(word) is None or word != word.lower()]
        if wrong or not self.words or len(set(self.words)) != len(self.words):
            raise ValueError(
                f"a vocabulary is different words in lower case, found {wrong or list(self.words)}; give letters and "
                "digits alone, each word once"
            )

    def __call__(self, texts: Sequence[str], length: int = 0) -> Captions:
        """Captions of ``length`` tokens or of the longest text. ``ValueError`` for an unknown word, or none at all."""
        rows = [[self._number(word, text) for word in _WORD.findall(text.lower())] for text in texts]
        for row, text in zip(rows, texts, strict=True):
            if not row:
                raise ValueError(f"the caption {text!r} has no word; the words of this model are {self._known()}")
        length = max([length, *map(len, rows)])
        numbers = torch.zeros(len(rows), length, dtype=torch.int64)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for place, row in enumerate(rows):
            numbers[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = True
        return Captions(one_hot(numbers, len(self.words)).float() * mask[:, :, None], mask)

    def texts(self, captions: Captions) -> list[str]:
        """The inverse: the words that count, one space apart."""
        numbers = captions.features.argmax(dim=2)
        return [
            " ".join(self.words[number] for number in row[mask].tolist())
            for row, mask in zip(numbers, captions.mask, strict=True)
        ]

    def _number(self, word: str, text: str) -> int:
        if word not in self.words:
            raise ValueError(f"{word!r} in {text!r} is no word of this model; it knows {self._known()}")
        return self.words.index(word)

    def _known(self) -> str:
        return ", ".join(self.words)


def initialize_word_table(model: Backbone) -> None:
    """Let a PixArt's untrained text layers begin with embeddings of the size that other layers expect.

    PixArt's own initial weights are made for thousands of channels; of one-hot features they leave next to nothing, and
    captions are learned late.
    """
    first, second = (model.get_submodule(f"y_embedder.y_proj.{name}") for name in ("fc1", "fc2"))
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    nn.init.normal_(first.weight)
    nn.init.normal_(second.weight, std=2 * second.in_features**-0.5)
