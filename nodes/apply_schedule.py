"""SparseDiT Apply Schedule: a MODEL that follows a pruning schedule."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..sparsedit_core.config import BackboneConfig
from ..sparsedit_core.schedule import PruningSchedule
from .info import sparsedit_info
from .pruning_schedule import ScheduleType
from .schedule_patch import FULL_DENSITY, attach_schedule
from .show import show_text

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


def outside_note(schedule: PruningSchedule, config: BackboneConfig, trained: PruningSchedule | None) -> str:
    """What is worth knowing when ``schedule`` leaves the rates of training; empty when it does not.

    Without a stored schedule the model knows one token grid: that of ``config.sparse_side`` at its own size.
    """
    low, high = _rates(schedule)
    if trained is not None:
        known = _rates(trained)
        words = f"it was trained with rates {known[0]:.2f} to {known[1]:.2f}"
    else:
        rate = 1 - min(config.sparse_side**2 / (config.grid[0] * config.grid[1]), 1.0)
        known = rate, rate
        words = f"it is made for one token grid of side {config.sparse_side}, rate {rate:.2f}"
    if known[0] - 0.005 <= low and high <= known[1] + 0.005:
        return ""
    return f"outside the checkpoint's range: {words}, this schedule has {low:.2f} to {high:.2f}; expect worse pictures"


def _rates(schedule: PruningSchedule) -> tuple[float, float]:
    """Lowest and highest rate over the whole sampling, the parts without the schedule (rate 0) included."""
    whole = (schedule.start, schedule.end) == (0.0, 1.0)
    return schedule.rate_clean if whole else 0.0, schedule.rate_noise
