"""SparseDiT Apply Schedule: a MODEL that follows a pruning schedule."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..sparsedit_core.schedule import PruningSchedule
from ..sparsedit_core.schedule_view import outside_note
from .info import sparsedit_info
from .pruning_schedule import ScheduleType
from .schedule_patch import FULL_DENSITY, attach_schedule
from .show import show_text, told_on

log = logging.getLogger("sparsedit")


class SparseDiTApplySchedule(io.ComfyNode):  # type: ignore[misc]
    """MODEL and schedule to a clone that follows it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTApplySchedule",
            display_name="SparseDiT Apply Schedule",
            category="SparseDiT",
            description=(
                "Make a sparse DiT or PixArt follow a pruning schedule, whichever the sampler and the number of steps. "
                "It replaces the schedule that came with the checkpoint. Without a schedule every token is computed "
                "at every step."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A sparse MODEL of SparseDiT Load Checkpoint, Patch Model or Convert."),
                ScheduleType.Input(
                    "schedule",
                    optional=True,
                    tooltip="From SparseDiT Pruning Schedule. Not connected, or its node bypassed: full density.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="A copy that follows the schedule; the input stays as it was.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, schedule: PruningSchedule | None = None) -> io.NodeOutput:
        with told_on(cls):
            info = sparsedit_info(model)
            if info.layout is None:
                raise ValueError(
                    f"{info.source} is a dense {info.name}, which has no sparse tokens to schedule; load a sparse "
                    "checkpoint, or put SparseDiT Patch Model or SparseDiT Convert in front of this node"
                )
        schedule = schedule or FULL_DENSITY
        note = outside_note(schedule, info.config, info.schedule)
        if note:
            log.warning("SparseDiT Apply Schedule: %s", note)
        show_text(note, cls)
        patched = model.clone()
        attach_schedule(patched, schedule)
        return io.NodeOutput(patched)
