"""From what a user writes to class numbers: ImageNet's 1000 classes, or those a checkpoint names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def imagenet_names() -> tuple[str, ...]:
    """ImageNet's 1000 classes in the order of their numbers, synonyms after commas: ``"valley, vale"``."""
    text = (Path(__file__).parent / "data" / "imagenet_classes.txt").read_text(encoding="ascii")
    return tuple(text.splitlines())


def parse_labels(text: str, names: Sequence[str] | None, num_classes: int) -> list[int]:
    """Class numbers of the labels in ``text``, which are separated by commas or line ends.

    A label is a number or one of ``names`` in any capitals; a name may carry synonyms after commas. A name that heads
    one class wins over synonyms of others. ``ValueError``, one sentence, for no label at all, a number out of range,
    a name that several classes share, and an unknown name (with the nearest ones).
    """
    labels = [" ".join(part.split()) for part in re.split(r"[,\n]", text)]
    found = [_number(label, names, num_classes) for label in labels if label]
    if not found:
        raise ValueError(f"no class is given; write class numbers 0 to {num_classes - 1} or names, separated by commas")
    return found


def _number(label: str, names: Sequence[str] | None, num_classes: int) -> int:
    if re.fullmatch(r"[+-]?\d+", label):
        number = int(label)
        if not 0 <= number < num_classes:
            raise ValueError(f"class {number} is out of range; this model has the classes 0 to {num_classes - 1}")
        return number
    if names is None:
        raise ValueError(
            f"class {label!r} is a name, but this model does not name its {num_classes} classes; "
            f"write numbers from 0 to {num_classes - 1}"
        )
    return _named(label, names)


def _named(label: str, names: Sequence[str]) -> int:
    wanted = label.casefold()
    heads, known = _index(tuple(names))
    matches = heads.get(wanted) or known.get(wanted, [])
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(f"class {label!r} stands for several classes: {_listed(matches, names)}; write the number")
    alike = [*get_close_matches(wanted, known, n=5, cutoff=0.6), *(word for word in known if wanted in word)]
    near = list(dict.fromkeys(number for word in alike for number in known[word]))[:5]
    hint = f"did you mean {_listed(near, names)}?" if near else f"write a number from 0 to {len(names) - 1}"
    raise ValueError(f"there is no class {label!r}; {hint}")


@lru_cache(maxsize=8)
def _index(names: tuple[str, ...]) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Class numbers by first name, and by any name."""
    heads: dict[str, list[int]] = {}
    known: dict[str, list[int]] = {}
    for number, line in enumerate(names):
        words = list(dict.fromkeys(word.strip().casefold() for word in line.split(",")))
        heads.setdefault(words[0], []).append(number)
        for word in words:
            known.setdefault(word, []).append(number)
    return heads, known


def _listed(numbers: Sequence[int], names: Sequence[str]) -> str:
    return "; ".join(f"{number} ({names[number]})" for number in numbers)
