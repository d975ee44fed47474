"""Output files that appear complete or not at all, and the words a command was called with."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .. import __version__
from ..atomic import replacing


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name and rename it; the folder is made if it is missing."""
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; give a file name")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_png(path: Path, image: Image.Image) -> Path:
    """Write a picture as PNG; ``ValueError`` for another ending."""
    content = BytesIO()
    image.save(content, "PNG", optimize=True)
    return write_bytes(check_ending(path, ".png"), content.getvalue())


def write_json(path: Path, data: Any) -> Path:
    """Write JSON; ``ValueError`` for another ending."""
    return write_bytes(check_ending(path, ".json"), (to_json(data) + "\n").encode())


def to_json(data: Any) -> str:
    """JSON text; numbers that JSON does not have (infinite PSNR of equal pictures) become null."""
    return json.dumps(_finite(data), indent=2, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    if isinstance(data, float) and data - data != 0:
        return None
    return data


def check_ending(path: Path, ending: str) -> Path:
    """The path itself; asked early, so that no work is lost to a name that cannot be written."""
    if path.suffix.lower() != ending:
        raise ValueError(f"the output {path} must end in {ending}")
    if path.is_dir():
        raise ValueError(f"the output {path} is a folder; give a file name")
    check_folder(path.parent)
    return path


def check_folder(path: Path) -> Path:
    """The folder itself, which exists or can be made; asked early like :func:`check_ending`."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise ValueError(f"the output folder {path} cannot be made: {there} is a file")
    return path


def command_line(argv: Sequence[str]) -> str:
    """The command as it was called, folders of absolute paths left out: a shared file tells nothing of a machine."""
    return shlex.join(["sparsedit", *map(_relative, argv)])


def _relative(word: str) -> str:
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}{Path(value).name if Path(value).is_absolute() else value}"


def versions() -> dict[str, str]:
    """Of this program, torch and Python."""
    return {"sparsedit": __version__, "torch": torch.__version__, "python": platform.python_version()}
