"""A folder of pictures: one sub-folder per class, or flat; a caption is the ``name.txt`` beside ``name.png``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...checkpoint.errors import listed

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""What a picture's name ends in, in small or capital letters; other files are passed over."""


@dataclass(frozen=True)
class Picture:
    """A file and its class; ``name`` is its path inside the folder, with ``/`` on every system."""

    name: str
    label: int


@dataclass(frozen=True)
class PictureFolder:
    """What a scan found; class ``i`` is ``class_names[i]``, ``None`` for a flat folder, whose one label is 0."""

    root: Path
    pictures: tuple[Picture, ...]
    class_names: tuple[str, ...] | None

    @property
    def num_classes(self) -> int:
        """Labels lie in 0 .. num_classes - 1."""
        return 1 if self.class_names is None else len(self.class_names)

    def fingerprint(self) -> str:
        """A hash of names, labels and file sizes; it reads no picture."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            size = (self.root / picture.name).stat().st_size
            digest.update(os.fsencode(f"{picture.name}\0{picture.label}\0{size}\n"))
        return digest.hexdigest()


def scan_folder(root: str | os.PathLike[str], *, flat: bool = False) -> PictureFolder:
    """List the pictures of a folder, class after class, classes and names in the order of their characters.

    Sub-folders are classes, and whatever lies deeper belongs to its class. Without sub-folders, or with ``flat``, every
    picture has label 0. Names that begin with a dot are passed over; links are followed. Raises ``FileNotFoundError``
    where there is no such folder and ``ValueError`` for a class without pictures, pictures beside class folders, or
    none at all.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if flat or not folders:
        pictures = tuple(Picture(name, 0) for name in _pictures(root, root))
        if not pictures:
            raise ValueError(f"the folder {root} holds no picture; their names end in {', '.join(ENDINGS)}")
        return PictureFolder(root, pictures, None)
    loose = sorted(entry.name for entry in root.iterdir() if _is_picture(entry.name) and entry.is_file())
    if loose:
        raise ValueError(
            f"{root} holds both class folders and {len(loose)} pictures beside them (first {loose[0]}); move these "
            "into a class folder, or take everything as one class: flat"
        )
    classes = [[Picture(name, label) for name in _pictures(root, root / n)] for label, n in enumerate(folders)]
    empty = [name for name, found in zip(folders, classes, strict=True) if not found]
    if empty:
        raise ValueError(
            f"class folder {listed(empty)} of {root} holds no picture ({len(empty)} of {len(folders)} classes); put "
            "pictures into it or remove it"
        )
    return PictureFolder(root, tuple(picture for found in classes for picture in found), tuple(folders))


def caption(root: Path, name: str) -> str | None:
    """The text beside a picture, UTF-8, without blanks around it; ``None`` where there is none.

    Raises ``UnicodeDecodeError``, a ``ValueError``, for other bytes.
    """
    try:
        return (root / name).with_suffix(".txt").read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        return None


def _pictures(root: Path, folder: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in _walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files if _is_picture(name))


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")
