"""SparseDiT Class Label: classes by number or name, as conditioning."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..sparsedit_core.class_names import imagenet_names, parse_labels
from ..sparsedit_core.config import DiTConfig
from .info import SparseDiTInfo, sparsedit_info
from .show import show_text

IMAGENET_CLASSES = 1000


class SparseDiTClassLabel(io.ComfyNode):  # type: ignore[misc]
    """Text to positive and null conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTClassLabel",
            display_name="SparseDiT Class Label",
            category="SparseDiT",
            description=(
                "What the picture shows, for models made of classes instead of words. Several classes, separated by "
                "commas or lines, go to the pictures of a batch in turn."
            ),
            inputs=[
                io.String.Input(
                    "classes",
                    default="golden retriever",
                    multiline=True,
                    tooltip="Class numbers or names, separated by commas or lines. Without a model: ImageNet's 1000 "
                    'classes (207 or "golden retriever"). With more pictures than classes the list starts again.',
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model whose classes are meant; needed for names other than ImageNet's.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The classes."),
                io.Conditioning.Output(display_name="negative", tooltip="No class, for guidance."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, classes: str, model: Any = None) -> io.NodeOutput:
        names, count = known_classes(None if model is None else sparsedit_info(model))
        numbers = parse_labels(classes, names, count)
        show_text(_told(numbers, names), cls)
        return io.NodeOutput(conditioning(torch.tensor(numbers)), conditioning(None))


def known_classes(info: SparseDiTInfo | None) -> tuple[tuple[str, ...] | None, int]:
    """Names and number of the classes: the model's own, ImageNet's for 1000 unnamed ones, or numbers only."""
    if info is None:
        return imagenet_names(), IMAGENET_CLASSES
    if not isinstance(info.config, DiTConfig):
        raise ValueError(
            f"{info.source} is a {info.name}, which is told in words what to show; use CLIP Text Encode instead (Load "
            "CLIP with type pixart)"
        )
    count = info.config.num_classes
    return info.class_names or (imagenet_names() if count == IMAGENET_CLASSES else None), count


def conditioning(labels: torch.Tensor | None) -> list[list[Any]]:
    """Labels (n,) as CONDITIONING; ``None`` is "no class". Other nodes expect a text tensor, so there is a stand-in."""
    return [[torch.zeros(1, 1, 1), {} if labels is None else {"class_label": labels}]]


def _told(numbers: list[int], names: tuple[str, ...] | None) -> str:
    if names is None:
        return ", ".join(map(str, numbers))
    return "\n".join(f"{number}: {names[number]}" for number in numbers[:16])
