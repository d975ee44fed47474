"""Node ids, inputs and outputs are frozen in node_ids.json, because workflows that people saved rely on them.

The file may only be extended: new nodes, and at the end of a node's widgets, sockets, outputs and options. After such
a change run ``python tests/test_node_ids.py``, which refuses anything else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)] if __name__ == "__main__" else []

import pytest  # noqa: E402
from comfy_env import ComfyUI, find_comfyui  # noqa: E402

FROZEN = TESTS / "node_ids.json"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
INSTALLED = find_comfyui()


def frozen() -> dict[str, Any]:
    """The contract that was promised."""
    return json.loads(FROZEN.read_text(encoding="utf-8")) if FROZEN.is_file() else {}


def today(comfy: ComfyUI) -> dict[str, Any]:
    """The contract of the nodes as they are, read inside a real ComfyUI."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "contract.json"
        script = TESTS / "comfy_inprocess" / "node_contract.py"
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [comfy.python, str(script), str(comfy.root), str(result)]
        subprocess.run(command, check=True, cwd=folder, env=environment, timeout=600)
        return json.loads(result.read_text(encoding="utf-8"))


def breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What makes workflows of ``old`` load wrongly into ``new``, in words; empty if nothing does."""
    found = [f"node {name} is gone" for name in old if name not in new]
    for name in old.keys() & new.keys():
        found += [f"{name}: {words}" for words in node_breaks(old[name], new[name])]
    return sorted(found)


def parts(nodes: dict[str, Any]) -> set[tuple[str, str]]:
    """All nodes with their inputs and outputs by name."""
    return {(name, part) for name, node in nodes.items()
            for part in ["", *(item["name"] for item in node["inputs"]), *(out[0] for out in node["outputs"])]}


def node_breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The same for one node. Widget values are kept by position, sockets and outputs by slot."""
    found = []
    for kind in (True, False):
        before, after = (
            [item["name"] for item in node["inputs"] if (item["type"] in WIDGETS) == kind] for node in (old, new)
        )
        if after[: len(before)] != before:
            found.append(f"{'widgets' if kind else 'sockets'} were {before}, are {after}: add at the end only")
    if new["outputs"][: len(old["outputs"])] != old["outputs"]:
        found.append(f"outputs were {old['outputs']}, are {new['outputs']}: add at the end only")
    now = {item["name"]: item for item in new["inputs"]}
    known = {item["name"] for item in old["inputs"]}
    found += [f"new input {name} is required: make it optional" for name in now.keys() - known
              if not now[name]["optional"] and now[name]["type"] not in WIDGETS]  # fmt: skip
    for item in old["inputs"]:
        if item["name"] in now:
            found += input_breaks(item, now[item["name"]])
    return found


def input_breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The same for one input: another type or default, a lost option, a narrower range, a link that must be there."""
    name, found = old["name"], []
    for key in ("type", "default", "control_after_generate"):
        if old.get(key) != new.get(key):
            found.append(f"{key} of {name} was {old.get(key)!r}, is {new.get(key)!r}")
    lost = [option for option in old.get("options", []) if option not in new.get("options", [])]
    found += [f"{name} lost the options {lost}"] * bool(lost)
    if old["optional"] and not new["optional"]:
        found.append(f"{name} was optional")
    if new.get("min", old.get("min")) != old.get("min") and not new["min"] <= old.get("min", float("-inf")):
        found.append(f"the range of {name} began at {old.get('min')}, begins at {new['min']}")
    if new.get("max", old.get("max")) != old.get("max") and not new["max"] >= old.get("max", float("inf")):
        found.append(f"the range of {name} ended at {old.get('max')}, ends at {new['max']}")
    return found


@pytest.mark.comfy
@pytest.mark.skipif(not INSTALLED, reason="no ComfyUI found; set COMFYUI_PATH to a checkout to run these")
@pytest.mark.parametrize("comfy", INSTALLED, ids=str)
def test_nodes_are_those_promised(comfy: ComfyUI) -> None:
    promised, now = frozen(), today(comfy)
    assert not breaks(promised, now)
    missing = parts(now) - parts(promised)  # what is new must be promised too; options may be a newer ComfyUI's own
    assert not missing, f"node_ids.json lacks something new; run `python tests/test_node_ids.py`: {sorted(missing)}"


def item(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "type": "INT", "optional": False, "default": 1, "min": 0, "max": 9} | changes


def node(*inputs: dict[str, Any]) -> dict[str, Any]:
    return {"inputs": list(inputs), "outputs": [["MODEL", "MODEL"]]}


OLD = node(item("a"), item("b", type="COMBO", options=["x", "y"]), item("model", type="MODEL", optional=True))


def changed(**changes: Any) -> dict[str, Any]:
    return node(item("a", **changes), *OLD["inputs"][1:])


@pytest.mark.parametrize("new", [
    OLD,
    node(*OLD["inputs"], item("c"), item("latent", type="LATENT", optional=True)),
    changed(min=-1, max=99),
    node(OLD["inputs"][0], item("b", type="COMBO", options=["x", "y", "z"]), OLD["inputs"][2]),
    OLD | {"outputs": [["MODEL", "MODEL"], ["text", "STRING"]]},
])  # fmt: skip
def test_what_may_change(new: dict[str, Any]) -> None:
    assert breaks({"N": OLD}, {"N": new, "Another": OLD}) == []


@pytest.mark.parametrize("new", [
    node(*OLD["inputs"][1:]),
    node(item("c"), *OLD["inputs"]),
    node(OLD["inputs"][1], OLD["inputs"][0], OLD["inputs"][2]),
    node(*OLD["inputs"], item("latent", type="LATENT")),
    changed(default=2), changed(min=1), changed(max=8), changed(type="FLOAT"), changed(control_after_generate=True),
    node(OLD["inputs"][0], item("b", type="COMBO", options=["x", "z"]), OLD["inputs"][2]),
    OLD | {"outputs": []},
    OLD | {"outputs": [["text", "STRING"], ["MODEL", "MODEL"]]},
])  # fmt: skip
def test_what_may_not_change(new: dict[str, Any]) -> None:
    assert breaks({"N": OLD}, {"N": new})


def test_a_node_may_not_go() -> None:
    assert breaks({"N": OLD}, {}) == ["node N is gone"]


if __name__ == "__main__":
    if not INSTALLED:
        sys.exit("no ComfyUI found; set COMFYUI_PATH to a checkout")
    now = today(INSTALLED[-1])  # the oldest: what it offers, newer ones offer too
    if wrong := breaks(frozen(), now):
        sys.exit("not written, saved workflows would break:\n" + "\n".join(wrong))
    lines = (f' {json.dumps(name)}: {json.dumps(value)}' for name, value in sorted(now.items()))
    FROZEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
