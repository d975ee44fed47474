"""SparseDiT Guidance: the original DiT's classifier-free guidance of three channels."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sparsedit_core.diffusion.guidance import OFFICIAL_CHANNELS
from .info import sparsedit_info


class SparseDiTGuidance(io.ComfyNode):  # type: ignore[misc]
    """A post-CFG function, which other nodes' functions can stand beside."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTGuidance",
            display_name="SparseDiT Guidance",
            category="SparseDiT",
            description=(
                "Guide only the first channels of the latent, as the original DiT and SparseDiT do (three of four), "
                "to reproduce their pictures. ComfyUI guides all of them, and so does the original PixArt as it is "
                "usually sampled (DPM-Solver); only its forward_with_cfg guides three. Nothing changes at cfg 1."
            ),
            inputs=[
                io.Model.Input("model", tooltip="A DiT or PixArt, dense or sparse."),
                io.Int.Input(
                    "channels",
                    default=OFFICIAL_CHANNELS,
                    min=1,
                    max=128,
                    tooltip="How many channels are guided, the first ones: 3 as in the original DiT. As many as the "
                    "latent has, or more, is ComfyUI's own guidance.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="A copy of the model with this guidance.")],
        )

    @classmethod
    def execute(cls, model: Any, channels: int) -> io.NodeOutput:
        sparsedit_info(model)
        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(keep_unguided(channels))
        return io.NodeOutput(patched)


def keep_unguided(channels: int) -> Any:
    """A post-CFG function that leaves the channels from ``channels`` on as the conditional prediction has them."""

    def post_cfg(args: dict[str, Any]) -> Tensor:
        guided: Tensor = args["denoised"].clone()
        guided[:, channels:] = args["cond_denoised"][:, channels:]
        return guided

    return post_cfg
