"""Finds the ComfyUI installations to test in, and the Python that runs each."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from sparsedit_core.bench.comfyui import comfyui_folders, own_pythons

PACK = Path(__file__).resolve().parent.parent

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
    for root in comfyui_folders(PACK):
        version = _version(root)
        found.setdefault(version, ComfyUI(root, _python(root), version))
    return sorted(found.values(), key=lambda comfy: _numbers(comfy.version), reverse=True)


def _python(root: Path) -> str:
    wanted = os.environ.get("COMFYUI_PYTHON")
    own = own_pythons(root)
    return wanted or (str(own[0]) if own else sys.executable)


def _version(root: Path) -> str:
    file = root / "comfyui_version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text.split('"')[1] if '"' in text else "unknown"


def _numbers(version: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in version.split(".")]
