"""SparseDiT Cache Plan: a plan by rule, from a file or from a calibration, for a budget; drawn."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..sparsedit_core.cache.draw import draw_plan
from ..sparsedit_core.cache.plan import CachePlan
from .cache_adapters import adapter_of
from .files import stamp_of
from .inputs import share_slider
from .plan_view import BY_RULE, Subject, Widgets, plan_for, remember
from .plans import Grids, PlanType, costs_of, latent_shape, plan_names, plan_of_name, plan_path, plan_words
from .show import to_image, told_on


class SparseDiTCachePlan(io.ComfyNode):  # type: ignore[misc]
    """Widgets to a CachePlan, drawn."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTCachePlan",
            display_name="SparseDiT Cache Plan",
            category="SparseDiT/cache",
            description=(
                "A plan for SparseDiT Token Cache: which share of its tokens each part of the network recomputes at "
                "each step. It comes by a simple rule, from a saved or bundled file, or from SparseDiT Calibrate; a "
                "calibrated plan is solved again for the budget of the slider. The picture on the node follows the "
                "slider: steps across, blocks down; the darker, the more is recomputed."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that the plan is for."),
                io.Combo.Input(
                    "source",
                    options=[*BY_RULE, *plan_names()],
                    default=next(iter(BY_RULE)),
                    tooltip="A rule, a bundled plan, or a file of models/sparsedit_plans. Rules need no measuring, but "
                    "know nothing of the model: uniform recomputes the same share at every step; fora everything at "
                    "every n-th step and nothing between; toca as fora, and between some tokens by depth and kind.",
                ),
                share_slider(
                    "budget",
                    0.5,
                    "Share of the dense model's MACs that a sampling may take. Lower is faster and strays "
                    "further from the dense picture; start at 0.5. Acts on rules and calibrated plans; a learned plan "
                    "keeps its own.",
                    low=0.05,
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=2,
                    max=1000,
                    tooltip="Sampler steps that a rule is laid out for; files keep their own. A sampling of another "
                    "number of steps also works: each step takes the row of the nearest time.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(comfy.samplers.KSampler.SCHEDULERS),
                    default="simple",
                    tooltip="Where a rule's steps lie; choose the one of the sampler.",
                ),
                PlanType.Input(
                    "plan",
                    optional=True,
                    tooltip="A plan of SparseDiT Calibrate, to solve for another budget; source, steps and scheduler "
                    "are then ignored.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="MACs are counted for the size of this latent; not connected, for a usual one.",
                ),
            ],
            outputs=[
                PlanType.Output(display_name="plan", tooltip="For SparseDiT Token Cache."),
                io.Image.Output(display_name="picture", tooltip="The plan as a heat map, 900 x 600 pixels."),
                io.String.Output(display_name="text", tooltip="The MACs that it takes."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,  # visited even when all is cached: the picture on it needs what it ran with
        )

    @classmethod
    def validate_inputs(cls, source: str | None = None) -> bool | str:
        try:
            if source is not None and source not in BY_RULE:
                plan_of_name(source)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, source: str | None = None, **_: Any) -> str:
        return "" if source is None or source in BY_RULE else stamp_of(plan_path(source))

    @classmethod
    def execute(
        cls,
        model: Any,
        source: str,
        budget: float,
        steps: int,
        scheduler: str,
        plan: CachePlan | None = None,
        latent: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        with told_on(cls):
            adapter = adapter_of(model)
            shape = latent_shape(model, adapter, latent)
            grids = Grids.of(model, shape)
            costs = costs_of(adapter, shape, grids)
            sampling = model.get_model_object("model_sampling")
            subject = Subject(adapter.family, adapter.sublayers, costs, sampling, plan, grids)
            found, note = plan_for(subject, Widgets(source, budget, steps, scheduler))
        picture = to_image(draw_plan(found, costs))
        text = plan_words(found, costs, grids) + note
        return io.NodeOutput(found, picture, text, ui={"sparsedit_plan": [remember(subject)]})
