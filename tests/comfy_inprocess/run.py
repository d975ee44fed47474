"""Runs checks in a ComfyUI's own Python, which may lack pytest: ``python run.py COMFYUI_ROOT RESULT CHECKS.py ...``.

A check file has functions ``check_*`` without arguments, which raise where something is wrong; ``Skip`` says that a
version lacks what the check is about. The results go to a JSON file: "" for passed, "skip: ..." or a traceback.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(root: str, result: str, *files: str) -> None:
    sys.path.insert(0, str(HERE))
    import comfy_pack

    comfy_pack.start(root)
    results: dict[str, str] = {}
    for file in files:
        module = importlib.import_module(Path(file).stem)
        for name, check in vars(module).items():
            if name.startswith("check_") and getattr(check, "__module__", "") == module.__name__:
                results[f"{module.__name__}::{name}"] = outcome(check)
                Path(result).write_text(json.dumps(results), encoding="utf-8")  # what is done survives a crash


def outcome(check: object) -> str:
    """How one check ends."""
    from comfy_pack import Skip

    try:
        check()  # type: ignore[operator]
    except Skip as reason:
        return f"skip: {reason}"
    except BaseException:  # a check that cancels a run may raise ComfyUI's own BaseException
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("LOGLEVEL", "ERROR"))
    main(*sys.argv[1:])
