"""The blocks of DiT and PixArt, dense or sparse, under a token cache: the same layers, called for some tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from ..layers import CrossAttention, PooledAttention, SelfAttention, TextAttention, modulate
from ..sdtm import Block
from ..tokens import Grid
from .visit import Rows, Visit, take


class CachedBlock:
    """A block whose sub-layers ask a cache which tokens to compute; called as the block is."""

    def __init__(self, block: Block, number: int, visit: Visit, dense: Grid, sparse: Grid) -> None:
        self._block, self._name, self._visit = block, str(number), visit
        self._dense, self._sparse = dense, sparse
        self.fuse = block.fuse

    def __call__(self, x: Tensor, c: Any, context: Tensor | None = None) -> Tensor:
        """x (B, N, D), condition c; ``context`` (B, M, D) is where keys and values come from, if not x."""
        block: Any = self._block
        grid = self._dense if x.shape[1] == math.prod(self._dense) else self._sparse
        branch, name = self._visit.branch, self._name
        shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(c)
        x = branch(
            x, f"{name}.self", grid, lambda rows: self._attended(x, shift1, scale1, context, rows), gate1
        )
        text = getattr(block, "cross_attn", None)
        if text is not None:
            x = branch(x, f"{name}.cross", grid, lambda rows: self._read(text, x, c, rows))
        return branch(
            x, f"{name}.mlp", grid, lambda rows: block.mlp(modulate(block.norm2(take(x, rows)), shift2, scale2)), gate2
        )

    def _attended(self, x: Tensor, shift: Tensor, scale: Tensor, context: Tensor | None, rows: Rows) -> Tensor:
        """Self-attention's result for ``rows``; they see the keys of all tokens."""
        block, attn = self._block, self._block.attn
        if isinstance(attn, PooledAttention):
            return cast(Tensor, attn(modulate(block.norm1(x), shift, scale)))
        if isinstance(attn, CrossAttention):
            assert context is not None
            h = modulate(block.norm1(take(x, rows)), shift, scale)
            return cast(Tensor, attn(h, modulate(block.norm1(context), shift, scale)))
        assert isinstance(attn, SelfAttention)
        q, k, v = attn.qkv(modulate(block.norm1(x), shift, scale)).chunk(3, dim=-1)
        q, k = attn.q_norm(q), attn.k_norm(k)
        self._visit.watch_self(f"{self._name}.self", q, k, attn.heads)
        return cast(Tensor, attn.proj(attn.attention(take(q, rows), k, v, attn.heads)))

    def _read(self, attn: TextAttention, x: Tensor, c: Any, rows: Rows) -> Tensor:
        """The reading of the text by ``rows``."""
        k, v = attn.kv_linear(c.text).chunk(2, dim=-1)
        q = attn.q_linear(take(x, rows))
        self._visit.watch_cross(f"{self._name}.cross", q, k, attn.heads, c.mask, rows)
        masks = () if c.mask is None else (c.mask,)
        return cast(Tensor, attn.proj(attn.attention(q, k, v, attn.heads, *masks)))


def cached_blocks(blocks: Sequence[Block], visit: Visit, dense: Grid, sparse: Grid) -> list[CachedBlock]:
    """The blocks as :func:`..sdtm.walk` calls them, each under ``visit``."""
    return [CachedBlock(block, number, visit, dense, sparse) for number, block in enumerate(blocks)]
