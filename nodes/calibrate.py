"""SparseDiT Calibrate: a plan for a MODEL from one's own prompts, by dense runs that are measured."""

from __future__ import annotations

from typing import Any

import comfy.utils
from comfy_api.latest import io, ui

from ..sparsedit_core.cache.calibrate import Calibrator
from ..sparsedit_core.cache.calibrated import WEIGHTINGS, Choices, calibrate
from ..sparsedit_core.cache.draw import draw_plan
from ..sparsedit_core.cache.plan import FULL, SELECTORS, CachePlan, check_plan
from .cache_adapter import CacheAdapter
from .cache_adapters import adapter_of
from .cache_run import CacheSettings
from .info import model_name
from .inputs import share_slider
from .plans import Grids, PlanType, costs_of, latent_shape, plan_words
from .runs import take
from .sampler import sampled, sampler_inputs
from .schedule_patch import attach_cache, attached_to
from .show import show_text, to_image, told_on


class SparseDiTCalibrate(io.ComfyNode):  # type: ignore[misc]
    """MODEL, conditioning and LATENT to a plan."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTCalibrate",
            display_name="SparseDiT Calibrate",
            category="SparseDiT/cache",
            description=(
                "Make a plan for SparseDiT Token Cache from your own prompt: sample once with everything computed and "
                "measure what changes from step to step, solve for the best plan within the budget, and try a few "
                "candidates on the same noise. Use the sampler, steps and size that you will use. It takes one "
                "sampling and one more for each trial; keep the result with SparseDiT Save Plan."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A DiT or PixArt of this pack, or ComfyUI's own FLUX.1, Wan2.1 (from text or image) or "
                    "PixArt; LoRAs on it are measured too.",
                ),
                io.Conditioning.Input("positive", tooltip="What the picture shows, as for the sampler."),
                io.Conditioning.Input("negative", tooltip="What guidance moves away from, as for the sampler."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent to denoise. More pictures in it measure better and take longer.",
                ),
                *sampler_inputs("run"),
                share_slider(
                    "budget",
                    0.5,
                    "Share of the dense model's MACs that the plan may take. Lower is faster and strays "
                    "further from the dense picture; start at 0.5. SparseDiT Cache Plan can change it afterwards "
                    "without measuring again.",
                    low=0.05,
                ),
                io.Int.Input(
                    "trials",
                    default=4,
                    min=1,
                    max=len(WEIGHTINGS),
                    tooltip="Samplings under candidate plans, of which the one closest to the dense picture is kept. "
                    "1 tries none and is the fastest; more take longer and may find a better plan.",
                ),
                io.Combo.Input(
                    "selector",
                    options=list(SELECTORS),
                    default="age",
                    tooltip="Which tokens come first where a part of them is recomputed: those that waited longest "
                    "(age, costs nothing), that changed most (change), whose attention to the text is unsettled "
                    "(entropy, not for a DiT), or that others attend to most (influence). Acts with "
                    "partly.",
                ),
                io.Boolean.Input(
                    "partly",
                    default=False,
                    tooltip="Let all parts of the network but self-attention recompute some of their tokens. Off, "
                    "every part is recomputed as a whole or not at all, which takes less time for the same MACs.",
                ),
            ],
            outputs=[
                PlanType.Output(display_name="plan", tooltip="For SparseDiT Token Cache, Cache Plan and Save Plan."),
                io.Image.Output(display_name="picture", tooltip="The plan as a heat map, 900 x 600 pixels."),
                io.String.Output(display_name="text", tooltip="The MACs that it takes, and the errors of the trials."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,  # its picture on the node is reason enough to run
        )

    @classmethod
    def execute(  # one argument per input
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        budget: float,
        trials: int,
        selector: Any,
        partly: bool,
    ) -> io.NodeOutput:
        with told_on(cls):
            adapter = adapter_of(model)
            if steps < 2:
                raise ValueError(f"steps is {steps}; give at least 2, so that outputs can be compared")
            first = (1.0,), adapter.sublayers, ((FULL,) * len(adapter.sublayers),)
            check_plan(CachePlan(adapter.family, *first, selector=selector), adapter.family, adapter.sublayers)
            shape = latent_shape(model, adapter, latent_image)
            grids = Grids.of(model, shape)
            costs = costs_of(adapter, shape, grids, _text(positive))
        calibrator = Calibrator(adapter.family, adapter.sublayers, pictures=len(latent_image["samples"]))
        options = {"steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler, "denoise": denoise}
        runs = 1 + (trials if trials > 1 else 0)
        bar, number = comfy.utils.ProgressBar(runs * steps), 0

        def run(source: Calibrator | CachePlan) -> Any:
            nonlocal number
            what = "measuring" if number == 0 else f"trial {number} of {trials}"
            show_text(what, cls)
            done, number = number * steps, number + 1

            def after(step: int, _x0: Any, _x: Any, total: int) -> None:
                bar.update_absolute(done + round(steps * (step + 1) / max(total, 1)), runs * steps)

            return _run(model, adapter, source, (positive, negative, latent_image, seed, after, options))

        choices = Choices(("self",) if partly else ("all",), selector)
        with told_on(cls):
            plan = calibrate(calibrator, costs, budget, run, choices=choices, trials=trials)
        picture = to_image(draw_plan(plan, costs))
        text = plan_words(plan, costs, grids) + _trials(plan)
        show_text(text, cls)
        return io.NodeOutput(plan, picture, text, ui=ui.PreviewImage(picture, cls=cls))


def _run(model: Any, adapter: CacheAdapter, source: Calibrator | CachePlan, inputs: tuple[Any, ...]) -> Any:
    """One sampling with everything measured, or under a plan."""
    patched = model.clone()
    attach_cache(patched, CacheSettings(adapter, source), model_name(model), told=False)
    latent = sampled(patched, *inputs)
    take(attached_to(patched).token)  # its records are nobody else's
    return latent


def _text(conditioning: Any) -> int | None:
    """Text tokens of the longest prompt."""
    lengths = [each[0].shape[1] for each in conditioning if getattr(each[0], "ndim", 0) == 3]
    return max(lengths, default=None)


def _trials(plan: CachePlan) -> str:
    errors = [each["error"] for each in plan.provenance.get("trials", ())]
    if not errors:
        return ""
    least, most = min(errors), max(errors)
    return f"; typical squared error of the {len(errors)} trials {least:.2g} to {most:.2g}, the least is kept"
