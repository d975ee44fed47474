"""SparseDiT Save Image: ComfyUI's PNG files that also tell schedule, MACs and the version of this pack."""

from __future__ import annotations

from types import SimpleNamespace

from comfy_api.latest import io, ui
from torch import Tensor

from ..sparsedit_core.picture_record import picture_record, with_record


class SparseDiTSaveImage(io.ComfyNode):  # type: ignore[misc]
    """IMAGE and a report to PNG files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTSaveImage",
            display_name="SparseDiT Save Image",
            category="SparseDiT",
            description=(
                "Save pictures as ComfyUI's Save Image does, and write into each file how it was made: model, layout, "
                "schedule, MACs against the dense model, seconds and this pack's version. Drop a saved picture on "
                "ComfyUI to get its workflow back."
            ),
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save, one PNG file each."),
                io.String.Input(
                    "filename_prefix",
                    default="SparseDiT/picture",
                    tooltip="Start of the file names in ComfyUI's output folder; a slash makes a subfolder. May hold "
                    "%date:yyyy-MM-dd% and values of nodes such as %KSampler.seed%.",
                ),
                io.String.Input(
                    "report",
                    optional=True,
                    force_input=True,
                    tooltip="The json output of SparseDiT Report or SparseDiT Schedule Grid: what to write into the "
                    "files. Not connected: only the workflow and the pack's version.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The pictures, unchanged.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor, filename_prefix: str, report: str = "") -> io.NodeOutput:
        record = picture_record(report)
        hidden = cls.hidden or SimpleNamespace(prompt=None, extra_pnginfo=None)  # outside a prompt
        told = SimpleNamespace(prompt=hidden.prompt, extra_pnginfo=with_record(hidden.extra_pnginfo, record))
        # ComfyUI's helper writes a text chunk for every entry of extra_pnginfo, or none with --disable-metadata
        saved = ui.ImageSaveHelper.get_save_images_ui(images, filename_prefix, cls=SimpleNamespace(hidden=told))
        return io.NodeOutput(images, ui=saved)
