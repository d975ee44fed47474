"""SparseDiT Caption: words of a PixArt that has its own vocabulary, as conditioning."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sparsedit_core.checkpoint.pixart import NULL
from ..sparsedit_core.conditions import Captions
from ..sparsedit_core.words import WordEncoder
from .info import sparsedit_info
from .models import recipe_of
from .show import show_text


class SparseDiTCaption(io.ComfyNode):  # type: ignore[misc]
    """Text to positive and null conditioning, without a text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTCaption",
            display_name="SparseDiT Caption",
            category="SparseDiT",
            description=(
                "What the picture shows, in the words of a small PixArt that brings its own vocabulary. Several lines "
                "go to the pictures of a batch in turn. Other PixArt models read CLIP Text Encode instead."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The PixArt whose words are meant."),
                io.String.Input(
                    "text",
                    default="a red striped star",
                    multiline=True,
                    tooltip="A caption a line, of the model's own words; an unknown word is answered with the known "
                    "ones. With more pictures than lines the list starts again.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The captions."),
                io.Conditioning.Output(display_name="negative", tooltip="The null caption of training, for guidance."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, text: str) -> io.NodeOutput:
        info = sparsedit_info(model)
        if info.words is None:
            pixart = info.family == "pixart"
            asked = "CLIP Text Encode (Load CLIP with type pixart)" if pixart else "SparseDiT Class Label"
            raise ValueError(f"{info.source} is a {info.name} without a vocabulary of its own; use {asked} instead")
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"the text is empty; give a caption of the words {', '.join(info.words)}")
        captions = WordEncoder(info.words)(lines)
        show_text("\n".join(lines[:16]), cls)
        positive = conditioning(captions)
        null = recipe_of(model).read().state.get(NULL)
        if null is None:  # it can be sampled without guidance; ComfyUI computes no negative at cfg 1
            return io.NodeOutput(positive, positive)
        return io.NodeOutput(positive, conditioning(captions.without_text(null.float())))


def conditioning(captions: Captions) -> list[list[Any]]:
    """Captions as CONDITIONING, a row for each; tokens that do not count are masked."""
    return [[captions.features, {"attention_mask": captions.mask}]]
