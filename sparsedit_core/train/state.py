"""States of a run on disk: what is needed to go on as if nothing had happened. Safetensors and JSON, no pickle.

A state is a pair: ``step-00001234.safetensors``, and ``step-00001234.json`` with its facts and the checksum of the
former. Both appear complete or not at all, the JSON last: a pair whose parts do not agree is damaged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..atomic import replacing
from .data.shards import file_sha256

VERSION = 1
log = logging.getLogger("sparsedit")


@dataclass(frozen=True)
class State:
    """A state whose checksum was right when it was read; ``facts`` are what :func:`save_state` was given."""

    path: Path
    step: int
    facts: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors on the CPU, mapped from the file; ``FileNotFoundError`` where this process does not see it."""
        if not self.path.is_file():
            raise FileNotFoundError(
                f"the state {self.path} is not on this machine; several machines resume a run from a folder that all "
                "of them see, on a shared disk"
            )
        return load_file(self.path)


def state_folder(out: Path) -> Path:
    """Where the states of the run that writes ``out`` are: beside it."""
    return out.with_name(f"{out.stem}.state")


def save_state(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: dict[str, Any], *, keep: int) -> Path:
    """Write the state after ``step`` steps, then remove all but the newest ``keep``.

    Raises OSError where it cannot be written, a full disk above all; older states are untouched then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    try:
        with replacing(path) as temporary:
            save_file({name: value.detach().contiguous() for name, value in tensors.items()}, temporary)
    except SafetensorError as error:  # how safetensors reports errors of the system
        raise OSError(f"cannot write {path}: {error}") from error
    try:
        record = {"version": VERSION, "step": step, "sha256": file_sha256(path), "facts": facts}
        with replacing(_record(path)) as temporary:
            temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError:
        path.unlink(missing_ok=True)  # without a record it is no state, but would be kept in the place of one
        raise
    _prune(folder, keep)
    return path


def newest_state(folder: Path) -> State | None:
    """The newest undamaged state, ``None`` if there is none at all; every damaged one is warned of.

    ``ValueError`` when there are states and all of them are damaged.
    """
    paths = _paths(folder)
    for path in reversed(paths):
        try:
            state = _read(path)
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("the state %s is damaged (%s); falling back to the one before", path, reason)
            continue
        return state
    if paths:
        raise ValueError(f"every state in {folder} is damaged; remove the folder to begin the run anew")
    return None


def set_aside(folder: Path, step: int) -> None:
    """Rename what is newer than ``step``, the damaged states that were passed over, so that it is never read again."""
    for path in _paths(folder):
        if _number(path) > step:
            for part in (path, _record(path)):
                if part.exists():
                    part.rename(part.with_name(part.name + ".damaged"))


def remove_states(folder: Path) -> None:
    """Remove the states of an earlier run, and what interrupted writes left behind."""
    for path in (*folder.glob("step-*.json"), *folder.glob("step-*.safetensors"), *folder.glob(".step-*.tmp")):
        path.unlink(missing_ok=True)


def _read(path: Path) -> State:
    record = json.loads(_record(path).read_text(encoding="utf-8"))
    if record["version"] != VERSION:
        raise ValueError(f"it has version {record['version']!r}, this program reads {VERSION}")
    found = file_sha256(path)
    if found != record["sha256"]:
        raise ValueError(f"its checksum is {found[:12]}..., its record says {record['sha256'][:12]}...")
    return State(path, int(record["step"]), dict(record["facts"]))


def _paths(folder: Path) -> list[Path]:
    """Tensor files of all pairs, oldest first, those that lost one of their halves included."""
    halves = (*folder.glob("step-*.json"), *folder.glob("step-*.safetensors"))
    names = {path.with_suffix(".safetensors") for path in halves if path.stem.removeprefix("step-").isdecimal()}
    return sorted(names, key=_number)


def _prune(folder: Path, keep: int) -> None:
    for path in _paths(folder)[:-keep]:
        _record(path).unlink(missing_ok=True)  # first: tensors without a record are no state
        path.unlink(missing_ok=True)
    for path in folder.glob(".step-*.tmp"):  # left by a process that was killed while it wrote
        path.unlink(missing_ok=True)


def _record(path: Path) -> Path:
    return path.with_suffix(".json")


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
