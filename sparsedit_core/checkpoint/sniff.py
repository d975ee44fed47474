"""What a file is, told by its first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .errors import CheckpointError
from .pickles import is_whole_pickle

Kind = Literal["safetensors", "zip", "pickle"]

_HEAD = 4096
_LARGEST_HEADER = 100_000_000  # bytes; the safetensors format's own limit
_EXPECTED = "expected a .safetensors file or a checkpoint that torch.save wrote (.pt, .pth, .bin)"
_FOREIGN = {
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7-zip archive",
    b"Rar!": "a RAR archive",
}


def sniff(path: Path) -> Kind:
    """The container of a checkpoint; ``CheckpointError`` with one sentence for what is none."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give a file inside it{_suggestion(path)}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot open {path}: {error}") from error
    if size == 0:
        raise CheckpointError(f"{path} is empty; copy or download it again")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= _LARGEST_HEADER:
        if length + 8 > size:
            raise CheckpointError(f"{path} is a truncated safetensors file ({size} bytes); copy or download it again")
        return "safetensors"
    if head[:1] == b"\x80" or is_whole_pickle(path):  # the byte begins every pickle since protocol 2
        return "pickle"
    raise CheckpointError(f"{path} is {_describe(head)}; {_EXPECTED}")


def _describe(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the weights: run `git lfs pull` or download the file itself"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not the weights: the download link led to a page (perhaps a login or licence page)"
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            return name
    if not any(byte < 9 or byte == 127 for byte in head):
        return "a text file, not weights"
    return "not a checkpoint"


def _suggestion(folder: Path) -> str:
    files = sorted(p.name for p in folder.iterdir() if p.suffix in {".safetensors", ".pt", ".pth", ".bin"})
    return f", for example {files[0]}" if files else ""
