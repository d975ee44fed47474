"""Node: a MODEL to a file of this pack's own format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import comfy.lora
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..sparsedit_core.backbones import is_table
from ..sparsedit_core.checkpoint import save_checkpoint
from .info import sparsedit_info
from .models import WEIGHT_DTYPES, recipe_of

FOLDERS = ("output", "models/diffusion_models")
_PREFIX = "diffusion_model."


class SparseDiTSaveCheckpoint(io.ComfyNode):  # type: ignore[misc]
    """Writes a .safetensors file that SparseDiT Load Checkpoint and the command line read."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTSaveCheckpoint",
            display_name="SparseDiT Save Checkpoint",
            category="SparseDiT",
            description=(
                "Save a DiT or PixArt, dense or sparse, as .safetensors with its description (layout, heads, schedule, "
                "classes). LoRAs on the model are computed into the saved weights; the MODEL itself is not changed. "
                "The file appears under its name only when it is complete."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A model from this pack's loader, patch or convert node."),
                io.String.Input(
                    "filename_prefix",
                    default="sparsedit/model",
                    tooltip="Folder and beginning of the file name; a running number is added, nothing is overwritten.",
                ),
                io.Combo.Input(
                    "folder",
                    options=list(FOLDERS),
                    default=FOLDERS[0],
                    tooltip="Where to save. Of these two, the loader offers the files in models/diffusion_models.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip=(
                        "Number type in the file. 'default' keeps that of the file the model came from, whatever type "
                        "it was loaded in; bf16 and fp16 halve an fp32 file, fp8_e4m3fn quarters it with some loss."
                    ),
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return _prefix_problem(filename_prefix or "model") or True

    @classmethod
    def execute(cls, model: Any, filename_prefix: str, folder: str, dtype: str) -> io.NodeOutput:
        sparsedit_info(model)
        refuse_unsaved(model)
        problem = _prefix_problem(filename_prefix)
        if problem:
            raise ValueError(problem)
        record = recipe_of(model).read()
        record.state = patched_state(record.state, model.patches)
        path = _new_path(filename_prefix, folder)
        save_checkpoint(path, record, dtype=WEIGHT_DTYPES[dtype])
        return io.NodeOutput(str(path))


def refuse_unsaved(model: Any) -> None:
    """Raise ``ValueError`` if the MODEL computes with something that is in no weight and no patch of one."""
    inside = [key for key in model.object_patches if key.startswith(_PREFIX)]
    if inside or model.injections:
        names = ", ".join([*inside, *model.injections][:3])
        raise ValueError(
            f"the MODEL has parts of its network replaced ({names}), which a file of weights cannot hold; use Load "
            "LoRA instead of its bypass variant, or save before the node that does this"
        )


def patched_state(state: dict[str, Tensor], patches: dict[str, Any]) -> dict[str, Tensor]:
    """The weights with a model patcher's patches computed in, in float32, each in its own type again.

    ComfyUI patches the weights of layers alone, so that patches of tables (positions, PixArt's modulation) act in no
    run and in no file.
    """
    result = dict(state)
    for key, changes in patches.items():
        if is_table(key):
            continue
        weight = state[key.removeprefix(_PREFIX)]
        changed = comfy.lora.calculate_weight(changes, weight.to(torch.float32, copy=True), key)
        result[key.removeprefix(_PREFIX)] = changed.to(weight.dtype)
    return result


def _prefix_problem(prefix: str) -> str | None:
    parts = prefix.replace("\\", "/").split("/")
    if ".." in parts or os.path.isabs(prefix) or not parts[-1].strip():
        return (
            f"filename_prefix is {prefix!r}; expected a name, or folders and a name inside the chosen folder, such as "
            "sparsedit/model"
        )
    return None


def _new_path(prefix: str, folder: str) -> Path:
    """A file name that is not taken, in a folder that exists."""
    if folder == FOLDERS[0]:
        root = folder_paths.get_output_directory()
    else:  # the list may begin with the older name models/unet
        roots = folder_paths.get_folder_paths("diffusion_models")
        root = next((path for path in roots if os.path.basename(path) == "diffusion_models"), roots[0])
    os.makedirs(root, exist_ok=True)
    place, name, counter, _, _ = folder_paths.get_save_image_path(prefix, root)
    return Path(place) / f"{name}_{counter:05}_.safetensors"
