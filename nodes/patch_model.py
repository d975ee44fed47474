"""Node: the weights of a sparse checkpoint in the place of a dense model's."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sparsedit_core.checkpoint import Checkpoint, CheckpointError
from .carry import carry_over, refuse_bound_changes
from .files import checkpoint_names, checkpoint_path, file_stamp, missing
from .info import SparseDiTInfo, dense_info, family_name
from .models import build_from, model_dtype
from .recipes import FileRecipe
from .show import told_on
from .stock import is_stock

NAME = "SparseDiT Patch Model"
_SAME = {
    "dit": ("depth", "hidden_size", "num_heads", "patch_size", "in_channels", "num_classes", "null_class"),
    "pixart": (
        "depth", "hidden_size", "num_heads", "patch_size", "in_channels", "caption_channels", "micro_conditioning",
        "qk_norm",
    ),
}  # fmt: skip
"""What a sparse model has like the dense one it was trained from."""


class SparseDiTPatchModel(io.ComfyNode):  # type: ignore[misc]
    """Makes the workflow of a dense model sparse without rebuilding it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTPatchModel",
            display_name=NAME,
            category="SparseDiT",
            description=(
                "Replace the weights of a dense DiT or PixArt by those of the sparse model that was trained from it. "
                "Sampling settings, options and LoRAs of the model are kept; LoRAs made for the dense model act on the "
                "sparse one. The dense MODEL itself is not changed."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "A dense DiT or PixArt from SparseDiT Load Checkpoint, or a PixArt from ComfyUI's own loaders, "
                        "with or without LoRAs."
                    ),
                ),
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_names(),
                    tooltip="The sparse checkpoint: depth, width and classes or text width as in the dense model.",
                ),
                io.Int.Input(
                    "sparse_side",
                    default=0,
                    min=0,
                    max=256,
                    optional=True,
                    tooltip=(
                        "Side of the sparse token grid, in tokens, that the checkpoint was trained with. 0 takes it "
                        "from the file, or the official 8 where the file does not say."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip=(
                        "The sparse model with everything that was applied to the dense one. If the file holds the "
                        "pruning schedule it was trained with, that is applied."
                    )
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
    def execute(cls, model: Any, checkpoint: str, sparse_side: int = 0) -> io.NodeOutput:
        with told_on(cls):
            dense = dense_info(model, NAME)
            refuse_bound_changes(model, NAME)
            recipe, record = _read(FileRecipe(checkpoint_path(checkpoint), None, sparse_side or None), dense)
            _check_fit(dense, record, recipe.source, is_stock(model))
        patched = build_from(record, recipe, model_dtype(model))
        carry_over(model, patched)
        return io.NodeOutput(patched)


def _read(recipe: FileRecipe, dense: SparseDiTInfo) -> tuple[FileRecipe, Checkpoint]:
    """Files that do not store the number of heads get the dense model's; files that do, keep theirs."""
    with_heads = FileRecipe(recipe.path, dense.config.num_heads, recipe.sparse_side)
    try:
        return with_heads, with_heads.read()
    except CheckpointError as first:
        try:
            return recipe, recipe.read()
        except CheckpointError:
            raise first from None


def _check_fit(dense: SparseDiTInfo, sparse: Checkpoint, source: str, stock: bool) -> None:
    """Raise ``ValueError`` unless the checkpoint is a sparse model of the dense one's architecture."""
    if sparse.family != dense.family:
        raise ValueError(
            f"{source} is a {family_name(sparse.family)} but the model {dense.source} is a {dense.name}; choose the "
            "sparse model that was trained from this one"
        )
    if sparse.layout is None:
        raise ValueError(
            f"{source} is a dense {dense.name}, expected a sparse checkpoint; choose one, or make one from this model "
            "with SparseDiT Convert"
        )
    pairs = [(name, getattr(dense.config, name), getattr(sparse.config, name)) for name in _SAME[dense.family]]
    pairs.append(("prediction", dense.prediction, sparse.prediction))
    if not stock:  # core takes PixArt-alpha at 512 pixels for Sigma, whose latents have another scale
        pairs.append(("latent", dense.latent, sparse.latent))
    wrong = [f"{name} {theirs} instead of {ours}" for name, ours, theirs in pairs if ours != theirs]
    if wrong:
        raise ValueError(
            f"{source} does not fit the model {dense.source}: it has {', '.join(wrong)}; choose the sparse model that "
            "was trained from this one"
        )
