"""A user's own schedule presets: one small JSON file each, in the user's folder of ComfyUI."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args

from ..sparsedit_core.atomic import replacing
from ..sparsedit_core.schedule import PRESETS, PruningSchedule
from .schedule_widgets import CUSTOM

FORMAT, VERSION = "sparsedit-preset", 1
FOLDER = "sparsedit", "presets"
"""Where they lie in a user's folder."""
_NAME = re.compile(r"[\w(](?:[\w .,()+-]{0,58}[\w)])?")
_MOST_BYTES = 100_000


def all_presets(folder: Path) -> dict[str, PruningSchedule]:
    """The presets in ``folder`` by name, in alphabetical order; files that are none are left out."""
    found = {}
    for file in folder.glob("*.json"):
        try:
            name, schedule = from_text(file.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            continue
        found[name] = schedule
    return dict(sorted(found.items(), key=lambda item: item[0].casefold()))


def own_presets() -> dict[str, PruningSchedule]:
    """The presets of the one user of this ComfyUI; none with --multi-user, where nobody knows for whom a node runs."""
    return {} if args.multi_user else all_presets(Path(folder_paths.get_user_directory(), "default", *FOLDER))


def save_preset(folder: Path, name: str, schedule: PruningSchedule) -> None:
    """Write or replace a preset; ``ValueError`` for a bad name."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(_file(folder, name)) as temporary:
        temporary.write_text(to_text(name, schedule), encoding="utf-8")


def delete_preset(folder: Path, name: str) -> None:
    """Remove a preset; ``ValueError`` if there is none."""
    try:
        _file(folder, name).unlink()
    except FileNotFoundError:
        raise ValueError(f"there is no preset {name!r} of yours; it may have been deleted in another window") from None


def to_text(name: str, schedule: PruningSchedule) -> str:
    """The file of a preset, to be kept or sent to others."""
    values = {"format": FORMAT, "version": VERSION, "name": check_name(name), "schedule": schedule.to_json()}
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def from_text(text: str) -> tuple[str, PruningSchedule]:
    """Name and schedule of :func:`to_text`; ``ValueError`` in one sentence for anything else."""
    if len(text) > _MOST_BYTES:
        raise ValueError(f"the preset has {len(text)} characters; a preset is a small JSON file of this pack")
    try:
        values = json.loads(text)
    except ValueError:
        raise ValueError(f"{text.strip()[:40]!r} is no JSON; give the file or text of an exported preset") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError('this JSON is no SparseDiT preset (no format "sparsedit-preset" in it); export one to share')
    if values.get("version") != VERSION:
        raise ValueError(f"the preset has version {values.get('version')!r}, this pack reads {VERSION}; update it")
    return check_name(values.get("name")), PruningSchedule.from_json(values.get("schedule") or {})


def check_name(name: Any) -> str:
    """``name`` if a preset may be called so, else ``ValueError``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"a preset cannot be called {name!r}; use up to 60 letters, digits, spaces and . , ( ) + - _, "
            "beginning and ending with a letter, a digit or a bracket"
        )
    if name.casefold() in {taken.casefold() for taken in (*PRESETS, CUSTOM)}:
        raise ValueError(f"{name!r} is the name of a row of the paper or of the sliders; choose another")
    return name


def _file(folder: Path, name: str) -> Path:
    return folder / f"{check_name(name)}.json"
