"""The texts of the pack's nodes as ComfyUI sends them: ``python schemas.py COMFYUI_ROOT RESULT.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main(root: str, result: str) -> None:
    import comfy_pack

    comfy_pack.start(root)
    found = {}
    for node in comfy_pack.pack("nodes").NODES:
        info = node.GET_NODE_INFO_V1()
        found[info["name"]] = {key: info[key] for key in KEYS if key in info}
    Path(result).write_text(json.dumps(found), encoding="utf-8")


KEYS = ("display_name", "description", "input", "output", "output_name", "output_tooltips")

if __name__ == "__main__":
    main(*sys.argv[1:])
