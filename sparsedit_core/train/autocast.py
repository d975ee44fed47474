"""bfloat16 training on the CPU: autocast, and an attention that is fast in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..dit import DiT
from ..layers import CrossAttention, SelfAttention


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
def autocast(model: DiT, bfloat16: bool) -> Iterator[None]:
    """Run ``model`` in bfloat16 inside the block; nothing changes where ``bfloat16`` is false."""
    if not bfloat16:
        yield
        return
    layers = [layer for layer in model.modules() if isinstance(layer, (SelfAttention, CrossAttention))]
    before = [layer.attention for layer in layers]
    try:
        for layer in layers:
            layer.attention = product_attention
        with torch.amp.autocast("cpu", torch.bfloat16):
            yield
    finally:
        for layer, attention in zip(layers, before, strict=True):
            layer.attention = attention
