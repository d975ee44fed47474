"""Plans of a token cache in ComfyUI: their type, their folder, and the size of picture that they are drawn for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..sparsedit_core.bundled import bundled_plans
from ..sparsedit_core.cache.costs import Costs
from ..sparsedit_core.cache.plan import CachePlan, read_plan
from ..sparsedit_core.cache.scheduled import scheduled_macs
from ..sparsedit_core.config import BackboneConfig
from ..sparsedit_core.schedule import PruningSchedule
from ..sparsedit_core.tokens import Grid
from ..sparsedit_core.units import macs_text
from .cache_adapter import CacheAdapter, Size
from .evaluations import dense_grid, sparse_grid
from .info import SparseDiTInfo
from .schedule_patch import attached_schedule

PlanType = io.Custom("SPARSEDIT_CACHE_PLAN")

FOLDER = "sparsedit_plans"
"""Below ComfyUI's models folder."""
_BUNDLED = "bundled: "
USUAL_LATENTS = {"flux": (1, 16, 128, 128), "wan": (1, 16, 9, 60, 104)}
"""What a plan is drawn for where no latent is given: FLUX at 1024 x 1024, Wan at 832 x 480 and 33 frames."""


def register_folder() -> None:
    """Let ComfyUI list the plans; its extra_model_paths may add other folders of this name."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = paths, {".json"}


def plan_names() -> list[str]:
    """What a file widget offers."""
    return [*(_BUNDLED + name for name in bundled_plans()), *folder_paths.get_filename_list(FOLDER)]


def plan_path(name: str) -> Path:
    """The file of an offered name; ``ValueError`` if it is gone."""
    bundled = bundled_plans().get(name.removeprefix(_BUNDLED)) if name.startswith(_BUNDLED) else None
    path = bundled or folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise ValueError(
            f"the plan {name!r} is not in models/{FOLDER}; put it there, or press R in ComfyUI to refresh the list and "
            "choose another"
        )
    return Path(path)


def plan_of_name(name: str) -> CachePlan:
    """Read an offered plan; ``ValueError`` says what is wrong with it, by its name alone."""
    path = plan_path(name)
    try:
        return read_plan(path)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), name)) from error


def latent_shape(model: Any, adapter: CacheAdapter, latent: dict[str, Any] | None) -> tuple[int, ...]:
    """The latent of one picture: that of ``latent``, of the model's own size, or a usual one of its family."""
    if latent is not None:
        return 1, *latent["samples"].shape[1:]
    info = getattr(model.model, "sparsedit", None)
    if isinstance(info, SparseDiTInfo):
        return 1, info.config.in_channels, *info.config.input_size
    return USUAL_LATENTS.get(adapter.family, (1, model.model.latent_format.latent_channels, 128, 128))


def plan_words(plan: CachePlan, costs: Costs, grids: Grids | None = None) -> str:
    """What a plan takes, for a line on a node; ``grids`` of a sparse model, whose changes of grid count."""
    if grids is None:
        share, macs = plan.share(costs.macs, costs.outside), plan.macs(costs.macs, costs.outside)
        return f"{100 * share:.1f} % of dense MACs, {macs_text(macs)} a picture"
    found = scheduled_macs(plan, grids.config, grids.dense, [grids.at(time) for time in plan.times])
    words = f"{100 * found.share:.1f} % of dense MACs (the sparse model alone {100 * found.sparse_share:.1f} %)"
    return f"{words}, {macs_text(found.macs)} a picture; {found.forced} entries made full by changes of the grid"


@dataclass(frozen=True)
class Grids:
    """The token grids of a sparse model: dense, and sparse at a diffusion time."""

    config: BackboneConfig
    dense: Grid
    schedule: PruningSchedule | None

    @classmethod
    def of(cls, model: Any, shape: tuple[int, ...]) -> Grids | None:
        """Those of a MODEL of this pack for latents of ``shape``; ``None`` of a dense one or another maker's."""
        info = getattr(model.model, "sparsedit", None)
        if not isinstance(info, SparseDiTInfo) or info.layout is None:
            return None
        return cls(info.config, dense_grid(info.config, shape), attached_schedule(model))

    def at(self, time: float) -> Grid:
        """The sparse grid."""
        found = sparse_grid(self.config, self.schedule, time, self.dense)
        assert found is not None
        return found


def costs_of(adapter: CacheAdapter, shape: Sequence[int], grids: Grids | None, text: int | None = None) -> Costs:
    """MACs of the sub-layers for one latent of ``shape``; of a sparse model on the largest grid of its schedule."""
    return adapter.costs(Size(shape, text, None if grids is None else grids.at(0.0)))
