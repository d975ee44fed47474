"""The account of one call of a model: what it computed, on which tokens, in how many seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..sparsedit_core.cache.visit import Visit
from ..sparsedit_core.config import BackboneConfig, PixArtConfig
from ..sparsedit_core.run_record import Evaluation, measure
from ..sparsedit_core.schedule import Grid, PruningSchedule
from ..sparsedit_core.tokens import default_sparse_grid
from .cache_adapter import CacheAdapter, Size

COMPILED = "torch.compile"
"""Key of ComfyUI's own wrapper of compiled models."""


class Call(NamedTuple):
    """``time`` 1 noise .. 0 image, ``timestep`` as the model is given it, the sparse grid, whether the model ran or
    another node's cache answered, and the seconds."""

    time: float
    timestep: float
    sparse: Grid | None
    computed: bool
    seconds: float


def own_evaluation(config: BackboneConfig, x: Any, text: Any, call: Call, visit: Visit | None) -> Evaluation:
    """Of a model of this pack for latents x (B, C, H, W) and text features (B, L, D)."""
    images = x.shape[0]
    length = text.shape[-2] if isinstance(config, PixArtConfig) and text is not None else None  # a DiT reads none
    return measure(
        config,
        call.time,
        call.timestep,
        dense_grid(config, x.shape),
        call.sparse,
        images,
        images if call.computed else 0,
        call.seconds,
        length,
        visit if call.computed else None,
    )


def adapted_evaluation(
    adapter: CacheAdapter, x: Any, text: Any, keywords: Mapping[str, Any], call: Call, visit: Visit
) -> Evaluation:
    """Of a model of ComfyUI's own, called with these keywords, under a token cache."""
    images, length = x.shape[0], None if text is None else text.shape[-2]
    costs, grid = adapter.costs(Size(x.shape, length, beside=adapter.beside(keywords))), adapter.grid(x.shape)
    own = images * costs.at(visit.levels()) + visit.watching if call.computed else 0
    rows = grid[0] if len(grid) == 2 else grid[0] * grid[1]  # frames one below the other
    dense, done = (rows, grid[-1]), visit.recomputed if call.computed else None
    return Evaluation(
        call.time, call.timestep, dense, None, images, own, images * costs.dense, call.seconds, length, done
    )


def setting(x: Any, model: Any, transformer_options: dict[str, Any]) -> str:
    """What an evaluation's seconds depend on beside its sizes: "float16 on cuda, compiled"."""
    dtype = model.manual_cast_dtype or model.get_dtype()
    compiled = ", compiled" if is_compiled(transformer_options) else ""
    return f"{str(dtype).removeprefix('torch.')} on {x.device.type}{compiled}"


def is_compiled(transformer_options: dict[str, Any]) -> bool:
    """Whether ComfyUI's compile node acts."""
    return COMPILED in transformer_options.get("wrappers", {}).get("apply_model", {})


def dense_grid(config: BackboneConfig, shape: Sequence[int]) -> Grid:
    """Tokens (rows, columns) of latents of ``shape`` (..., H, W)."""
    return -(-shape[-2] // config.patch_size), -(-shape[-1] // config.patch_size)


def sparse_grid(config: BackboneConfig, schedule: PruningSchedule | None, time: float, dense: Grid) -> Grid | None:
    """Sparse tokens at a diffusion time; ``None`` for a dense model."""
    if config.layout is None:
        return None
    return schedule.grid(time, dense) if schedule else default_sparse_grid(dense, config.sparse_side)
