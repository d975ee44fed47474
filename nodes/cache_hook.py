"""How a token cache reaches the blocks of ComfyUI's own FLUX and Wan: by a wrapper of their forward.

The wrapper is the same function for every call and the visit comes as a keyword argument: what a compiled region reads
from ``transformer_options`` freezes at its first value. It runs uncompiled, and so do the blocks under it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key, copy_nested_dicts
from torch import Tensor

from ..sparsedit_core.cache.plan import NONE
from ..sparsedit_core.cache.visit import Visit
from .cache_adapter import Hooked

KEY = "sparsedit_visit"
Walk = Callable[[dict[str, Any]], dict[str, Any]]
"""A block on the arguments that core gives to ``patches_replace``."""


def uncompiled(wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """``wrapper`` as a hook that ``torch.compile`` leaves alone: that of other packs, which is not refused."""
    disabled: Callable[..., Any] = torch.compiler.disable(wrapper)  # type: ignore[no-untyped-call]
    return disabled


def hook(
    wrapper: Callable[..., Any], visit: Visit, options: dict[str, Any], keywords: dict[str, Any]
) -> Hooked:
    """Options and keywords of a call, copied, with which the network's forward is under ``visit``."""
    options = {**options, "wrappers": copy_nested_dicts(options.get("wrappers", {}))}
    add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper, options)
    return options, {**keywords, KEY: visit}


def with_walks(options: Mapping[str, Any], walks: Mapping[tuple[str, int], Walk]) -> dict[str, Any]:
    """The options with every block replaced by its walk, inside what another node replaces it with."""
    replaced = dict(options.get("patches_replace", {}))
    blocks = dict(replaced.get("dit", {}))
    for key, walk in walks.items():
        blocks[key] = _inside(blocks.get(key), walk)
    return {**options, "patches_replace": {**replaced, "dit": blocks}}


def _inside(other: Callable[..., Any] | None, walk: Walk) -> Callable[..., Any]:
    def replacement(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        return walk(args) if other is None else other(args, {**extra, "original_block": walk})

    return replacement


def note_skipped(visit: Visit) -> None:
    """Blocks that another node left out (skip-layer guidance) did nothing."""
    for name in visit.sublayers:
        visit.done.setdefault(name, NONE)


def tokens_of(x: Tensor, index: Tensor) -> Tensor:
    """Of x (B or 1, H, L, ...) the tokens ``index`` (K,) or (B, K) along dimension 2."""
    if index.ndim == 1:
        return x.index_select(2, index)
    pictures = torch.arange(len(index), device=index.device)[:, None]
    return x.expand(len(index), *x.shape[1:]).movedim(1, 2)[pictures, index].movedim(2, 1)
