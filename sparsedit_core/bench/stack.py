"""What a dense model's time is held against: its linear layers and attentions and little else.

Both stacks run the layers of a given model, so that shapes, weights and memory are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ..dit import DiT
from ..layers import SelfAttention
from ..sdtm import Block


def fused_attention(qkv: Tensor, heads: int) -> Tensor:
    """Attention of a fused projection (B, N, 3C) by torch's kernel; result (B, N, C)."""
    q, k, v = qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class BareStack(nn.Module):
    """Every linear layer and attention of a dense DiT in a row, nothing between them: the floor.

    No normalisation, modulation, activation or residual; its output means nothing.
    """

    def __init__(self, model: DiT) -> None:
        super().__init__()
        if model.layout is not None:
            raise ValueError(f"the bare stack is that of a dense model; this one has the layout {model.layout}")
        self.model = model

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        tokens = model.x_embedder(x)
        c = condition(model, t, y, x)
        modulations = []  # returned, or a compiler would leave their layers out
        for block, attn in dense_blocks(model):
            modulations.append(modulation(block)(c))
            tokens = attn.proj(fused_attention(attn.qkv(tokens), attn.heads))
            tokens = block.mlp.fc2(block.mlp.fc1(tokens))
        modulations.append(modulation(model.final_layer)(c))
        return (model.final_layer.linear(tokens), *modulations)


class PlainStack(nn.Module):
    """The dense DiT once more as a textbook writes it: normalisation, modulation, activation, gates. Tokens out."""

    def __init__(self, model: DiT) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        model = self.model
        tokens = model.x_embedder(x) + model.pos_embed.to(x.dtype)
        c = F.silu(condition(model, t, y, x))
        for block, attn in dense_blocks(model):
            shift1, scale1, gate1, shift2, scale2, gate2 = modulation(block)(c)[:, None].chunk(6, dim=-1)
            h = self.norm(tokens) * (1 + scale1) + shift1
            h = attn.proj(fused_attention(attn.qkv(h), attn.heads))
            tokens = tokens + gate1 * h
            h = self.norm(tokens) * (1 + scale2) + shift2
            tokens = tokens + gate2 * block.mlp.fc2(F.gelu(block.mlp.fc1(h), approximate="tanh"))
        shift, scale = modulation(model.final_layer)(c)[:, None].chunk(2, dim=-1)
        return model.final_layer.linear(self.norm(tokens) * (1 + scale) + shift)  # type: ignore[no-any-return]

    def norm(self, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def dense_blocks(model: DiT) -> list[tuple[Block, SelfAttention]]:
    """Every block of a dense model with its attention."""
    blocks = cast(Sequence[Block], model.blocks)
    return [(block, cast(SelfAttention, block.attn)) for block in blocks]


def modulation(module: nn.Module) -> nn.Module:
    """The linear layer of an adaLN modulation."""
    return cast(Sequence[nn.Module], module.adaLN_modulation)[1]


def condition(model: DiT, t: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Timestep and label embedding (B, C)."""
    return model.t_embedder(t, x.dtype) + model.y_embedder(y, x.dtype)  # type: ignore[no-any-return]
