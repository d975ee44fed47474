"""Checkpoint files that the nodes offer: the bundled ones, diffusion_models and checkpoints."""

from __future__ import annotations

import hashlib
import os

import folder_paths

from ..sparsedit_core.bundled import BUNDLED, bundled_path

FOLDERS = ("diffusion_models", "checkpoints")
_BUNDLED = "bundled: "
_SECOND = "checkpoints: "  # for a name that diffusion_models has too


def checkpoint_names() -> list[str]:
    """What a file widget offers; ComfyUI keeps the folder lists cached."""
    first, second = (folder_paths.get_filename_list(folder) for folder in FOLDERS)
    taken = set(first)
    return [*(_BUNDLED + name for name in BUNDLED), *first, *(_SECOND * (name in taken) + name for name in second)]


def checkpoint_path(name: str) -> str:
    """The file of an offered name; ``ValueError`` if it is gone."""
    if name.startswith(_BUNDLED):
        try:
            return str(bundled_path(name.removeprefix(_BUNDLED)))
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
    folders = FOLDERS[1:] if name.startswith(_SECOND) else FOLDERS
    for folder in folders:
        path = folder_paths.get_full_path(folder, name.removeprefix(_SECOND))
        if path is not None:
            return str(path)
    raise ValueError(
        f"the checkpoint {name!r} is in neither models/diffusion_models nor models/checkpoints; put it there, or press "
        "R in ComfyUI to refresh the list and choose another"
    )


def missing(name: str | None) -> str | None:
    """Why an offered name cannot be loaded, or ``None``; a linked widget has no name yet."""
    try:
        if name is not None:
            checkpoint_path(name)
    except ValueError as error:
        return str(error)
    return None


def file_stamp(name: str | None) -> str:
    """Changes when the file behind an offered name does, so that ComfyUI loads it again; a linked widget has no name,
    there ComfyUI goes by the node it is linked to."""
    if name is None:
        return ""
    return stamp_of(checkpoint_path(name))


def stamp_of(path: str | os.PathLike[str]) -> str:
    """Changes when the file does."""
    stat = os.stat(path)
    stamp = f"{path}:{stat.st_mtime_ns}:{stat.st_size}"
    return hashlib.sha256(stamp.encode(errors="surrogateescape")).hexdigest()  # ComfyUI writes it into shared pictures
