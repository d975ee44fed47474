"""Everything a user did to one MODEL, done to another one of the same architecture."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP

_INSIDE = "diffusion_model"
_COMPILE_KEY = "torch.compile"


def refuse_bound_changes(source: Any, node: str) -> None:
    """Raise ``ValueError`` if other nodes replaced parts *inside* the source's network, which another one lacks."""
    inside = [key for key in source.object_patches if key.split(".")[0] == _INSIDE]
    replaced = ", ".join([*inside, *source.injections][:3])
    found = ""
    if source.wrappers.get(WrappersMP.APPLY_MODEL, {}).get(_COMPILE_KEY):
        found = "is compiled"
    elif source.additional_models.get("multigpu"):  # copies of the source's network for other GPUs
        found = "is spread over several GPUs"
    elif source.load_device != mm.get_torch_device():
        found = f"was moved to the device {source.load_device}"
    elif replaced:
        found = f"has parts of its network replaced ({replaced})"
    if found:
        raise ValueError(
            f"the MODEL given to {node} {found}, which cannot go over to another network; put {node} right after the "
            "loader, before the node that does this"
        )


def carry_over(source: Any, target: Any) -> None:
    """Give the fresh patcher ``target`` the source's options, wrappers, hooks and weight patches.

    What the target has under the same key (this pack's schedule and LoRA support) is its own and stays.
    Weight patches (LoRAs, merges) are carried as patches, never computed into the weights.
    """
    target.model_options = comfy.model_patcher.create_model_options_clone(source.model_options)
    target.object_patches = source.object_patches.copy()
    target.force_cast_weights = source.force_cast_weights
    target.attachments = {key: _attachment(value) for key, value in source.attachments.items()} | target.attachments
    target.additional_models = {key: [m.clone() for m in models] for key, models in source.additional_models.items()}
    target.hook_mode = source.hook_mode
    for name in ("wrappers", "callbacks"):
        _merge(getattr(target, name), getattr(source, name))
    _carry_weight_patches(source, target)


def _attachment(value: Any) -> Any:
    return value.on_model_patcher_clone() if hasattr(value, "on_model_patcher_clone") else value


def _merge(target: dict[str, Any], source: dict[str, Any]) -> None:
    """Keyed lists, kind by kind; keys that the target has are its own."""
    for kind, keyed in source.items():
        for key, functions in keyed.items():
            target.setdefault(kind, {}).setdefault(key, list(functions))


def _layers(patches: dict[str, list[Any]]) -> dict[tuple[int, float, float], dict[Any, Any]]:
    """What ``add_patches`` was given, as few times as possible: the n-th patches of all weights of one strength."""
    layers: dict[tuple[int, float, float], dict[Any, Any]] = {}
    for key, of_weight in patches.items():
        for number, (strength, patch, strength_model, offset, function) in enumerate(of_weight):
            part = key if offset is None and function is None else (key, offset, function)
            layers.setdefault((number, strength, strength_model), {})[part] = patch
    return dict(sorted(layers.items(), key=lambda layer: layer[0][0]))


def _carry_weight_patches(source: Any, target: Any) -> None:
    for (_, strength, strength_model), patches in _layers(source.patches).items():
        target.add_patches(patches, strength, strength_model)
    state = target.model_state_dict()
    for key, functions in source.weight_wrapper_patches.items():
        if key in state:
            target.weight_wrapper_patches[key] = list(functions)
