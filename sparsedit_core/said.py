"""Sentences of the schedule editor, apart from their figures, so that a browser can say them in another language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SENTENCES = {
    "grids": "{least} to {most} of {dense} tokens",
    "grid": "{most} of {dense} tokens",
    "cost": "{percent} % of dense MACs, at most {factor}x faster ({name})",
    "cost_unknown": "{percent} % of dense MACs, at most {factor}x faster ({name}, as the model is not known)",
    "measured_dense": "measured here in this session: {factor}x as fast as the dense model",
    "measured_full": "measured here in this session: {factor}x as fast as all tokens",
    "outside_range": (
        "outside the checkpoint's range: it was trained with rates {known_low} to {known_high}, this schedule has "
        "{low} to {high}; expect worse pictures"
    ),
    "outside_grid": (
        "outside the checkpoint's range: it is made for one token grid of side {side}, rate {known_low}, this schedule "
        "has {low} to {high}; expect worse pictures"
    ),
}
"""English by key; a name in braces is a figure. In other languages: ``locales/LANGUAGE/main.json``, under ``told``."""


@dataclass(frozen=True)
class Said:
    """A sentence of :data:`SENTENCES` and its figures, written as people read them."""

    key: str
    figures: dict[str, str]

    @property
    def words(self) -> str:
        """The sentence in English."""
        return SENTENCES[self.key].format_map(self.figures)

    def to_json(self) -> dict[str, Any]:
        """Plain values: key, figures and the English words."""
        return {"key": self.key, "figures": self.figures, "words": self.words}
