"""SparseDiT Save Plan: a plan of a token cache as a small JSON file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..sparsedit_core.cache.plan import CachePlan, write_plan
from .plans import FOLDER, PlanType
from .show import show_text

_NAME = re.compile(r"[\w(][\w .,()+-]{0,98}")


class SparseDiTSavePlan(io.ComfyNode):  # type: ignore[misc]
    """Writes what SparseDiT Cache Plan and the command line read."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTSavePlan",
            display_name="SparseDiT Save Plan",
            category="SparseDiT/cache",
            description=(
                "Save a cache plan, with its calibration, as JSON in models/sparsedit_plans. SparseDiT Cache Plan "
                "offers it after a refresh (R). The file is small and can be shared like a workflow."
            ),
            inputs=[
                PlanType.Input("plan", tooltip="From SparseDiT Calibrate or SparseDiT Cache Plan."),
                io.String.Input(
                    "name",
                    default="my plan",
                    tooltip="File name without ending: letters, digits, spaces and . , ( ) + - _, beginning with a "
                    "letter or digit. Nothing is overwritten: if the name is taken, a number is added.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file that was written.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        return True if name is None else _problem(name) or True

    @classmethod
    def execute(cls, plan: CachePlan, name: str) -> io.NodeOutput:
        problem = _problem(name)
        if problem:
            raise ValueError(problem)
        folder = Path(folder_paths.get_folder_paths(FOLDER)[0])
        os.makedirs(folder, exist_ok=True)
        path, number = folder / f"{name.strip()}.json", 2
        while path.exists():
            path, number = folder / f"{name.strip()} {number}.json", number + 1
        write_plan(path, plan)
        show_text(f"saved models/{FOLDER}/{path.name}", cls)
        return io.NodeOutput(str(path))


def _problem(name: str) -> str | None:
    if _NAME.fullmatch(name.strip()):
        return None
    return f"the plan's name is {name!r}; give 1 to 99 letters, digits, spaces or . , ( ) + - _, no folder"
