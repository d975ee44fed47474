"""Which file layout a state dict has, by its keys alone (CHECKPOINTS 1)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from .errors import CheckpointError, listed

Format = Literal["dit", "sparsedit", "diffusers_dit", "pixart", "diffusers_pixart", "sparsedit_core"]

_FLAT_BLOCK = re.compile(r"blocks\.\d+\.(?:attn\.(?:qkv|q|kv|v|proj)|mlp\.fc[12]|adaLN_modulation\.1)\.")
_FLAT_SPARSE = re.compile(r"blocks\.\d+\.(?:attn\.(?:q|kv|v)|merged_layer[12])\.")
_PIXART = re.compile(r"(?:t_block|caption_projection|adaln_single)\.|.*\.cross_attn\.|(?:.*\.)?scale_shift_table$")
_LATTE = re.compile(r"temp_embed$|temporal_transformer_blocks\.")
_UNKNOWN = {
    "a LoRA": re.compile(r".*lora_?(?:up|down|A|B|a|b)\b"),
    "a Stable Diffusion U-Net": re.compile(r"(?:input_blocks|down_blocks|output_blocks)\."),
    "an MMDiT or Flux model": re.compile(r"(?:joint_blocks|double_blocks|single_transformer_blocks)\."),
    "an autoencoder": re.compile(r"(?:encoder|decoder)\.(?:conv_in|down|up|mid)"),
}


def detect(keys: Collection[str]) -> Format:
    """The layout's name; ``CheckpointError`` for Latte, which is not supported yet, and for the unknown.

    Sparse models in our own keys are ``"sparsedit_core"``; :func:`is_pixart` tells their family.
    """

    def some(pattern: re.Pattern[str]) -> bool:
        return any(pattern.match(key) for key in keys)

    def prefixed(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    if some(_LATTE):
        raise CheckpointError("this is a Latte (video) checkpoint; so far DiT and PixArt, dense or sparse, are read")
    if is_pixart(keys):
        if prefixed("transformer_blocks."):
            return "diffusers_pixart"
        return "sparsedit_core" if some(_FLAT_SPARSE) else "pixart"
    if prefixed("relative_pos_embedder."):
        raise CheckpointError(
            "this SparseDiT was trained with attn_relat_pos='relat' (keys relative_pos_embedder.*); only the published "
            "setting without relative positions is supported"
        )
    if prefixed("dumbbell_blocks.", "poolingformer_blocks.", "normal_blocks."):
        return "sparsedit"
    if prefixed("transformer_blocks."):
        return "diffusers_dit"
    if some(_FLAT_SPARSE):
        return "sparsedit_core"
    if some(_FLAT_BLOCK):
        return "dit"
    for name, pattern in _UNKNOWN.items():
        if some(pattern):
            first = listed(sorted(keys)[:3])
            raise CheckpointError(f"this looks like {name}, not a DiT or PixArt: its keys begin with {first}")
    raise CheckpointError(
        f"no known layout: the keys begin with {listed(sorted(keys)[:3])}; expected DiT (blocks.0.attn.qkv.weight), "
        "SparseDiT (dumbbell_blocks.0...), PixArt (t_block.1.weight) or diffusers (transformer_blocks.0.attn1...)"
    )


def is_pixart(keys: Collection[str]) -> bool:
    """Whether keys of any layout are a PixArt's."""
    return any(_PIXART.match(key) for key in keys)
