"""Pictures that ``evaluate --samples-from`` judges as if a model had just drawn them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from ..train.data.folder import scan_folder
from ..train.evaluation import Jury, seen
from ..train.real_pictures import ArrayPictures, FolderPictures, batches
from .evaluate_text import spreads
from .jury import Reality
from .progress import bar


def given_pictures(path: Path, size: tuple[int, int] | None) -> ArrayPictures | FolderPictures:
    """The pictures of an ``.npz`` file as they are, or of a folder, which are brought to ``size`` (a square).

    ``size`` None is that of the folder's first picture. ``ValueError`` where that is no square or does not decode.
    """
    if not path.is_dir():
        return ArrayPictures(path)
    rows, columns = size or _first_size(path)
    if rows != columns:
        raise ValueError(f"the pictures of {path.name} are {columns}x{rows} pixels; a folder holds squares alone")
    return FolderPictures(path, rows)


def _first_size(path: Path) -> tuple[int, int]:
    found = scan_folder(path)
    first = found.root / found.pictures[0].name
    try:
        with Image.open(first) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f"{first} does not decode ({error}); remove it, or give model files for the size") from error


def given_row(
    path: Path, pictures: ArrayPictures | FolderPictures, jury: Jury, real: Reality, batch: int
) -> dict[str, Any]:
    """The verdict on pictures that are there, in the shape of that on a model."""
    with bar(pictures.count, path.name, "pictures") as progress:
        drawn = seen(jury, [], len(pictures.class_names) or None)
        for images, labels in batches(pictures, 0, pictures.count, batch):
            drawn.add(images, labels)
            progress(len(images))
    verdict = {"seed": None} | drawn.against(real.reference).to_json()
    row: dict[str, Any] = {"file": path.name, "layout": None, "prediction": None, "seeds": [verdict]}
    return row | spreads([verdict]) | {"mean_macs": None, "mean_flops": None, "sparse_grids": {}}
