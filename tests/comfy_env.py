"""Finds the ComfyUI installations to test in, and the Python that runs each."""

from __future__ import annotations

import configparser
import os
import sys
from dataclasses import dataclass
from pathlib import Path

PACK = Path(__file__).resolve().parent.parent
_FILES = ("main.py", "nodes.py", "folder_paths.py", "comfy/model_base.py")
_PYTHONS = (
    ".venv/bin/python", ".venv/Scripts/python.exe", "venv/bin/python", "venv/Scripts/python.exe",
    "../python_embeded/python.exe",
)  # fmt: skip


@dataclass(frozen=True)
class ComfyUI:
    """A checkout; ``python`` is $COMFYUI_PYTHON, else its own environment's, else the one running the tests."""

    root: Path
    python: str
    version: str

    def __str__(self) -> str:
        return self.version


def find_comfyui() -> list[ComfyUI]:
    """Every installation found, newest version first; one of each version."""
    found: dict[str, ComfyUI] = {}
    for root in _candidates():
        if all((root / name).is_file() for name in _FILES):
            version = _version(root)
            found.setdefault(version, ComfyUI(root, _python(root), version))
    return sorted(found.values(), key=lambda comfy: _numbers(comfy.version), reverse=True)


def _candidates() -> list[Path]:
    """$COMFYUI_PATH (one or several), around a custom_nodes folder with the pack, comfy-cli's, the usual places."""
    paths = [Path(path) for path in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if path]
    paths += [parent.parent for parent in PACK.parents if parent.name == "custom_nodes"]
    home = Path.home()
    for folder in (".config", "Library/Application Support", "AppData/Local"):
        paths += _comfy_cli(home / folder / "comfy-cli" / "config.ini")
    for folder in (home, home / "comfy", home / "Documents" / "comfy"):
        paths += sorted(folder.glob("ComfyUI*")) if folder.is_dir() else []
    return [path.resolve() for path in paths]


def _comfy_cli(config: Path) -> list[Path]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(config, encoding="utf-8")
    except (configparser.Error, OSError):
        return []
    names = ("default_workspace", "recent_workspace")
    return [Path(parser["DEFAULT"][name]) for name in names if parser["DEFAULT"].get(name)]


def _python(root: Path) -> str:
    wanted = os.environ.get("COMFYUI_PYTHON")
    own = [str(root / name) for name in _PYTHONS if (root / name).is_file()]
    return wanted or (own[0] if own else sys.executable)


def _version(root: Path) -> str:
    file = root / "comfyui_version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text.split('"')[1] if '"' in text else "unknown"


def _numbers(version: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in version.split(".")]
