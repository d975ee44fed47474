"""Reading a file's tensors without running anything that it contains (CHECKPOINTS 4).

The container is told by its bytes, never by the name's ending. Pickles go through ``torch.load(weights_only=True)``
with ``argparse.Namespace`` (the training scripts' ``args``) as the only extra type, allowed for the length of the call.
"""

from __future__ import annotations

import argparse
import os
import re
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .errors import CheckpointError, listed
from .pickles import has_legacy_magic, is_damaged, named_globals
from .sniff import sniff

ALLOWED = "argparse.Namespace"
_HARMLESS = ("torch.", "collections.", ALLOWED)  # in messages, names that are not the reason
_AGAIN = "copy or download it again"


@dataclass
class RawFile:
    """What a file holds: ``content`` is a dictionary of tensors or, in a pickle, whatever it saved."""

    content: Any
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_file(path: str | os.PathLike[str]) -> RawFile:
    """Open a safetensors file or a torch pickle; tensors stay mapped to the file where its format allows it.

    Raises ``CheckpointError`` with one sentence for anything else: missing, empty, truncated, text, unsafe.
    """
    path = Path(path)
    kind = sniff(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind == "zip":
        return RawFile(_load(path, mmap=_check_zip(path)))
    _check_legacy(path)
    return RawFile(_load(path, mmap=False))


def is_mapped(path: str | os.PathLike[str]) -> bool:
    """Whether :func:`read_file` leaves the weights unread; ``CheckpointError`` for what is no checkpoint."""
    path = Path(path)
    kind = sniff(path)
    return kind == "safetensors" or (kind == "zip" and path.suffix != ".safetensors" and _check_zip(path))


def _read_safetensors(path: Path) -> RawFile:
    try:
        with safe_open(path, "pt", device="cpu") as file:
            return RawFile({key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except MemoryError:
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        reason = f"{path} is no readable safetensors file ({_first_line(error)})"
        raise CheckpointError(f"{reason}: it is truncated or damaged; {_AGAIN}") from error


def _check_zip(path: Path) -> bool:
    """Refuse zip files that torch did not save and pickles that name other code; True if it can be mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} begins like a torch checkpoint but is truncated; {_AGAIN}") from error
    names = [entry.filename.rpartition("/")[2] for entry in entries]
    if "data.pkl" not in names:
        shown = listed(names) or "no file"
        raise CheckpointError(
            f"{path} is a zip archive that torch.save did not write (it holds {shown}); unpack it first"
        )
    if "constants.pkl" in names:
        raise CheckpointError(f"{path} is a TorchScript program, which can run code; save its state_dict() instead")
    _check_globals(path)
    # a repacked archive may be compressed, and mapping that would read compressed bytes as numbers
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _check_globals(path: Path) -> None:
    try:
        found = set(_torch().serialization.get_unsafe_globals_in_checkpoint(path)) - {ALLOWED}
    except MemoryError:
        raise
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        raise _damaged(path, error) from error
    if found:
        raise _unsafe(path, sorted(found))


def _check_legacy(path: Path) -> None:
    if not has_legacy_magic(path):
        names = [name for name in named_globals(path) if not name.startswith(_HARMLESS)]
        if names:
            raise _unsafe(path, names)
        raise CheckpointError(f"{path} is a Python pickle that torch.save did not write, or it is truncated; {_AGAIN}")


def _load(path: Path, *, mmap: bool) -> Any:
    serialization = _torch().serialization
    named_safetensors = path.suffix == ".safetensors"  # torch.load would believe the name, and maps only by name
    try:
        with ExitStack() as stack:
            file = stack.enter_context(path.open("rb")) if named_safetensors else path
            if argparse.Namespace not in serialization.get_safe_globals():  # leaving would remove another's permission
                stack.enter_context(serialization.safe_globals([argparse.Namespace]))
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap and not named_safetensors)
    except MemoryError as error:
        if is_damaged(path):
            raise _damaged(path, error) from error
        raise
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        cause = error.__context__ or error  # torch wraps the reason in a page of advice
        if re.search("GLOBAL|function|class|object", str(cause)):
            found = [name for name in named_globals(path) if name in str(cause) or not name.startswith(_HARMLESS)]
            if found:
                raise _unsafe(path, found) from error
        raise _damaged(path, cause) from error


def _unsafe(path: Path, names: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{path} is refused: its pickle names {listed(names)}, and loading that could run code. Only tensors, plain "
        "containers and argparse.Namespace are read; save the state dict alone, best as .safetensors"
    )


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read as a torch checkpoint ({_first_line(error)}): it is truncated, damaged or not written "
        f"by torch.save; {_AGAIN}"
    )


def _first_line(error: BaseException) -> str:
    text = re.split(r"\n|(?<=[a-z])\. ", str(error).strip() or type(error).__name__)[0]
    return text[:160].rstrip(".")


def _torch() -> Any:
    """torch, if its weights_only can be trusted: before 2.6 a crafted file could run code (CVE-2025-32434)."""
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        raise CheckpointError(
            f"torch {torch.__version__} cannot read pickles (.pt, .pth, .bin) safely; update to torch 2.6 or newer, or "
            "use a .safetensors file"
        )
    return torch
