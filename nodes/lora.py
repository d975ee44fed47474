"""LoRAs made for the dense model act on a SparseDiT: patches of ``attn.qkv`` go to q, kv and v.

A generation or recovery block holds the fused projection as ``q`` and ``kv``, a Poolingformer only its ``v``. ComfyUI
would leave patches of the missing ``attn.qkv`` out, so the model patcher sends their rows to where they are now.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import comfy.lora
import torch
from comfy.patcher_extension import CallbacksMP
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ..sparsedit_core.config import BackboneConfig
from ..sparsedit_core.convert import qkv_rows
from .comfy_model import fused_shapes

log = logging.getLogger("sparsedit")

KEY = "sparsedit_lora"
_FUSED = re.compile(r"(diffusion_model\.blocks\.(\d+)\.attn)\.qkv\.(weight|bias)")
_DORA_SCALE = {"lora": 4, "loha": 7, "lokr": 8}  # adapters that change rows independently -> place of their scale
_LORA_RESHAPE = 5


class RowPatch(WeightAdapterBase):  # type: ignore[misc]
    """Some rows of a patch that was made for a larger weight; ``weights``: (patch, first row, all rows).

    ComfyUI builds adapters anew from ``(loaded_keys, weights)`` when it streams them, hence this signature.
    """

    name = "sparsedit_rows"

    def __init__(self, loaded_keys: set[str], weights: tuple[Any, int, int]) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,  # noqa: ARG002  (the caller has applied it)
        offset: Any,  # noqa: ARG002  (ComfyUI cut the weight already)
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weights: Any = None,
    ) -> Tensor:
        """Patch the whole weight, of which only our rows are known, and keep our rows."""
        patch, first, rows = self.weights
        own = slice(first, first + weight.shape[0])
        whole = weight.new_zeros((rows, *weight.shape[1:]))
        whole[own] = weight
        patches = [(strength, patch, 1.0, None, function)]
        whole = comfy.lora.calculate_weight(patches, whole, key, intermediate_dtype, original_weights)
        return weight.copy_(whole[own])


def split_patches(patches: Mapping[Any, Any], config: BackboneConfig) -> tuple[dict[Any, Any], dict[Any, list[Any]]]:
    """Patches with those of a split ``attn.qkv`` rewritten, and for each original key the keys it became.

    Keys are ComfyUI's: a name, or (name, (dimension, start, length)[, function]) for a part of a weight. What has no
    place is left out and reported in one line.
    """
    result: dict[Any, Any] = {}
    became: dict[Any, list[Any]] = {}
    fused = fused_shapes(config)
    partly: set[str] = set()
    refused: dict[str, str] = {}
    for key, patch in patches.items():
        name, offset, *rest = (key, None) if isinstance(key, str) else (*key, None)[: max(len(key), 2)]
        if name not in fused:
            result[key], became[key] = patch, [key]
            continue
        problem = _not_by_rows(patch, offset)
        if problem:
            refused[name], became[key] = problem, []
            continue
        start, length = (offset[1], offset[2]) if offset else (0, fused[name][0])
        became[key] = []
        taken = 0
        for part, rows in _parts(name, config):
            low, high = max(rows[0], start), min(rows[1], start + length)
            if low < high:
                new_key = (part, (0, low - rows[0], high - low), *rest)
                result[new_key] = _rows_of(patch, low - start, high - low, length)
                became[key].append(new_key)
                taken += high - low
        if taken < length:
            partly.add(name)
    _report(partly, refused)
    return result, became


def _parts(name: str, config: BackboneConfig) -> list[tuple[str, tuple[int, int]]]:
    """Name and rows of each projection that the fused weight or bias ``name`` is held in."""
    match = _FUSED.fullmatch(name)
    assert match is not None  # fused_shapes made the name
    assert config.layout is not None
    role = config.layout.roles[int(match[2])]
    return [(f"{match[1]}.{part}.{match[3]}", rows) for part, rows in qkv_rows(role, config.hidden_size).items()]


def _not_by_rows(patch: Any, offset: Any) -> str | None:
    """Why a patch cannot be cut into rows, or None."""
    if offset is not None and offset[0] != 0:
        return "a patch of columns"
    if not isinstance(patch, WeightAdapterBase) or isinstance(patch, RowPatch):
        return None
    place = _DORA_SCALE.get(patch.name)
    if place is None:
        return f"a {patch.name} patch, which mixes rows"
    weights = patch.weights
    scale = weights[place] if len(weights) > place else None
    if scale is not None and scale.shape[0] == 1:
        return "a DoRA whose scale is per column"
    if patch.name == "lora" and len(weights) > _LORA_RESHAPE and weights[_LORA_RESHAPE] is not None:
        return "a LoRA that changes the weight's shape"
    return None


def _rows_of(patch: Any, first: int, count: int, rows: int) -> Any:
    """The patch of ``count`` rows from ``first`` on, of a patch for ``rows`` rows."""
    if isinstance(patch, tuple) and (len(patch) == 1 or isinstance(patch[1], tuple)):  # (diff,) or (kind, (diff, ...))
        values = patch[0] if len(patch) == 1 else patch[1][0]
        if isinstance(values, Tensor) and values.shape[0] == rows:
            part = values[first : first + count]
            return (part,) if len(patch) == 1 else (patch[0], (part, *patch[1][1:]))
    loaded = getattr(patch, "loaded_keys", set())
    return RowPatch(loaded, (patch, first, rows))


def _report(partly: set[str], refused: Mapping[str, str]) -> None:
    if partly:
        blocks = {name.rpartition(".attn.")[0] for name in partly}  # weight and bias are one block
        log.warning(
            "LoRA: the q and k of %d Poolingformer blocks are left out: pooled attention has only v", len(blocks)
        )
    if refused:
        log.warning(
            "LoRA: %d patches of attn.qkv are left out, because these blocks hold q, k and v apart: %s",
            len(refused),
            ", ".join(sorted(set(refused.values()))),
        )


class SplitQkv:
    """Mixed into ComfyUI's model patcher."""

    model: Any

    def add_patches(self, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0) -> list[Any]:
        """ComfyUI's method; returns the keys of ``patches`` that were accepted."""
        rewritten, became = split_patches(patches, self.model.sparsedit.config)
        accepted = set(super().add_patches(rewritten, strength_patch, strength_model))  # type: ignore[misc]
        return [key for key, parts in became.items() if accepted.intersection(parts)]

    def add_hook_patches(
        self, hook: Any, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        """The same for patches that a conditioning switches on."""
        rewritten, became = split_patches(patches, self.model.sparsedit.config)
        accepted = set(super().add_hook_patches(hook, rewritten, strength_patch, strength_model))  # type: ignore[misc]
        return [key for key, parts in became.items() if accepted.intersection(parts)]

    def set_injections(self, key: str, injections: Any) -> None:
        """ComfyUI's method; LoRAs that run beside the weights find no ``attn.qkv`` module in the split blocks."""
        if key == "bypass_lora" and fused_shapes(self.model.sparsedit.config):
            log.warning(
                "Load LoRA (Bypass) does not reach q, k and v of generation, recovery and pooled blocks; use Load LoRA"
            )
        super().set_injections(key, injections)  # type: ignore[misc]

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        """The real weights, without the stand-ins for names."""
        state = super().model_state_dict(filter_prefix)  # type: ignore[misc]
        fused = fused_shapes(self.model.sparsedit.config)
        return {key: value for key, value in state.items() if key not in fused}


@lru_cache(maxsize=8)
def _patcher_class(base: type) -> type:
    return type(base.__name__, (SplitQkv, base), {"__module__": __name__})


def split_qkv_patches(patcher: Any) -> None:
    """Give a model patcher and all its future clones :class:`SplitQkv`.

    The class is replaced on the object because ComfyUI chooses the patcher's class itself, and on every clone because
    ``clone(disable_dynamic=True)`` goes back to the plain one.
    """
    _adopt(patcher, patcher)
    patcher.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, _adopt)


def _adopt(_source: Any, patcher: Any) -> None:
    if not isinstance(patcher, SplitQkv):
        patcher.__class__ = _patcher_class(type(patcher))
