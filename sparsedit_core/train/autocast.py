"""What makes a training pass cheaper: mixed precision, fast bfloat16 attention on a CPU, recomputing, compiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.amp import autocast
from torch.utils.checkpoint import checkpoint

from ..backbone import Backbone
from ..layers import CrossAttention, SelfAttention
from ..sdtm import Block
from .options import Precision

Forward = Callable[..., Any]
_GRAPHS = 64  # of one block's code: five roles, each with the grids of a schedule; beyond it torch would not compile
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
    if not wanted:
        yield
        return
    with _forwards(model, lambda f: partial(checkpoint, f, use_reentrant=False, preserve_rng_state=False)):
        yield


@contextmanager
def compiled(model: Backbone, wanted: bool = True) -> Iterator[None]:
    """While it lasts, every block runs through torch.compile: blocks of one role share a graph for each token grid.

    Blocks and not the whole model, because that takes a fraction of the time to compile and gains as much.
    ``ValueError`` where there is no compiler for the model's device.
    """
    if not wanted:
        yield
        return
    import torch._dynamo as dynamo  # seconds to import, not needed by other runs

    device = next(model.parameters()).device
    with dynamo.config.patch(recompile_limit=_GRAPHS, fail_on_recompile_limit_hit=True):
        try:
            torch.compile(torch.sin)(torch.zeros(1, device=device))
        except Exception as error:  # whatever the compilers of a machine raise
            first = str(error).strip().partition("\n")[0]
            raise ValueError(f"compile=True does not work on the device {device} ({first}); leave it out") from error
        with _forwards(model, lambda f: torch.compile(f, dynamic=False)):
            yield


@contextmanager
def _forwards(model: Backbone, wrap: Callable[[Forward], Forward]) -> Iterator[None]:
    """Another forward for every block, as an attribute in front of its class's method; hooks stay outside of it."""
    blocks = cast(Sequence[Block], model.blocks)
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = wrap(block.forward)
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward
