"""Sets of pictures as a jury of networks sees them, and what it finds: Frechet distance, precision, recall, accuracy.

Pictures come in batches and are not kept: of all of them mean and covariance of the features are, of the first
``Jury.neighbours`` ones the features themselves, which precision and recall need.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .extractors import Extractor
from .frechet import Moments
from .picture_captions import measured_colour
from .pictures import CLASS_NAMES, SHAPES, Attributes
from .precision_recall import NEIGHBOURS, precision_recall, squared_radii


@dataclass(frozen=True)
class Jury:
    """Who judges.

    ``features``  what distances are measured in; ``classify`` gives class logits, ``None`` leaves accuracy out
    ``k``         neighbour whose distance is a ball's radius in precision and recall
    ``kept``      pictures of each side that precision and recall compare at most
    """

    features: Extractor
    classify: Extractor | None = None
    k: int = NEIGHBOURS
    kept: int = 10_000

    def __post_init__(self) -> None:
        if not 1 <= self.k < self.kept:
            raise ValueError(
                f"precision and recall compare {self.kept} pictures at the distance of neighbour {self.k}; "
                "there must be more pictures than neighbours, and at least one neighbour"
            )


@dataclass(frozen=True)
class Verdict:
    """What the jury found.

    ``frechet``            squared Frechet distance of the features, in their squared units
    ``precision, recall``  shares in [0, 1] of ``compared`` pictures on either side; ``None`` where too few
    ``accuracy``           share in [0, 1] of the pictures that are taken for their label; ``None`` without labels
    ``shape``, ``texture``, ``colour``  shares that show what their caption names, ``caption`` all three; ``None``
                           without captions of the procedural pictures
    """

    frechet: float
    precision: float | None
    recall: float | None
    compared: int
    accuracy: float | None
    pictures: int
    shape: float | None = None
    texture: float | None = None
    colour: float | None = None
    caption: float | None = None

    def to_json(self) -> dict[str, float | int | None]:
        """Plain values."""
        return asdict(self)


class PictureSet:
    """A set of pictures as one jury sees it; ``classes`` is how many classes the labels are of, where that is known."""

    def __init__(self, jury: Jury, classes: int | None = None) -> None:
        self.jury, self.classes, self.moments = jury, classes, Moments()
        self._kept: list[Tensor] = []
        self._labelled, self._right = 0, 0
        self._shown = torch.zeros(5, dtype=torch.int64)  # pictures with captions; right in shape, texture, colour, all
        self._radii: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.moments.count

    def add(self, images: Tensor, shown: Tensor | Attributes | None = None) -> None:
        """Take in pictures (n, 3, H, W) in [-1, 1] and what they should show, labels (n,) or what captions name.

        ``ValueError`` for features that are not finite, a classifier of other classes, and a label it does not have.
        """
        if not len(images):
            return
        self._radii.clear()
        features = self.jury.features(images)
        room = self.jury.kept - min(len(self), self.jury.kept)
        if room:
            self._kept.append(features[:room])
        self.moments.add(features)
        if shown is not None and self.jury.classify is not None:
            labels = shown.label if isinstance(shown, Attributes) else shown
            logits = self.jury.classify(images)
            if self.classes is not None and logits.shape[1] != self.classes:
                raise ValueError(
                    f"the classifier gives {logits.shape[1]} logits, but the pictures are of {self.classes} classes; "
                    "give a classifier of the model's own classes"
                )
            wrong = labels[(labels < 0) | (labels >= logits.shape[1])]
            if len(wrong):
                raise ValueError(
                    f"the pictures have label {int(wrong[0])}, but the classifier's classes are 0 .. "
                    f"{logits.shape[1] - 1}; give a classifier of the pictures' classes"
                )
            found = logits.argmax(dim=1)
            self._right += int((found == labels.cpu()).sum())
            self._labelled += len(labels)
            if isinstance(shown, Attributes) and logits.shape[1] == len(CLASS_NAMES):
                self._shown += _count_shown(found, measured_colour(images.cpu()), shown)

    @property
    def features(self) -> Tensor:
        """Features (n, d) of the first pictures, at most ``Jury.kept``."""
        return torch.cat(self._kept) if self._kept else torch.zeros(0, 0)

    def radii(self, count: int) -> Tensor:
        """Squared radii (count,) among the first features, computed once: every model is compared with them."""
        if count not in self._radii:
            self._radii[count] = squared_radii(self.features[:count], self.jury.k)
        return self._radii[count]

    @property
    def accuracy(self) -> float | None:
        """Share of the labelled pictures that the classifier takes for their label."""
        return self._right / self._labelled if self._labelled else None

    def against(self, real: PictureSet) -> Verdict:
        """The verdict on this set, seen beside real pictures; both sides of precision and recall are of one size."""
        mine, other = self.features, real.features
        compared = min(len(mine), len(other))
        shares = None
        if compared > self.jury.k:
            radii = real.radii(compared)
            shares = precision_recall(other[:compared], mine[:compared], k=self.jury.k, real_radii=radii)
        return Verdict(
            frechet=self.moments.distance(real.moments),
            precision=None if shares is None else shares.precision,
            recall=None if shares is None else shares.recall,
            compared=compared if shares is not None else 0,
            accuracy=self.accuracy,
            pictures=len(self),
            **self._shares(),
        )

    def _shares(self) -> dict[str, float]:
        total, *right = self._shown.tolist()
        names = ("shape", "texture", "colour", "caption")
        return {name: count / total for name, count in zip(names, right, strict=True)} if total else {}


def _count_shown(found: Tensor, colour: Tensor, wanted: Attributes) -> Tensor:
    """Pictures, and how many of them are right in shape, texture, colour and all of it: (5,)."""
    right = torch.stack(
        [found % len(SHAPES) == wanted.shape, found // len(SHAPES) == wanted.texture, colour == wanted.colour]
    )
    return torch.stack([torch.tensor(len(found)), *right.sum(dim=1), right.all(dim=0).sum()])


def seen(
    jury: Jury, batches: Iterable[tuple[Tensor, Tensor | Attributes | None]], classes: int | None = None
) -> PictureSet:
    """All batches of (pictures, what they should show) as one set."""
    result = PictureSet(jury, classes)
    for images, shown in batches:
        result.add(images, shown)
    return result


def union(first: PictureSet, second: PictureSet) -> PictureSet:
    """Both sets of one jury as one, the kept features half and half as far as there are enough."""
    result = PictureSet(first.jury)
    result.moments.merge(first.moments)
    result.moments.merge(second.moments)
    half = first.jury.kept - min(len(second.features), first.jury.kept // 2)
    ahead = first.features[:half]
    result._kept = [ahead, second.features[: first.jury.kept - len(ahead)]]
    result._labelled, result._right = first._labelled + second._labelled, first._right + second._right
    result._shown = first._shown + second._shown
    return result
