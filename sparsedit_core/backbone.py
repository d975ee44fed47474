"""What DiT and PixArt share: patches in, tokens through the blocks of a layout, patches out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from .cache.blocks import cached_blocks
from .cache.visit import Visit
from .config import BackboneConfig
from .layers import PatchEmbed
from .layout import SegmentLayout
from .sdtm import Block, walk
from .tokens import Grid, check_grid, default_sparse_grid


class Backbone(nn.Module):
    """A diffusion transformer with one flat ``blocks.N`` list in dense order, dense or sparse after its layout.

    The constructor of a backbone touches no weight: load a state dict or call ``initialize_weights``.
    """

    tables: ClassVar[tuple[str, ...]] = ()
    """Endings of the names of parameters that belong to no layer: float32 whatever the layers are, cast where they
    are used (a table must not be rounded to fp8)."""

    def __init__(self, config: BackboneConfig, *, ops: Any, **kw: Any) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, config.hidden_size, ops=ops, **kw)
        self._walk_layout = config.layout or SegmentLayout(0, (), config.depth)
        self.blocks: nn.ModuleList

    @property
    def layout(self) -> SegmentLayout | None:
        """The roles of the blocks; ``None`` for a dense model."""
        return self.config.layout

    def token_grid(self, height: int, width: int) -> Grid:
        """Token grid (rows, columns) of an input of this size, padding included."""
        p = self.config.patch_size
        return -(-height // p), -(-width // p)

    def through_blocks(
        self, tokens: Tensor, condition: Any, dense: Grid, sparse: Grid, positions: Tensor, cache: Visit | None = None
    ) -> Tensor:
        """Tokens (B, N, D) on the grid ``dense`` through all blocks; ``condition`` is what the blocks take."""
        again = positions if self.config.reinject_positions else None
        blocks = cast(Sequence[Block], self.blocks)
        called = blocks if cache is None else cached_blocks(blocks, cache, dense, sparse)
        return walk(called, self._walk_layout, tokens, condition, dense, sparse, again)

    def unpatchify(self, patches: Tensor, dense: Grid) -> Tensor:
        """Patches (B, N, p*p*O), channels last inside a patch, to an image (B, O, H, W)."""
        p = self.config.patch_size
        return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=dense[0], w=dense[1], p=p, q=p)

    def sparse_grid(self, dense: Grid, wanted: Grid | None) -> Grid:
        """The grid of the sparse tokens: ``wanted``, or that of the config's side; ``ValueError`` if there is none."""
        if self.config.layout is None:
            if wanted is not None:
                raise ValueError(
                    f"sparse_grid={wanted} was given to a dense model, which has no sparse tokens; convert it with "
                    "convert_dense(model, layout) or leave sparse_grid out"
                )
            return dense
        if wanted is None:
            return default_sparse_grid(dense, self.config.sparse_side)
        return check_grid(wanted, dense)

    def pad(self, x: Tensor) -> Tensor:
        """The input continued periodically to whole patches."""
        p = self.config.patch_size
        for dim in (-2, -1):
            size = x.shape[dim]
            if size % p:  # wrap around: noise goes on as noise (F.pad's circular mode refuses to wrap twice)
                x = x.index_select(dim, torch.arange(size + -size % p, device=x.device) % size)
        return x

    def initialize_weights(self) -> None:
        """DiT's initial state of what backbones share: Xavier linear layers, zero biases; W1 = 0, W2 = I."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        patch = self.x_embedder.proj
        nn.init.xavier_uniform_(patch.weight.view(patch.weight.shape[0], -1))
        nn.init.zeros_(patch.bias)
        for block in cast(Sequence[Block], self.blocks):
            if block.role == "recovery":
                nn.init.zeros_(block.merged_layer1.weight)
                nn.init.eye_(block.merged_layer2.weight)
