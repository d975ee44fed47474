"""The one error of this package and the way it lists keys."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 10


class CheckpointError(ValueError):
    """A file cannot be read, or its tensors do not make a model; the message says what was found and what to do."""


def listed(items: Sequence[str]) -> str:
    """The first ten items and how many more there are."""
    text = ", ".join(items[:SHOWN])
    more = len(items) - SHOWN
    return text if more <= 0 else f"{text} and {more} more"
