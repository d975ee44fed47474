"""SparseDiT Compare: how far two pictures are apart."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..sparsedit_core.metrics import psnr, ssim
from .show import show_text


class SparseDiTCompare(io.ComfyNode):  # type: ignore[misc]
    """Two IMAGEs to their difference and its measures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTCompare",
            display_name="SparseDiT Compare",
            category="SparseDiT",
            description=(
                "Compare pictures of the dense and the sparse model from the same noise: a picture of their "
                "difference, PSNR in dB and SSIM. Equal pictures have an infinite PSNR and an SSIM of 1."
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
                    tooltip="Factor that makes small differences visible in the picture; PSNR and SSIM do not use it.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="difference", tooltip="|images - reference| times gain, black is equal."),
                io.String.Output(display_name="text", tooltip="PSNR and SSIM of every picture, and the means."),
                io.Float.Output(display_name="psnr", tooltip="Mean PSNR in dB; infinite if pictures are equal."),
                io.Float.Output(display_name="ssim", tooltip="Mean SSIM, 1 for equal pictures."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, images: Tensor, reference: Tensor, gain: float) -> io.NodeOutput:
        if images.shape[:3] != reference.shape[:3]:
            raise ValueError(
                f"the pictures are {_told(images)}, the reference {_told(reference)}; connect as many pictures of one "
                "size to both inputs"
            )
        ours, theirs = (batch[..., :3].movedim(-1, 1) for batch in (images, reference))  # without an alpha channel
        noise, structure = psnr(ours, theirs, data_range=1.0), ssim(ours, theirs, data_range=1.0)
        difference = ((images[..., :3] - reference[..., :3]).abs() * gain).clamp(0, 1)
        means = float(noise.mean()), float(structure.mean())
        rows = [f"PSNR {p:.2f} dB, SSIM {s:.4f}" for p, s in zip(noise.tolist(), structure.tolist(), strict=True)]
        lines = [f"{number}: {row}" for number, row in enumerate(rows, 1)] if len(rows) > 1 else []
        mean = f"{'mean: ' if lines else ''}PSNR {means[0]:.2f} dB, SSIM {means[1]:.4f}"
        show_text(mean, cls)
        preview = ui.PreviewImage(difference, cls=cls)
        return io.NodeOutput(difference, "\n".join([*lines, mean]), *means, ui=preview)


def _told(images: Tensor) -> str:
    count, height, width = images.shape[:3]
    return f"{count} of {width}x{height} pixels"
