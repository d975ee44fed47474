"""What makes a training pass cheaper: mixed precision, attention fast in bfloat16 on a CPU, recomputed activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.amp import autocast
from torch.utils.checkpoint import checkpoint

from ..backbone import Backbone
from ..layers import CrossAttention, SelfAttention
from ..sdtm import Block
from .options import Precision

_HALF: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def mixed_precision(device_type: str, precision: Precision) -> autocast:
    """Torch's autocast to ``precision`` on ``"cpu"``, ``"cuda"``, ...; for ``"no"`` it casts nothing.

    For training alone, the same that accelerate's is: inference computes in the dtype of the weights, and inside
    ComfyUI in that of its operations.
    """
    return autocast(device_type, _HALF.get(precision, torch.bfloat16), enabled=precision in _HALF)


def product_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention (B, M, C) by plain batched matrix products; keeps the (B * heads, M, N) weights.

    On a CPU, forward and backward in bfloat16 take 14 ms where torch's fused attention takes 31 (16 x 256 tokens of
    width 96), because the fused backward does its products in small float32 tiles.
    """
    batch, width = q.shape[0], q.shape[-1] // heads
    q, k, v = (x.reshape(batch, -1, heads, width).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    weights = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=width**-0.5).softmax(dim=-1)
    result = torch.bmm(weights.to(v.dtype), v).reshape(batch, heads, -1, width)
    return result.transpose(1, 2).flatten(2)


@contextmanager
def fast_attention(models: Sequence[Backbone], wanted: bool = True) -> Iterator[None]:
    """While it lasts, the models use :func:`product_attention`; nothing changes where it is not ``wanted``."""
    layers = [
        layer
        for model in (models if wanted else ())
        for layer in model.modules()
        if isinstance(layer, (SelfAttention, CrossAttention))
    ]
    before = [layer.attention for layer in layers]
    try:
        for layer in layers:
            layer.attention = product_attention
        yield
    finally:
        for layer, attention in zip(layers, before, strict=True):
            layer.attention = attention


@contextmanager
def recomputing(model: Backbone, wanted: bool = True) -> Iterator[None]:
    """While it lasts, every block keeps only its inputs and is computed again in the backward pass."""
    blocks = [block for block in cast(Sequence[Block], model.blocks) if wanted]
    try:
        for block in blocks:
            # an attribute of the block itself, in front of its class's method; hooks are called outside of it
            block.forward = partial(
                checkpoint, type(block).forward.__get__(block), use_reentrant=False, preserve_rng_state=False
            )
        yield
    finally:
        for block in blocks:
            del block.forward
