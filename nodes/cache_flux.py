"""FLUX.1 of ComfyUI's own loaders under a token cache: its blocks walked with selected queries and all keys.

The walk replaces every block of the network that is called (``patches_replace``), inside whatever other nodes put
there. It calls the block's own layers, so LoRA, casting and offloading act as ever. Text, and the tokens of reference
pictures (Kontext), which follow those of the picture, are computed whenever a sub-layer is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.model_base
from comfy.ldm.flux.model import Flux
from torch import Tensor

from ..sparsedit_core.cache.costs import Costs
from ..sparsedit_core.cache.costs_flux import TEXT_TOKENS, FluxShape, flux_bytes, flux_costs, flux_names
from ..sparsedit_core.cache.visit import Visit
from ..sparsedit_core.tokens import Grid
from .cache_adapter import CacheAdapter, Hooked, Size
from .cache_hook import KEY, Walk, hook, note_skipped, uncompiled, with_walks
from .flux_walk import FluxWalk


class FluxAdapter(CacheAdapter):
    """A FLUX.1 MODEL."""

    family = "flux"

    def __init__(self, shape: FluxShape, patch_size: int) -> None:
        self.shape, self._patch = shape, patch_size
        self.sublayers = flux_names(shape)

    @classmethod
    def of(cls, model: Any) -> FluxAdapter:
        """The adapter for ComfyUI's model (``patcher.model``), which :func:`is_flux` says is one."""
        network = model.diffusion_model
        params = network.params
        shape = FluxShape(
            hidden_size=params.hidden_size,
            mlp_hidden=int(params.hidden_size * params.mlp_ratio),
            depth=params.depth,
            depth_single=params.depth_single_blocks,
            inputs=network.in_channels,
            outputs=network.out_channels,
            context=params.context_in_dim,
            vector=params.vec_in_dim,
            guidance=bool(params.guidance_embed),
        )
        return cls(shape, params.patch_size)

    def grid(self, shape: Sequence[int]) -> Grid:
        return grid_of(shape, self._patch)

    def beside(self, given: Mapping[str, Any]) -> int:
        """Tokens of reference pictures (Kontext), in a call's keywords or a condition."""
        return reference_tokens(given.get("ref_latents") or given.get("reference_latents"), self._patch)

    def costs(self, size: Size) -> Costs:
        return flux_costs(self.shape, self.grid(size.shape), _text(size), size.beside)

    def sizes(self, size: Size, itemsize: int, names: Sequence[str]) -> dict[str, int]:
        return flux_bytes(
            self.shape, self.grid(size.shape), _text(size), size.shape[0], itemsize, names, size.beside
        )

    @contextmanager
    def hooked(self, visit: Visit, options: dict[str, Any], keywords: dict[str, Any]) -> Iterator[Hooked]:
        yield hook(_WRAPPER, visit, options, keywords)


def _text(size: Size) -> int:
    return TEXT_TOKENS if size.text is None else size.text


def is_flux(model: Any) -> bool:
    """True for ComfyUI's model of a FLUX.1; Chroma, Flux 2, LongCat and others derive from it or share its blocks."""
    if type(model) is not comfy.model_base.Flux or type(model.diffusion_model) is not Flux:
        return False
    params = model.diffusion_model.params
    later = ("global_modulation", "mlp_silu_act", "yak_mlp", "txt_norm")  # 0.3.64 has none of them
    return not any(getattr(params, name, False) for name in later) and params.vec_in_dim is not None


def grid_of(shape: Sequence[int], patch: int) -> Grid:
    """Token grid of a latent (..., H, W), which is filled up to whole patches."""
    return -(-shape[-2] // patch), -(-shape[-1] // patch)


def reference_tokens(latents: Sequence[Any] | None, patch: int) -> int:
    """Tokens of a list of reference latents."""
    return sum(math.prod(grid_of(each.shape, patch)) for each in latents or ())


def _under_cache(
    executor: Any,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    y: Any = None,
    guidance: Any = None,
    ref_latents: Any = None,
    control: Any = None,
    transformer_options: Any = {},  # noqa: B006  (the signature of core's forward)
    **keywords: Any,
) -> Any:
    """Wrapper of FLUX's forward."""
    visit: Visit = keywords.pop(KEY)
    network = executor.class_obj
    method = keywords.get("ref_latents_method", getattr(network.params, "default_ref_method", "offset"))
    if ref_latents and method == "index_timestep_zero":
        raise ValueError(
            "the reference latents are conditioned on a time of their own (index_timestep_zero), which FLUX under a "
            "token cache cannot follow; choose another reference method, or take the token cache away"
        )
    patch = network.patch_size
    walk = FluxWalk(visit, grid_of(x.shape, patch), reference_tokens(ref_latents, patch))
    double, single = enumerate(network.double_blocks), enumerate(network.single_blocks)
    walks: dict[tuple[str, int], Walk] = {
        **{("double_block", i): partial(walk.double, block, f"double.{i}") for i, block in double},
        **{("single_block", i): partial(walk.single, block, f"single.{i}") for i, block in single},
    }
    options = with_walks(transformer_options, walks)
    out = executor(x, timestep, context, y, guidance, ref_latents, control, options, **keywords)
    note_skipped(visit)
    return out


_WRAPPER = uncompiled(_under_cache)
