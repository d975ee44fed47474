"""Node: a checkpoint file to a MODEL."""

from __future__ import annotations

from comfy_api.latest import io

from .files import checkpoint_names, checkpoint_path, file_stamp, missing
from .models import WEIGHT_DTYPES, build_patcher
from .recipes import FileRecipe
from .show import told_on


class SparseDiTLoadCheckpoint(io.ComfyNode):  # type: ignore[misc]
    """Loads DiT and PixArt checkpoints, dense and sparse, of every known layout."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTLoadCheckpoint",
            display_name="SparseDiT Load Checkpoint",
            category="SparseDiT",
            description=(
                "Load a DiT or PixArt checkpoint, dense or sparse: the original .pt and .pth files, SparseDiT training "
                "checkpoints, diffusers files, files saved by this pack, or one of the small models that come with it."
            ),
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_names(),
                    tooltip=(
                        "A file from models/diffusion_models or models/checkpoints, or a bundled model (64x64 RGB "
                        "pictures, made for trying things out: use it with the VAE 'pixel_space')."
                    ),
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip=(
                        "Number type the weights are kept in. 'default' lets ComfyUI choose for your device. "
                        "fp8_e4m3fn takes a quarter of fp32's memory and loses some quality; bf16 and fp16 take half."
                    ),
                ),
                io.Int.Input(
                    "num_heads",
                    default=0,
                    min=0,
                    max=128,
                    optional=True,
                    tooltip=(
                        "Attention heads. 0 takes the number from the file or, where it does not say, the published "
                        "one for the model's width (XL 16, L 16, B 12, S 6). Files that say it refuse another; "
                        "in others a wrong number loads and gives noise."
                    ),
                ),
                io.Int.Input(
                    "sparse_side",
                    default=0,
                    min=0,
                    max=256,
                    optional=True,
                    tooltip=(
                        "Side of the sparse token grid, in tokens, that the checkpoint was trained with. 0 takes it "
                        "from the file, or the official 8 where the file does not say. Ignored by dense models and "
                        "wherever a pruning schedule decides the grid."
                    ),
                ),
                io.Float.Input(
                    "position_scale",
                    default=0.0,
                    min=0.0,
                    max=16.0,
                    step=0.25,
                    optional=True,
                    tooltip=(
                        "PixArt only: how the positions are stretched (lewei_scale, pe_interpolation), for files "
                        "without a position table. 0 takes it from the file or, where it does not say, the published "
                        "one; give base_size with it."
                    ),
                ),
                io.Int.Input(
                    "base_size",
                    default=0,
                    min=0,
                    max=512,
                    optional=True,
                    tooltip=(
                        "Side of the token grid the positions were made for, for files without a position table: 16 "
                        "for PixArt-alpha at 256 pixels, with position_scale 1. 0 takes it from the file or, where it "
                        "does not say, the published one."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="The model. If the file holds the pruning schedule it was trained with, that is applied."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        return missing(checkpoint) or True

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None = None, **_others: object) -> str:
        return file_stamp(checkpoint)

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        weight_dtype: str,
        num_heads: int = 0,
        sparse_side: int = 0,
        position_scale: float = 0.0,
        base_size: int = 0,
    ) -> io.NodeOutput:
        facts = num_heads or None, sparse_side or None, position_scale or None, base_size or None
        with told_on(cls):
            recipe = FileRecipe(checkpoint_path(checkpoint), *facts)
            return io.NodeOutput(build_patcher(recipe, WEIGHT_DTYPES[weight_dtype]))
