"""SparseDiT Report: what the finished sampling of a MODEL computed, as text, picture and JSON."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..sparsedit_core.measured import speedup
from ..sparsedit_core.plots_run import draw_run
from ..sparsedit_core.run_record import RunRecord
from .runs import find, finished, node_text
from .schedule_patch import attached_to
from .show import show_text, to_image


class SparseDiTReport(io.ComfyNode):  # type: ignore[misc]
    """MODEL and sampled LATENT to an account of the runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTReport",
            display_name="SparseDiT Report",
            category="SparseDiT",
            description=(
                "Tell what a sampling computed: time, token grid, MACs and seconds of every evaluation, and the total "
                "against the dense model. Put it between the sampler and the VAE decoder. It works for dense and "
                "sparse models of this pack; sample the dense model too, and it also tells how much faster the sparse "
                "one was."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that the sampler was given."),
                io.Latent.Input("latent", tooltip="The sampler's result; passed through."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The latent, unchanged."),
                io.String.Output(display_name="text", tooltip="A table of the evaluations, and totals."),
                io.Image.Output(display_name="picture", tooltip="One picture per run, 900 x 600 pixels."),
                io.String.Output(display_name="json", tooltip="The same as JSON: MACs, FLOPs, grids, times, seconds."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            is_output_node=True,  # its picture on the node is reason enough to run
        )

    @classmethod
    def execute(cls, model: Any, latent: dict[str, Any]) -> io.NodeOutput:
        runs = runs_before(model, cls.hidden)
        against = [speedup(run, finished()) for run in runs]
        told = list(zip(runs, against, strict=True))
        text = "\n\n".join(run.text() + (f"\n{faster.line()}" if faster else "") for run, faster in told)
        pictures = torch.cat([to_image(draw_run(run, against=faster)) for run, faster in told])
        lines = [run.headline() + (f", {faster.words}" if faster else "") for run, faster in told]
        show_text("\n".join(lines), cls)
        rows = [{**run.to_json(), "measured_speedup": faster.to_json() if faster else None} for run, faster in told]
        report = json.dumps({"runs": rows}, indent=1)
        return io.NodeOutput(latent, text, pictures, report, ui=ui.PreviewImage(pictures, cls=cls))


def runs_before(model: Any, hidden: Any) -> list[RunRecord]:
    """The runs of ``model`` that led to the node of ``hidden``; ``ValueError`` where there is none."""
    attached = attached_to(model)
    runs = find(attached.token, attached.signature, sampled_by(hidden))
    if not runs:
        raise ValueError(
            "no sampling with this MODEL led to this latent; connect the MODEL that the sampler is given and the "
            "sampler's latent, or, if it ran long ago, change the seed to sample again"
        )
    return runs


def sampled_by(hidden: Any) -> dict[str, str] | None:
    """All nodes whose results lead to the node of ``hidden``, and what they are; ``None`` outside a prompt."""
    if hidden is None:
        return None
    dynprompt, waiting = hidden.dynprompt, [hidden.unique_id]
    found: set[str] = set()
    while waiting:
        inputs = dynprompt.get_node(waiting.pop())["inputs"].values()
        links = {value[0] for value in inputs if isinstance(value, list) and len(value) == 2}
        new = {source for source in links if isinstance(source, str) and dynprompt.has_node(source)} - found
        waiting += new
        found |= new
    return {source: node_text(dynprompt, source) for source in found}
