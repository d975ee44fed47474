"""SparseDiT Compare: how far two pictures are apart."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..sparsedit_core.compare_sheet import compare_sheet, measure_words
from ..sparsedit_core.metrics import psnr, ssim
from .show import show_text, to_image


class SparseDiTCompare(io.ComfyNode):  # type: ignore[misc]
    """Two IMAGEs to a sheet, their difference and its measures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTCompare",
            display_name="SparseDiT Compare",
            category="SparseDiT",
            description=(
                "Compare pictures of the dense and the sparse model from the same noise: a sheet with both and a map "
                "of their difference, PSNR in dB and SSIM. Equal pictures have an infinite PSNR and an SSIM of 1."
            ),
            inputs=[
                io.Image.Input("images", tooltip="The pictures to judge, such as those of the sparse model."),
                io.Image.Input("reference", tooltip="As many pictures of the same size, such as the dense model's."),
                io.Float.Input(
                    "gain",
                    default=4.0,
                    min=1.0,
                    max=100.0,
                    step=0.5,
                    tooltip=(
                        "Factor that makes small differences visible: the picture is multiplied by it, and the sheet's "
                        "brightest colour is a difference of 1 / gain. PSNR and SSIM do not use it."
                    ),
                ),
                io.String.Input(
                    "images_name",
                    default="images",
                    optional=True,
                    tooltip="What the sheet writes over the pictures, such as sparse.",
                ),
                io.String.Input(
                    "reference_name",
                    default="reference",
                    optional=True,
                    tooltip="What the sheet writes over the reference, such as dense.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="difference", tooltip="Absolute difference times gain; black is equal."),
                io.String.Output(display_name="text", tooltip="PSNR and SSIM of every picture, and the means."),
                io.Float.Output(display_name="psnr", tooltip="Mean PSNR in dB; infinite if pictures are equal."),
                io.Float.Output(display_name="ssim", tooltip="Mean SSIM, 1 for equal pictures."),
                io.Image.Output(
                    display_name="sheet",
                    tooltip=(
                        "Both pictures, the map of their difference with its scale, PSNR and SSIM; a row for each of "
                        "the first 16."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,  # its picture on the node is reason enough to run
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        reference: Tensor,
        gain: float,
        images_name: str = "images",
        reference_name: str = "reference",
    ) -> io.NodeOutput:
        if images.shape[:3] != reference.shape[:3]:
            raise ValueError(
                f"the pictures are {_told(images)}, the reference {_told(reference)}; connect as many pictures of one "
                "size to both inputs"
            )
        ours, theirs = (batch[..., :3].movedim(-1, 1) for batch in (images, reference))  # without an alpha channel
        noise, structure = psnr(ours, theirs, data_range=1.0), ssim(ours, theirs, data_range=1.0)
        difference = ((images[..., :3] - reference[..., :3]).abs() * gain).clamp(0, 1)
        means = float(noise.mean()), float(structure.mean())
        measures = list(zip(noise.tolist(), structure.tolist(), strict=True))
        rows = [measure_words(*each) for each in measures]
        lines = [f"{number}: {row}" for number, row in enumerate(rows, 1)] if len(rows) > 1 else []
        mean = f"{'mean: ' if lines else ''}{measure_words(*means)}"
        show_text(mean, cls)
        names = images_name, reference_name
        sheet = to_image(compare_sheet(ours, theirs, measures, names=names, full=1 / gain))
        preview = ui.PreviewImage(sheet, cls=cls)
        return io.NodeOutput(difference, "\n".join([*lines, mean]), *means, sheet, ui=preview)


def _told(images: Tensor) -> str:
    count, height, width = images.shape[:3]
    return f"{count} of {width}x{height} pixels"
