"""What a pickle names, read without executing it."""

from __future__ import annotations

import pickletools
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first object in a file of torch.save before torch 1.6
_LEGACY_PICKLES = 5  # magic number, protocol, system, the object, the names of its storages
_BUILTINS = "__builtin__."  # the module's name in pickle protocols 0 to 2
_BROKEN = (
    ValueError,  # and UnicodeError
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,  # a string that claims to be longer than memory, in a file of a few bytes
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,
    OSError,
)
"""What walking over a damaged or hostile pickle raises."""


def has_legacy_magic(path: Path) -> bool:
    """Whether a file that begins with a pickle was written by torch.save."""
    with path.open("rb") as file:
        try:
            return any(arg == LEGACY_MAGIC for _, arg, _ in pickletools.genops(file))
        except _BROKEN:
            return False


def is_whole_pickle(path: Path) -> bool:
    """Whether the file parses as a pickle up to its end mark; tells protocol 0, which is text, from other text."""
    with path.open("rb") as file:
        try:
            return any(op.name == "STOP" for op, _, _ in pickletools.genops(file))
        except _BROKEN:
            return False


def named_globals(path: Path) -> list[str]:
    """Every ``module.name`` that the pickles of a file refer to, as far as it can be read.

    Serves error messages; what may be loaded is decided by torch's weights_only alone.
    """
    return sorted(_walk(path)[0])


def is_damaged(path: Path) -> bool:
    """Whether a pickle of the file does not parse; tells a hostile file from a machine without enough memory."""
    return _walk(path)[1]


def _walk(path: Path) -> tuple[set[str], bool]:
    """The globals of all pickles of a file, those before the first damage, and whether there was any."""
    names: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.namelist():
                    if entry.endswith("data.pkl"):
                        with archive.open(entry) as file:
                            _collect(file, names)
        else:
            with path.open("rb") as file:
                for _ in range(_LEGACY_PICKLES):
                    _collect(file, names)
    except _BROKEN:
        return names, True
    return names, False


def _collect(file: IO[bytes], names: set[str]) -> None:
    """Add the globals of one pickle; strings are followed because newer protocols take names from the stack."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    previous = ""
    for op, arg, _ in pickletools.genops(file):
        if op.name in ("GLOBAL", "INST"):
            names.add(_dotted(str(arg).replace(" ", ".")))
        elif op.name == "STACK_GLOBAL":
            names.add(_dotted(".".join(strings[-2:])))
        elif op.name == "MEMOIZE":
            memo[len(memo)] = previous
        elif op.name.endswith("PUT"):
            memo[int(arg or 0)] = previous
        elif op.name.endswith("GET"):
            previous = memo.get(int(arg or 0), "")
            strings.append(previous)
            continue
        elif isinstance(arg, str):
            strings.append(arg)
        previous = arg if isinstance(arg, str) else ""


def _dotted(name: str) -> str:
    return "builtins." + name.removeprefix(_BUILTINS) if name.startswith(_BUILTINS) else name
