"""SparseDiT Token Map: the token grids of a sampling over its picture."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..sparsedit_core.token_map import PANELS, STYLES, draw_token_map, nearest, parse_times, preview_colours
from .report import runs_before
from .show import show_text, to_image

TIMES = "1, 0.75, 0.5, 0.25, 0"


class SparseDiTTokenMap(io.ComfyNode):  # type: ignore[misc]
    """MODEL, sampled LATENT and its picture to panels of token grids."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTTokenMap",
            display_name="SparseDiT Token Map",
            category="SparseDiT",
            description=(
                "See what sparse early, dense late means: the token grid that a sampling used at some times, drawn "
                "over the picture, with its tokens and MACs against the dense model. Connect the MODEL that the "
                "sampler was given and the sampler's latent."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that the sampler was given."),
                io.Latent.Input("latent", tooltip="The sampler's result."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip=(
                        "The decoded picture to draw on. Without it the rough colours of ComfyUI's latent preview are "
                        "drawn on."
                    ),
                ),
                io.String.Input(
                    "times",
                    default=TIMES,
                    tooltip=(
                        f"Diffusion times to show, 1 to {PANELS} numbers from 1 (noise) to 0 (picture) with commas "
                        "between. The nearest evaluation of the run is shown for each, every evaluation once."
                    ),
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default="cells",
                    tooltip=(
                        "cells: every token as the mean colour of its cell, the resolution that the sparse blocks see. "
                        "grid: the paled picture under the borders of the cells."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="picture",
                    tooltip="A panel for each time, a row for each of the first 8 pictures of the batch.",
                )
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            is_output_node=True,  # its picture on the node is reason enough to run
        )

    @classmethod
    def validate_inputs(cls, times: str | None = None) -> bool | str:
        try:
            parse_times(TIMES if times is None else times)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        latent: dict[str, Any],
        image: Tensor | None = None,
        times: str = TIMES,
        style: str = "cells",
    ) -> io.NodeOutput:
        run, wanted = runs_before(model, cls.hidden)[-1], parse_times(times)
        if image is None:
            pictures, note = _preview(model, latent["samples"]), "rough colours of the latent"
        else:
            pictures, note = image[..., :3].movedim(-1, 1), ""
        picture = to_image(draw_token_map(run, pictures, wanted, style=style, note=note))
        shown = [run.evaluations[number].grid_name for number in nearest(run, wanted)]
        rows, columns = run.evaluations[0].dense
        show_text(f"tokens {', '.join(shown)} of {rows}x{columns}", cls)
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))


def _preview(model: Any, samples: Tensor) -> Tensor:
    """The colours that ComfyUI's sampler shows for a latent; ``ValueError`` for latents that it has none for."""
    form = model.model.latent_format
    if not form.latent_rgb_factors:
        raise ValueError(
            f"ComfyUI has no preview colours for the {samples.shape[1]}-channel latents of this model; decode them and "
            "connect the picture to image"
        )
    return preview_colours(
        form.process_in(samples), form.latent_rgb_factors, getattr(form, "latent_rgb_factors_bias", None)
    )
