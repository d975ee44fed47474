"""DiT (Peebles and Xie 2023) and SparseDiT: one model, the layout says which block plays which role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from .backbone import Backbone
from .cache.visit import Visit
from .config import DiTConfig
from .layers import TORCH_OPS, Attention, LabelEmbedder, TimestepEmbedder, attend, modulate
from .layout import Role
from .sdtm import Block
from .tokens import Grid, resample_positions, sincos_table


class DiTBlock(Block):
    """A block whose modulation comes from its own layer: adaLN-Zero."""

    def __init__(
        self,
        role: Role,
        dim: int,
        heads: int,
        mlp_hidden: int,
        *,
        ops: Any,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(role, dim, heads, mlp_hidden, ops=ops, dtype=dtype, device=device, **options)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), ops.Linear(dim, 6 * dim, dtype=dtype, device=device))

    def modulation(self, c: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate (B, 1, D) of the attention, then of the MLP."""
        return self.adaLN_modulation(c).unsqueeze(1).chunk(6, dim=-1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, N, D), condition c (B, D); ``context`` (B, M, D) is where keys and values come from, if not x."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)
        x = torch.addcmul(x, gate1, self.attended(x, shift1, scale1, context))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


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


class DiT(Backbone):
    """Class-conditional diffusion transformer, dense (``config.layout is None``) or sparse.

    Submodule names are those of the original DiT checkpoints.
    """

    config: DiTConfig
    tables: ClassVar[tuple[str, ...]] = ("pos_embed",)

    def __init__(
        self,
        config: DiTConfig,
        *,
        ops: Any = TORCH_OPS,
        attention: Attention = attend,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        dim, kw = config.hidden_size, {"ops": ops, "dtype": dtype, "device": device}
        super().__init__(config, **kw)
        diffusers = config.semantics == "diffusers"
        self.t_embedder = TimestepEmbedder(dim, frequency_shift=int(diffusers), **kw)
        self.y_embedder = LabelEmbedder(config.num_classes + config.null_class, dim, **kw)
        tokens = config.grid[0] * config.grid[1]
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, dim, device=device), requires_grad=False)
        eps2 = 1e-5 if diffusers else 1e-6
        self.blocks = nn.ModuleList(
            DiTBlock(role, dim, config.num_heads, config.mlp_hidden, norm2_eps=eps2, attention=attention, **kw)
            for role in self._walk_layout.roles
        )
        self.final_layer = FinalLayer(dim, config.patch_size**2 * config.out_channels, **kw)

    def forward(
        self, x: Tensor, t: Tensor, y: Tensor, *, sparse_grid: Grid | None = None, cache: Visit | None = None
    ) -> Tensor:
        """Predict from noisy x (B, C, H, W) at timesteps t (B,) in 0..999 (flow models: 1000 * time) and labels y (B,).

        ``sparse_grid`` is the (rows, columns) of sparse tokens; ``None`` takes the checkpoint's own side. A dense
        model ignores no grid: giving one is an error. ``cache`` is an evaluation under a plan of what to recompute
        (:meth:`.cache.runtime.TokenCache.evaluation`). Returns all output channels (B, out_channels, H, W), learned
        variance included. H and W need not be multiples of the patch size: x is padded and the result cropped.
        """
        height, width = x.shape[-2:]
        dense = self.token_grid(height, width)
        sparse = self.sparse_grid(dense, sparse_grid)
        positions = resample_positions(self.pos_embed.to(x.device), self.config.grid, dense).to(x.dtype)
        tokens = self.x_embedder(self.pad(x)) + positions  # (B, N, D)
        c = self.t_embedder(t, x.dtype) + self.y_embedder(y, x.dtype)  # (B, D)
        tokens = self.through_blocks(tokens, c, dense, sparse, positions, cache)
        patches = self.final_layer(tokens, c)  # (B, N, p*p*O)
        return self.unpatchify(patches, dense)[..., :height, :width]

    def initialize_weights(self) -> None:
        """DiT's initial state: Xavier linear layers, zero adaLN and output; sin-cos positions; W1 = 0, W2 = I."""
        super().initialize_weights()
        for layer in (self.t_embedder.mlp[0], self.t_embedder.mlp[2], self.y_embedder.embedding_table):
            nn.init.normal_(cast(Tensor, layer.weight), std=0.02)
        for block in cast(Sequence[DiTBlock], self.blocks):
            nn.init.zeros_(cast(Tensor, block.adaLN_modulation[1].weight))
        nn.init.zeros_(cast(Tensor, self.final_layer.adaLN_modulation[1].weight))
        nn.init.zeros_(self.final_layer.linear.weight)
        self.pos_embed.data.copy_(sincos_table(self.config.hidden_size, self.config.grid))
