"""SparseDiT Token Cache: a MODEL whose sub-layers recompute what a plan says, and reuse the rest."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sparsedit_core.cache.plan import CachePlan, check_plan
from .cache_adapters import adapter_of
from .cache_run import CacheSettings
from .info import model_name
from .inputs import share_slider
from .plans import PlanType
from .schedule_patch import attach_cache
from .show import show_text, told_on

GIB = 2**30


class SparseDiTTokenCache(io.ComfyNode):  # type: ignore[misc]
    """MODEL and plan to a clone under the plan."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTTokenCache",
            display_name="SparseDiT Token Cache",
            category="SparseDiT/cache",
            description=(
                "Sample faster by recomputing only what changes (DiffSparse): a plan says for every step and part of "
                "the network how many tokens are computed anew, the others reuse their last output. Works with the "
                "models of this pack and with ComfyUI's own FLUX.1, Wan2.1 and PixArt; no weights change. Without a "
                "plan the MODEL computes everything."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A DiT or PixArt of this pack, or ComfyUI's own FLUX.1, Wan2.1 (from text or image) or "
                    "PixArt; LoRAs on it act as ever. A compiled MODEL is refused when it is sampled.",
                ),
                PlanType.Input(
                    "plan",
                    optional=True,
                    tooltip="From SparseDiT Cache Plan or Calibrate, made for this model. Not connected, or its node "
                    "bypassed: everything is computed.",
                ),
                io.Float.Input(
                    "memory_limit",
                    default=0.0,
                    min=0.0,
                    max=1024.0,
                    step=0.1,
                    tooltip="Most memory that the kept outputs may take beside the model, in GiB; 0 sets no limit. The "
                    "log tells before a run what the plan needs. Where the limit is lower, the parts that save least "
                    "for their memory are computed in full; a limit too low for a single part stops the run.",
                ),
                share_slider(
                    "start_percent",
                    0.0,
                    "Part of the sampling where the plan starts to act; before, everything is computed. Higher keeps "
                    "closer to the dense picture and saves less.",
                ),
                share_slider(
                    "end_percent",
                    1.0,
                    "Part of the sampling where the plan stops to act; after, everything is computed. Lower gives "
                    "finer detail and saves less.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="A copy under the plan; the input stays as it was.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, memory_limit: float, start_percent: float, end_percent: float, plan: CachePlan | None = None
    ) -> io.NodeOutput:
        patched = model.clone()
        if plan is None:
            attach_cache(patched, None, model_name(model))
            show_text("no plan: everything is computed", cls)
            return io.NodeOutput(patched)
        with told_on(cls):
            adapter = adapter_of(model)
            check_plan(plan, adapter.family, adapter.sublayers)
        limit = round(memory_limit * GIB) or None
        settings = CacheSettings(adapter, plan, limit, 1.0 - start_percent, 1.0 - end_percent)
        attach_cache(patched, settings, model_name(model))
        return io.NodeOutput(patched)
