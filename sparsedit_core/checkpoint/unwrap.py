"""From what a file holds to one bare state dict (CHECKPOINTS 4)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .errors import CheckpointError, listed

# a training checkpoint's averaged weights are the ones to sample with
WRAPPERS = ("ema", "state_dict_ema", "model", "state_dict")
# ComfyUI writes a model under these, the longer one together with other parts of a pipeline
_COMFY_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
_OTHER_PARTS = (
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.",
    "text_encoders.",
    "vae.",
    "model_ema.",
    "model_sampling.",
)
_WRAPPER_PREFIX = re.compile(r"^(?:module\.)+")
OWN_PREFIX = "sparsedit."
"""Before every key of a sparse PixArt in our layout: ComfyUI's own loaders would take it for a dense one and leave what
they miss uninitialised; so they say that they do not know the model."""


def unwrap(content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state dict (``ema`` > ``state_dict_ema`` > ``model`` > ``state_dict`` > the file itself) and the ``args``.

    Keys lose the prefixes of DataParallel, torch.compile, ComfyUI and our own. Values are not looked at.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"the file holds a {type(content).__name__}, expected a dictionary of tensors")
    args = _as_dict(content.get("args"))
    chosen: Mapping[Any, Any] = {key: value for key, value in content.items() if key != "args"}
    for name in WRAPPERS:
        inner = content.get(name)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            chosen = inner
            break
    if not any(isinstance(value, Tensor) for value in chosen.values()):
        raise CheckpointError(
            f"the file has no tensors under {', '.join(WRAPPERS)} or at its top (entries: "
            f"{listed([str(key) for key in content]) or 'none'})"
        )
    return strip_prefixes({str(key): value for key, value in chosen.items()}), args


def strip_prefixes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Keys without ``module.``, ``_orig_mod.`` and ComfyUI's prefixes; two keys that become one are an error."""
    for prefix in _COMFY_PREFIXES:
        if any(key.startswith(prefix) for key in state):
            state = {key: value for key, value in state.items() if not key.startswith(_OTHER_PARTS)}
            state = {key.removeprefix(prefix): value for key, value in state.items()}
            break
    result: dict[str, Any] = {}
    for key, value in state.items():
        name = _WRAPPER_PREFIX.sub("", key.replace("_orig_mod.", "")).removeprefix(OWN_PREFIX)
        if name in result:
            raise CheckpointError(f"two entries are both called {name} once prefixes are removed (one is {key})")
        result[name] = value
    return result


def _as_dict(args: Any) -> dict[str, Any]:
    if isinstance(args, argparse.Namespace):
        return vars(args)
    return dict(args) if isinstance(args, Mapping) else {}
