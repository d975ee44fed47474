"""Real pictures to compare generated ones with: the held-out procedural pictures, or a folder of images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .judge import REFERENCE_SEED
from .pictures import CLASS_NAMES, pictures

logger = logging.getLogger("sparsedit")

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


class RealPictures(Protocol):
    """Numbered real pictures, in an order without meaning: any slice of them stands for all."""

    @property
    def count(self) -> int | None:
        """How many there are, ``None`` for unlimited."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What label i means; empty without classes."""

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor | None]:
        """Pictures ``first`` .. ``first + size - 1`` (n, 3, H, W) in [-1, 1] and their labels (n,), where known.

        n is below ``size`` at the end, and where a file does not decode.
        """


class HeldOutPictures:
    """Procedural pictures that no training sees."""

    count = None
    class_names = CLASS_NAMES

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor | None]:
        """See :class:`RealPictures`."""
        return pictures(first, size, seed=REFERENCE_SEED, split="heldout")


def batches(real: RealPictures, first: int, count: int, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of at most ``size`` of the ``count`` pictures from ``first``."""
    for start in range(first, first + count, size):
        yield real.batch(start, min(size, first + count - start))


class FolderPictures:
    """The images of a folder and its sub-folders, cropped to their middle and resized to (height, width).

    A sub-folder is a class where every image lies in one; classes are numbered by the sorted names. The order is
    shuffled by a fixed seed, so that a slice holds all classes. A file that does not decode is left out and counted.
    """

    def __init__(self, folder: str | os.PathLike[str], size: tuple[int, int]) -> None:
        """ValueError for a folder without images, FileNotFoundError for no folder."""
        root = Path(folder)
        if not root.is_dir():
            raise FileNotFoundError(f"no folder of real pictures at {root}; give a folder of images")
        files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())
        if not files:
            endings = ", ".join(sorted(IMAGE_ENDINGS))
            raise ValueError(f"no images in {root} (known endings are {endings}); give a folder of images")
        parents = [path.relative_to(root).parts[:-1] for path in files]
        self.class_names: tuple[str, ...] = tuple(sorted({parts[0] for parts in parents})) if all(parents) else ()
        numbers = {name: number for number, name in enumerate(self.class_names)}
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
        self.size = size
        self.count: int = len(files)
        self.skipped: list[str] = []
        self._files = [files[place] for place in order]
        self._labels = [numbers[parents[place][0]] for place in order] if self.class_names else None

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor | None]:
        """See :class:`RealPictures`."""
        found, labels = [], []
        for place in range(first, min(first + size, self.count)):
            try:
                found.append(read_picture(self._files[place], self.size))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                logger.warning("%s does not decode and is left out: %s", self._files[place].name, error)
                self.skipped.append(self._files[place].name)
                continue
            if self._labels is not None:
                labels.append(self._labels[place])
        images = torch.stack(found) if found else torch.zeros(0, 3, *self.size)
        return images, None if self._labels is None else torch.tensor(labels, dtype=torch.int64)


def read_picture(path: Path, size: tuple[int, int]) -> Tensor:
    """An image file as (3, H, W) in [-1, 1]: the middle of the file in the wanted shape, resized to (H, W)."""
    height, width = size
    with Image.open(path) as file:
        picture = ImageOps.fit(file.convert("RGB"), (width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
