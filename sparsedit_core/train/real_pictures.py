"""Pictures that are there already: held-out procedural ones, a folder of images, an array in a file."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .data.crop import UndecodableError, read_picture
from .data.folder import Picture, caption, scan_folder
from .pictures import CLASS_NAMES, Attributes, attributes, pictures

logger = logging.getLogger("sparsedit")

REFERENCE_SEED = 7
"""Seed of the held-out pictures that samples are compared with."""


class RealPictures(Protocol):
    """Numbered real pictures, in an order without meaning: any slice of them stands for all."""

    @property
    def count(self) -> int | None:
        """How many there are, ``None`` for unlimited."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What label i means; empty without classes."""

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor | Attributes | None]:
        """Pictures ``first`` .. ``first + size - 1`` (n, 3, H, W) in [-1, 1] and what they show, where known: labels
        (n,), or what captions of the procedural pictures name.

        n is below ``size`` at the end, and where a file does not decode.
        """


@dataclass(frozen=True)
class HeldOutPictures:
    """Procedural pictures that no training sees, with their labels or, ``captioned``, with what captions name."""

    captioned: bool = False

    count = None
    class_names = CLASS_NAMES

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor | Attributes]:
        """See :class:`RealPictures`."""
        images, labels = pictures(first, size, seed=REFERENCE_SEED, split="heldout")
        if not self.captioned:
            return images, labels
        return images, attributes(first, size, seed=REFERENCE_SEED, split="heldout")


def batches(
    real: RealPictures, first: int, count: int, size: int
) -> Iterator[tuple[Tensor, Tensor | Attributes | None]]:
    """Batches of at most ``size`` of the ``count`` pictures from ``first``."""
    for start in range(first, first + count, size):
        yield real.batch(start, min(size, first + count - start))


class FolderPictures:
    """The images of a folder, cropped and resized to ``side`` pixels as training data are (train/data).

    Sub-folders are classes, numbered by their sorted names. The order is shuffled by a fixed seed, so that a slice
    holds all classes. A file that does not decode is left out, told and counted in ``skipped``.
    """

    def __init__(self, folder: str | os.PathLike[str], side: int) -> None:
        """ValueError for a folder without images or with an empty class, FileNotFoundError for no folder."""
        self.side, self.root = side, Path(folder)
        found = scan_folder(folder)
        self.class_names = found.class_names or ()
        self.count: int = len(found.pictures)
        self.skipped: set[str] = set()
        self._pictures = [found.pictures[place] for place in _shuffled(self.count).tolist()]
        self._spoken: list[tuple[Picture, str]] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the pictures."""
        return self.side, self.side

    def captions(self) -> list[str]:
        """The captions beside the pictures, in their order; those without one are left out."""
        return [text for _, text in self._with_text()]

    def with_captions(self, first: int, size: int) -> tuple[Tensor, list[str]]:
        """Of the pictures that have a caption those from ``first``, as in :meth:`batch`, and their captions."""
        part = self._with_text()[first : first + size]
        together, places = self._read([picture for picture, _ in part])
        return together, [part[place][1] for place in places]

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor | None]:
        """See :class:`RealPictures`."""
        part = self._pictures[first : first + size]
        together, places = self._read(part)
        labels = torch.tensor([part[place].label for place in places], dtype=torch.int64)
        return together, labels if self.class_names else None

    def _with_text(self) -> list[tuple[Picture, str]]:
        """The pictures that have a caption; their texts are read once."""
        if self._spoken is None:
            texts = [(picture, caption(self.root, picture.name)) for picture in self._pictures]
            self._spoken = [(picture, text) for picture, text in texts if text]
        return self._spoken

    def _read(self, part: list[Picture]) -> tuple[Tensor, list[int]]:
        """Those that decode, (n, 3, H, W), and their places in ``part``."""
        images, places = [], []
        for place, picture in enumerate(part):
            try:
                images.append(read_picture(self.root / picture.name, self.side).float() / 127.5 - 1)
            except UndecodableError as error:
                if picture.name not in self.skipped:
                    logger.warning("%s does not decode and is left out: %s", picture.name, error)
                self.skipped.add(picture.name)
                continue
            places.append(place)
        return torch.stack(images) if images else torch.zeros(0, 3, self.side, self.side), places


class ArrayPictures:
    """Pictures in an ``.npz`` file as ADM and DiT write their samples: ``arr_0`` (n, H, W, 3) uint8, ``arr_1`` labels.

    The labels (n,) may be missing. The order is shuffled by a fixed seed like that of a folder: samplers write class by
    class. The array is unpacked as a whole: 50,000 pictures of 256 pixels take 10 GB.
    """

    class_names = ()

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """ValueError for a file without such an array, FileNotFoundError for no file."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        try:
            with np.load(path, allow_pickle=False) as file:
                self._images = np.asarray(file["arr_0"])
                self._labels = np.asarray(file["arr_1"]) if "arr_1" in file.files else None
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
            raise ValueError(f"{path.name} is no .npz file with an array arr_0 of pictures ({error})") from error
        found = self._images
        if found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] != 3 or not len(found):
            raise ValueError(
                f"arr_0 of {path.name} is {found.dtype} of shape {found.shape}; expected uint8 pictures (n, H, W, 3)"
            )
        labels = self._labels
        if labels is not None and (labels.shape != found.shape[:1] or labels.dtype.kind not in "iu"):
            raise ValueError(
                f"arr_1 of {path.name} is {labels.dtype} of shape {labels.shape}; expected whole numbers, one label "
                f"for each of {len(found)} pictures"
            )
        self.count: int = len(found)
        self._order = _shuffled(self.count).numpy()

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the pictures."""
        return self._images.shape[1], self._images.shape[2]

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor | None]:
        """See :class:`RealPictures`."""
        part = self._order[first : first + size]
        images = torch.from_numpy(self._images[part]).permute(0, 3, 1, 2).float() / 127.5 - 1
        return images, None if self._labels is None else torch.from_numpy(self._labels[part].astype(np.int64))


def _shuffled(count: int) -> Tensor:
    """The numbers below ``count`` in an order that is always the same."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))
