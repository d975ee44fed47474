"""DiT (Peebles and Xie 2023) and SparseDiT: one model, the layout says which block plays which role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from .config import DiTConfig
from .layers import TORCH_OPS, Attention, LabelEmbedder, PatchEmbed, TimestepEmbedder, attend, modulate
from .layout import SegmentLayout
from .sdtm import Block, walk
from .tokens import Grid, check_grid, default_sparse_grid, resample_positions, sincos_table


class FinalLayer(nn.Module):
    """adaLN and a linear layer to patches."""

    def __init__(self, dim: int, out: int, *, ops: Any, **kw: Any) -> None:
        super().__init__()
        self.norm_final = ops.LayerNorm(dim, elementwise_affine=False, eps=1e-6, **kw)
        self.linear = ops.Linear(dim, out, **kw)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), ops.Linear(dim, 2 * dim, **kw))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).unsqueeze(1).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))  # type: ignore[no-any-return]


class DiT(nn.Module):
    """Class-conditional diffusion transformer, dense (``config.layout is None``) or sparse.

    Submodule names are those of the original DiT checkpoints, with one flat ``blocks.N`` list in dense order.
    The constructor touches no weight: load a state dict or call :meth:`initialize_weights`.
    """

    def __init__(
        self,
        config: DiTConfig,
        *,
        ops: Any = TORCH_OPS,
        attention: Attention = attend,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        dim, kw = config.hidden_size, {"ops": ops, "dtype": dtype, "device": device}
        diffusers = config.semantics == "diffusers"
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, dim, **kw)
        self.t_embedder = TimestepEmbedder(dim, frequency_shift=int(diffusers), **kw)
        self.y_embedder = LabelEmbedder(config.num_classes + config.null_class, dim, **kw)
        # float32 whatever the weights are: a table must not be rounded to fp8, and it is cast where it is used
        tokens = config.grid[0] * config.grid[1]
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, dim, device=device), requires_grad=False)
        self._walk_layout = config.layout or SegmentLayout(0, (), config.depth)
        eps2 = 1e-5 if diffusers else 1e-6
        self.blocks = nn.ModuleList(
            Block(role, dim, config.num_heads, config.mlp_hidden, norm2_eps=eps2, attention=attention, **kw)
            for role in self._walk_layout.roles
        )
        self.final_layer = FinalLayer(dim, config.patch_size**2 * config.out_channels, **kw)

    @property
    def layout(self) -> SegmentLayout | None:
        """The roles of the blocks; ``None`` for a dense model."""
        return self.config.layout

    def token_grid(self, height: int, width: int) -> Grid:
        """Token grid (rows, columns) of an input of this size, padding included."""
        p = self.config.patch_size
        return -(-height // p), -(-width // p)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, *, sparse_grid: Grid | None = None) -> Tensor:
        """Predict from noisy x (B, C, H, W) at timesteps t (B,) in 0..999 (flow models: 1000 * time) and labels y (B,).

        ``sparse_grid`` is the (rows, columns) of sparse tokens; ``None`` takes the checkpoint's own side. A dense
        model ignores no grid: giving one is an error. Returns all output channels (B, out_channels, H, W), learned
        variance included. H and W need not be multiples of the patch size: x is padded and the result cropped.
        """
        height, width = x.shape[-2:]
        dense = self.token_grid(height, width)
        sparse = self._sparse_grid(dense, sparse_grid)
        positions = resample_positions(self.pos_embed.to(x.device), self.config.grid, dense).to(x.dtype)
        tokens = self.x_embedder(self._pad(x)) + positions  # (B, N, D)
        c = self.t_embedder(t, x.dtype) + self.y_embedder(y, x.dtype)  # (B, D)
        again = positions if self.config.reinject_positions else None
        blocks = cast(Sequence[Block], self.blocks)
        tokens = walk(blocks, self._walk_layout, tokens, c, dense, sparse, again)
        patches = self.final_layer(tokens, c)  # (B, N, p*p*O)
        p = self.config.patch_size
        image: Tensor = rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=dense[0], w=dense[1], p=p, q=p)
        return image[..., :height, :width]

    def _sparse_grid(self, dense: Grid, wanted: Grid | None) -> Grid:
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

    def _pad(self, x: Tensor) -> Tensor:
        p = self.config.patch_size
        for dim in (-2, -1):
            size = x.shape[dim]
            if size % p:  # wrap around: noise goes on as noise (F.pad's circular mode refuses to wrap twice)
                x = x.index_select(dim, torch.arange(size + -size % p, device=x.device) % size)
        return x

    def initialize_weights(self) -> None:
        """DiT's initial state: Xavier linear layers, zero adaLN and output; sin-cos positions; W1 = 0, W2 = I."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        patch = self.x_embedder.proj
        nn.init.xavier_uniform_(patch.weight.view(patch.weight.shape[0], -1))
        nn.init.zeros_(patch.bias)
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2], self.y_embedder.embedding_table):
            nn.init.normal_(cast(Tensor, layer.weight), std=0.02)
        for block in cast(Sequence[Block], self.blocks):
            nn.init.zeros_(cast(Tensor, block.adaLN_modulation[1].weight))
            if block.role == "recovery":
                nn.init.zeros_(block.merged_layer1.weight)
                nn.init.eye_(block.merged_layer2.weight)
        nn.init.zeros_(cast(Tensor, self.final_layer.adaLN_modulation[1].weight))
        nn.init.zeros_(self.final_layer.linear.weight)
        self.pos_embed.data.copy_(sincos_table(self.config.hidden_size, self.config.grid))
