"""The ComfyUI nodes. No method is computed here: that is sparsedit_core's."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply_schedule import SparseDiTApplySchedule
from .cache_plan import SparseDiTCachePlan
from .calibrate import SparseDiTCalibrate
from .caption import SparseDiTCaption
from .class_label import SparseDiTClassLabel
from .compare import SparseDiTCompare
from .convert import SparseDiTConvert
from .guidance import SparseDiTGuidance
from .load_checkpoint import SparseDiTLoadCheckpoint
from .patch_model import SparseDiTPatchModel
from .plans import register_folder
from .pruning_schedule import SparseDiTPruningSchedule
from .report import SparseDiTReport
from .routes import register_routes
from .save_checkpoint import SparseDiTSaveCheckpoint
from .save_image import SparseDiTSaveImage
from .save_plan import SparseDiTSavePlan
from .schedule_grid import SparseDiTScheduleGrid
from .token_cache import SparseDiTTokenCache
from .token_map import SparseDiTTokenMap

NODES: list[type[io.ComfyNode]] = [
    SparseDiTLoadCheckpoint,
    SparseDiTPruningSchedule,
    SparseDiTApplySchedule,
    SparseDiTPatchModel,
    SparseDiTConvert,
    SparseDiTSaveCheckpoint,
    SparseDiTClassLabel,
    SparseDiTCaption,
    SparseDiTGuidance,
    SparseDiTReport,
    SparseDiTCompare,
    SparseDiTTokenMap,
    SparseDiTScheduleGrid,
    SparseDiTSaveImage,
    SparseDiTTokenCache,
    SparseDiTCachePlan,
    SparseDiTCalibrate,
    SparseDiTSavePlan,
]

register_folder()


class SparseDiTExtension(ComfyExtension):  # type: ignore[misc]
    """Tells ComfyUI which nodes there are."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> SparseDiTExtension:
    """Called by ComfyUI when it loads the pack."""
    register_routes()
    return SparseDiTExtension()
