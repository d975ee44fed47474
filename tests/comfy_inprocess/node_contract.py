"""What saved workflows rely on, read off the nodes: ``python node_contract.py COMFYUI_ROOT RESULT.json``.

Workflow files keep widget values by position and links by name and slot, so all of these are written down per node.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
KEPT = ("default", "min", "max", "options", "control_after_generate")


def contract(node: Any) -> dict[str, Any]:
    """Inputs in the order of the frontend (required, then optional) and outputs of a node class."""
    kinds = node.INPUT_TYPES()
    groups = [(kind, kinds.get(kind, {})) for kind in ("required", "optional")]
    inputs = [entry(name, spec, kind) for kind, group in groups for name, spec in group.items()]
    if hasattr(node, "GET_SCHEMA"):  # a V3 node, which knows its outputs after this
        node.GET_SCHEMA()
    names = getattr(node, "RETURN_NAMES", None) or node.RETURN_TYPES
    outputs = [list(pair) for pair in zip(names, node.RETURN_TYPES, strict=True)]
    return {"inputs": inputs, "outputs": outputs}


def entry(name: str, spec: Any, kind: str) -> dict[str, Any]:
    """One input; a list in the place of the type is ComfyUI's first way to write a combo."""
    type_, facts = spec[0], spec[1] if len(spec) > 1 else {}
    options = {"options": list(type_)} if isinstance(type_, list) else {}
    facts = {key: facts[key] for key in KEPT if facts.get(key) is not None} | options
    type_ = "COMBO" if isinstance(type_, list) else str(type_)
    return {"name": name, "type": type_, "optional": kind == "optional", **facts}


def is_widget(item: dict[str, Any]) -> bool:
    return item["type"] in WIDGETS


def main(root: str, result: str) -> None:
    """The contract of every node of the pack."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import comfy_pack

    comfy_pack.start(root)
    nodes = {node.define_schema().node_id: contract(node) for node in comfy_pack.pack("nodes").NODES}
    Path(result).write_text(json.dumps(nodes), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
