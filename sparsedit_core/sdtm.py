"""The block of a SparseDiT and the walk of its tokens through the segments (SparseDiT section 3; PAPERS 1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from .layers import Attention, CrossAttention, Mlp, PooledAttention, SelfAttention, modulate
from .layout import Role, SegmentLayout
from .tokens import Grid, Pooling, upsample


class Block(nn.Module):
    """A transformer block in one of five roles; only its self-attention differs between them.

    A backbone adds where its modulation comes from. A recovery block owns the fusion layers: ``merged_layer1`` is W1,
    ``merged_layer2`` is W2.
    """

    def __init__(
        self,
        role: Role,
        dim: int,
        heads: int,
        mlp_hidden: int,
        *,
        norm2_eps: float = 1e-6,
        qk_norm: bool = False,
        ops: Any,
        attention: Attention,
        **kw: Any,
    ) -> None:
        super().__init__()
        self.role: Role = role
        self.norm1 = ops.LayerNorm(dim, elementwise_affine=False, eps=1e-6, **kw)
        self.norm2 = ops.LayerNorm(dim, elementwise_affine=False, eps=norm2_eps, **kw)
        self.attn: nn.Module
        if role == "pooled":
            self.attn = PooledAttention(dim, ops=ops, **kw)
        elif role in ("generation", "recovery"):
            self.attn = CrossAttention(dim, heads, qk_norm=qk_norm, ops=ops, attention=attention, **kw)
        else:
            self.attn = SelfAttention(dim, heads, qk_norm=qk_norm, ops=ops, attention=attention, **kw)
        self.mlp = Mlp(dim, mlp_hidden, ops=ops, **kw)
        if role == "recovery":
            self.merged_layer1 = ops.Linear(dim, dim, **kw)
            self.merged_layer2 = ops.Linear(dim, dim, **kw)

    def attended(self, x: Tensor, shift: Tensor, scale: Tensor, context: Tensor | None) -> Tensor:
        """The attention's result for x (B, N, D); ``context`` (B, M, D) is where keys and values come from, if not x.

        The context is normalised and modulated like x (CHECKPOINTS 5.2, 5.3).
        """
        h = modulate(self.norm1(x), shift, scale)
        others = () if context is None else (modulate(self.norm1(context), shift, scale),)
        return self.attn(h, *others)  # type: ignore[no-any-return]

    def fuse(self, sparse: Tensor, shortcut: Tensor, sparse_grid: Grid, dense_grid: Grid) -> Tensor:
        """X' = Up(X_s) W1 + X W2, at the cost of M rows for W1: nearest upsampling commutes with it."""
        up: Tensor = upsample(self.merged_layer1(sparse), sparse_grid, dense_grid)
        kept: Tensor = self.merged_layer2(shortcut)
        return up + kept


class AnyBlock(Protocol):
    """What the walk needs of a block: :class:`Block`, or one under a token cache."""

    def __call__(self, x: Tensor, c: Any, context: Tensor | None = None) -> Any: ...

    def fuse(self, sparse: Tensor, shortcut: Tensor, sparse_grid: Grid, dense_grid: Grid) -> Tensor: ...


def walk(
    blocks: Sequence[AnyBlock],
    layout: SegmentLayout,
    x: Tensor,
    c: Any,
    dense: Grid,
    sparse: Grid,
    positions: Tensor | None = None,
) -> Tensor:
    """Send dense tokens x (B, N, D) through all blocks, with the condition ``c`` that they take; dense tokens come out.

    The shortcut of a module is the dense map that enters it; every generation block reads it again, and so does
    every recovery block (the second one starts from dense tokens, so its upsampling is the identity).
    ``positions`` (1, N, D), if given, is added again at both transitions, by the pooling and by the first recovery
    block of a module (PAPERS 1.5).
    """
    shortcut, grid = x, dense
    pool = Pooling(dense, sparse, x.device)
    for role, start, end in layout.runs():
        if role == "generation":
            shortcut, grid = x, sparse
            x = pool(x)
            if positions is not None:
                x = x + pool(positions)
        for number, block in enumerate(blocks[start:end]):
            if role == "generation":
                x = block(x, c, shortcut)
            elif role == "recovery":
                again = positions if number == 0 else None
                x, grid = recover(block, x, c, shortcut, grid, dense, again), dense
            else:
                x = block(x, c)
    return x


def recover(
    block: AnyBlock, x: Tensor, c: Any, shortcut: Tensor, grid: Grid, dense: Grid, positions: Tensor | None
) -> Tensor:
    """One recovery block: fused dense tokens attend to the tokens x they were recovered from."""
    fused = block.fuse(x, shortcut, grid, dense)
    return block(fused if positions is None else fused + positions, c, x)  # type: ignore[no-any-return]
