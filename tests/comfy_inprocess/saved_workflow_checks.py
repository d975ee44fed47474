"""Workflows saved with every release (tests/workflows/VERSION) still mean the same in a real ComfyUI."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

from comfy_pack import PACK_FOLDER, model_folder, pack
from node_contract import contract, is_widget

RELEASES = PACK_FOLDER / "tests" / "workflows"
NOTES = ("Note", "MarkdownNote")  # the frontend's own
SEED_CONTROL = ("fixed", "randomize", "increment", "decrement")
FILES = {"vae_name": "vae", "clip_name": "text_encoders"}  # widgets of core nodes that offer files


@cache
def known() -> dict[str, Any]:
    """Every node class, core's and the pack's, and the model files that the workflows name."""
    import folder_paths

    import nodes

    asyncio.run(nodes.init_builtin_extra_nodes())
    for item in pack("nodes").NODES:
        nodes.NODE_CLASS_MAPPINGS[item.define_schema().node_id] = item
        item.GET_SCHEMA()
    for folder in FILES.values():
        path = model_folder().parent / folder
        path.mkdir(exist_ok=True)
        folder_paths.folder_names_and_paths[folder] = ([str(path)], folder_paths.supported_pt_extensions)
    for file in api_files():
        for item in read(file).values():
            for name, folder in {**FILES, "checkpoint": "diffusion_models"}.items():
                value = item["inputs"].get(name)
                if isinstance(value, str) and value.endswith((".safetensors", ".pt", ".pth")):
                    (model_folder().parent / folder / value).touch()
    folder_paths.filename_list_cache.clear()
    return dict(nodes.NODE_CLASS_MAPPINGS)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def ui_files() -> list[Path]:
    return sorted(RELEASES.glob("*/*.json"))


def api_files() -> list[Path]:
    return sorted(RELEASES.glob("*/api/*.json"))


def check_there_are_saved_workflows() -> None:
    assert {file.parent.name for file in ui_files()} >= {"0.1.0"}
    assert {(f.parent.name, f.name) for f in ui_files()} == {(f.parent.parent.name, f.name) for f in api_files()}


def check_widget_values_land_on_the_widgets_they_were_saved_from() -> None:
    """The files also hold the values by name, which the frontend ignores: they are what each position meant."""
    for file in ui_files():
        for node in read(file)["nodes"]:
            if node["type"] in NOTES:
                continue
            assert node["type"] in known(), f"{file}: no node {node['type']}"
            widgets = [item for item in contract(known()[node["type"]])["inputs"] if is_widget(item)]
            loaded, values = {}, list(node.get("widgets_values") or [])
            for widget in widgets:
                if values:
                    loaded[widget["name"]] = values.pop(0)
                if values and values[0] in SEED_CONTROL and widget.get("control_after_generate"):
                    values.pop(0)
            assert not values, f"{file}: {node['type']} has values without a widget: {values}"
            saved = dict(node.get("widgets_values_named") or {})
            saved.pop("control_after_generate", None)
            assert loaded == saved, f"{file}: {node['type']}"


def check_links_reach_the_slots_they_were_saved_from() -> None:
    for file in ui_files():
        workflow = read(file)
        named = {node["id"]: node for node in workflow["nodes"]}
        for _, source, slot, target, into, type_ in workflow["links"]:
            offered = contract(known()[named[source]["type"]])["outputs"]
            assert offered[slot][1] == type_, f"{file}: output {slot} of {named[source]['type']} is {offered[slot]}"
            port = named[target]["inputs"][into]["name"]
            inputs = {item["name"]: item["type"] for item in contract(known()[named[target]["type"]])["inputs"]}
            assert port in inputs, f"{file}: {named[target]['type']} has no input {port}"
            assert inputs[port] in (type_, "*"), f"{file}: {named[target]['type']}.{port} takes {inputs[port]}"


def check_prompts_validate() -> None:
    import execution

    known()
    for file in api_files():
        valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt("saved", read(file), None))
        assert valid, f"{file}: {error} {node_errors}"
        assert not node_errors, f"{file}: {node_errors}"
        assert outputs
