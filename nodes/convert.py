"""Node: a dense model to a sparse one in its initial state."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sparsedit_core.config import check_side
from ..sparsedit_core.layout import SegmentLayout
from .carry import carry_over, refuse_bound_changes
from .info import dense_info
from .models import build_from, dense_record, model_dtype, recipe_of
from .recipes import ConvertRecipe
from .show import told_on

NAME = "SparseDiT Convert"


class SparseDiTConvert(io.ComfyNode):  # type: ignore[misc]
    """The starting point of a fine-tuning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTConvert",
            display_name=NAME,
            category="SparseDiT",
            description=(
                "Turn a dense DiT or PixArt into a sparse one in its initial state: the blocks take roles, the weights "
                "stay. It needs fine-tuning before it makes good pictures (see the train and finetune commands); save "
                "it with SparseDiT Save Checkpoint. The dense MODEL itself is not changed."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A dense DiT or PixArt from SparseDiT Load Checkpoint, or a PixArt from ComfyUI's own loaders, "
                        "with or without LoRAs."
                    ),
                ),
                io.String.Input(
                    "layout",
                    default="2+4x[1,3,1,1]+2",
                    tooltip=(
                        "Roles of the blocks: bottom + count x [generation,sparse,recovery,dense] + top. The counts "
                        "must add up to the model's blocks (PixArt 28, e.g. 2+4x[2,2,1,1]+2; DiT-XL and L 28 and 24, B "
                        "and S 12; bundled 8, e.g. 1+1x[1,3,1,1]+1). More sparse blocks are faster and harder to "
                        "fine-tune."
                    ),
                ),
                io.Int.Input(
                    "sparse_side",
                    default=8,
                    min=1,
                    max=256,
                    tooltip=(
                        "Side of the sparse token grid, in tokens, where no pruning schedule decides it. Smaller is "
                        "faster and coarser; a quarter to a half of the dense grid's side is usual."
                    ),
                ),
                io.Combo.Input(
                    "fusion",
                    options=["official", "identity"],
                    default="official",
                    tooltip=(
                        "What recovered tokens start from. 'official': the dense tokens before the module, as in the "
                        "published code. 'identity': the sparse tokens themselves, which without Poolingformers (a "
                        "layout beginning with 0), with one generation block a module and on the full grid is the "
                        "dense model exactly."
                    ),
                ),
            ],
            outputs=[io.Model.Output(tooltip="The sparse model with everything that was applied to the dense one.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, layout: str | None = None) -> bool | str:
        try:
            SegmentLayout.parse(layout or "0+1")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model: Any, layout: str, sparse_side: int, fusion: Any) -> io.NodeOutput:
        with told_on(cls):
            dense = dense_info(model, NAME)
            refuse_bound_changes(model, NAME)
            roles = SegmentLayout.parse(layout)
            roles.check_depth(dense.config.depth)
            check_side(sparse_side, dense.config.grid)
            recipe = ConvertRecipe(recipe_of(model), roles, sparse_side, fusion)
            converted = build_from(recipe.convert(dense_record(model)), recipe, model_dtype(model))
        carry_over(model, converted)
        return io.NodeOutput(converted)
