"""PixArt-alpha and PixArt-Sigma (Chen et al. 2023, 2024), dense or sparse: DiT's blocks with text and adaLN-single."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from .backbone import Backbone
from .cache.visit import Visit
from .config import PixArtConfig
from .layers import TORCH_OPS, Attention, Mlp, TextAttention, TimestepEmbedder, attend, modulate
from .layout import Role
from .sdtm import Block
from .tokens import Grid, sincos_table

_KEPT_SIZES = 8  # position tables of this many sizes are kept; one of 4096 tokens is 19 MB
_PIXELS = 8  # of a picture along a latent's pixel: sizes that nobody gives are those of the latent


class Condition(NamedTuple):
    """What a block takes: modulation (B, 6, D), text tokens (B, L, D), which of those count (B, L) or ``None``."""

    modulation: Tensor
    text: Tensor
    mask: Tensor | None


class PixArtBlock(Block):
    """A block whose modulation is the shared one plus its own table, and that reads the text (PixArt section 2.3).

    The text is read by whatever tokens are current, without norm, modulation or gate.
    """

    def __init__(
        self,
        role: Role,
        dim: int,
        heads: int,
        mlp_hidden: int,
        *,
        ops: Any,
        attention: Attention,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        kw = {"ops": ops, "attention": attention, "dtype": dtype, "device": device}
        super().__init__(role, dim, heads, mlp_hidden, **kw, **options)
        self.cross_attn = TextAttention(dim, heads, **kw)
        self.scale_shift_table = nn.Parameter(torch.empty(6, dim, device=device))

    def modulation(self, c: Condition) -> tuple[Tensor, ...]:
        """Shift, scale and gate (B, 1, D) of the self-attention, then of the MLP."""
        table = self.scale_shift_table.to(c.modulation.device, c.modulation.dtype)
        return (table + c.modulation).chunk(6, dim=1)

    def forward(self, x: Tensor, c: Condition, context: Tensor | None = None) -> Tensor:
        """x (B, N, D); ``context`` (B, M, D) is where keys and values of the self-attention come from, if not x."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)
        x = torch.addcmul(x, gate1, self.attended(x, shift1, scale1, context))
        x = x + self.cross_attn(x, c.text, c.mask)
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class PixArtFinalLayer(nn.Module):
    """Modulation by a table plus the time, and a linear layer to patches."""

    def __init__(self, dim: int, out: int, *, ops: Any, **kw: Any) -> None:
        super().__init__()
        self.norm_final = ops.LayerNorm(dim, elementwise_affine=False, eps=1e-6, **kw)
        self.linear = ops.Linear(dim, out, **kw)
        self.scale_shift_table = nn.Parameter(torch.empty(2, dim, device=kw["device"]))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table.to(x.device, x.dtype) + t[:, None]).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))  # type: ignore[no-any-return]


class CaptionEmbedder(nn.Module):
    """Features of a text encoder (B, L, cap) to tokens (B, L, D), and the null caption of training, if stored."""

    def __init__(self, channels: int, tokens: int, dim: int, *, ops: Any, **kw: Any) -> None:
        super().__init__()
        self.y_proj = Mlp(channels, dim, dim, ops=ops, **kw)
        if tokens:
            null = torch.empty(tokens, channels, device=kw["device"])
            self.y_embedding = nn.Parameter(null, requires_grad=False)

    def forward(self, y: Tensor) -> Tensor:
        return self.y_proj(y)  # type: ignore[no-any-return]


class SizeEmbedder(TimestepEmbedder):
    """Numbers (B, n) to (B, n * D), each embedded by itself, like a timestep (PixArt's micro-conditioning)."""

    def forward(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        return super().forward(numbers.flatten(), dtype).reshape(numbers.shape[0], -1)


class PixArt(Backbone):
    """Text-conditional diffusion transformer, dense (``config.layout is None``) or sparse.

    Submodule names are those of the original PixArt checkpoints.
    """

    config: PixArtConfig
    tables: ClassVar[tuple[str, ...]] = ("scale_shift_table", "y_embedding")

    def __init__(
        self,
        config: PixArtConfig,
        *,
        ops: Any = TORCH_OPS,
        attention: Attention = attend,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        dim, kw = config.hidden_size, {"ops": ops, "dtype": dtype, "device": device}
        super().__init__(config, **kw)
        self.t_embedder = TimestepEmbedder(dim, frequency_shift=0, **kw)
        self.t_block = nn.Sequential(nn.SiLU(), ops.Linear(dim, 6 * dim, dtype=dtype, device=device))
        self.y_embedder = CaptionEmbedder(config.caption_channels, config.caption_tokens, dim, **kw)
        if config.micro_conditioning:
            self.csize_embedder = SizeEmbedder(dim // 3, frequency_shift=0, **kw)
            self.ar_embedder = SizeEmbedder(dim // 3, frequency_shift=0, **kw)
        self.blocks = nn.ModuleList(
            PixArtBlock(
                role, dim, config.num_heads, config.mlp_hidden, qk_norm=config.qk_norm, attention=attention, **kw
            )
            for role in self._walk_layout.roles
        )
        self.final_layer = PixArtFinalLayer(dim, config.patch_size**2 * config.out_channels, **kw)
        self._positions: dict[tuple[Grid, torch.device], Tensor] = {}

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor,
        *,
        mask: Tensor | None = None,
        size: Tensor | None = None,
        aspect: Tensor | None = None,
        sparse_grid: Grid | None = None,
        cache: Visit | None = None,
    ) -> Tensor:
        """Predict from noisy x (B, C, H, W) at timesteps t (B,) in 0..999 (flow models: 1000 * time) and captions y.

        ``y``        text features (B, L, caption_channels) of any length L, or (B, 1, L, caption_channels)
        ``mask``     (B, L), true or 1 at the text tokens that count (at least one a caption); ``None``: all do
        ``size``     picture size (B, 2) in pixels, height first, and ``aspect`` (B, 1) height / width, for models
                     with micro-conditioning; ``None``: those of x. Other models have no use for them.
        ``sparse_grid``  (rows, columns) of sparse tokens; ``None`` takes the checkpoint's own side. For a dense
                     model it is an error.
        ``cache``    an evaluation under a plan of what to recompute (:meth:`.cache.runtime.TokenCache.evaluation`)

        A mask or captions of fewer rows than x are repeated in turn. Returns all output channels (B, out_channels, H,
        W), learned variance included. H and W need not be multiples of the patch size. ``ValueError`` for captions of
        another width.
        """
        height, width = x.shape[-2:]
        dense = self.token_grid(height, width)
        sparse = self.sparse_grid(dense, sparse_grid)
        positions = self._table(dense, x.device).to(x.dtype)
        tokens = self.x_embedder(self.pad(x)) + positions  # (B, N, D)
        time = self.t_embedder(t, x.dtype)  # (B, D)
        if self.config.micro_conditioning:
            time = time + self._micro(x, size, aspect)
        modulation = self.t_block(time).unflatten(1, (6, -1))  # (B, 6, D)
        condition = Condition(modulation, *self._text(x, y, mask))
        tokens = self.through_blocks(tokens, condition, dense, sparse, positions, cache)
        patches = self.final_layer(tokens, time)  # (B, N, p*p*O)
        return self.unpatchify(patches, dense)[..., :height, :width]

    def _text(self, x: Tensor, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Text tokens (B, L, D) and their mask (B, L)."""
        captions = y.squeeze(1) if y.ndim == 4 else y
        if captions.ndim != 3 or captions.shape[-1] != self.config.caption_channels:
            raise ValueError(
                f"the captions have the shape {tuple(y.shape)}, expected features (batch, tokens, "
                f"{self.config.caption_channels}); encode the text with the encoder the model was trained with (T5-XXL "
                "for PixArt)"
            )
        text = _rows(self.y_embedder(captions.to(x.dtype)), len(x), "captions")
        if mask is None:
            return text, None
        mask = mask.reshape(-1, mask.shape[-1])
        if mask.shape[1] != captions.shape[1]:
            raise ValueError(
                f"the mask is for {mask.shape[1]} text tokens but the captions have {captions.shape[1]}; give one "
                "value a token"
            )
        return text, _rows(mask.to(x.device) != 0, len(x), "masks")

    def _micro(self, x: Tensor, size: Tensor | None, aspect: Tensor | None) -> Tensor:
        """Embedding (B, D) of picture size and aspect ratio."""
        height, width = x.shape[-2:]
        if size is None:
            size = torch.tensor([[height * _PIXELS, width * _PIXELS]], device=x.device)
        if aspect is None:
            aspect = torch.tensor([[height / width]], device=x.device)
        parts = [
            _rows(embed(value.to(x.device).reshape(-1, count), x.dtype), len(x), "sizes")
            for embed, value, count in ((self.csize_embedder, size, 2), (self.ar_embedder, aspect, 1))
        ]
        return torch.cat(parts, dim=1)

    def _table(self, grid: Grid, device: torch.device) -> Tensor:
        """Positions (1, N, D) of a token grid, float32."""
        if torch.compiler.is_compiling():  # there it is a constant of the graph; the dictionary would be a guard
            return self._new_table(grid, device)
        key = grid, device
        if key not in self._positions:
            while len(self._positions) >= _KEPT_SIZES:
                self._positions.pop(next(iter(self._positions)))
            self._positions[key] = self._new_table(grid, device)
        return self._positions[key]

    def _new_table(self, grid: Grid, device: torch.device) -> Tensor:
        config = self.config
        return sincos_table(config.hidden_size, grid, base=config.grid, scale=config.position_scale).to(device)

    def initialize_weights(self) -> None:
        """PixArt's initial state: Xavier linear layers, normal embedders and tables, zero text reading and output."""
        super().initialize_weights()
        micro = (self.csize_embedder, self.ar_embedder) if self.config.micro_conditioning else ()
        embedders = [self.t_embedder, *micro]
        layers = [layer for embedder in embedders for layer in (embedder.mlp[0], embedder.mlp[2])]
        for layer in (*layers, self.t_block[1], self.y_embedder.y_proj.fc1, self.y_embedder.y_proj.fc2):
            nn.init.normal_(cast(Tensor, layer.weight), std=0.02)
        for table in (*(block.scale_shift_table for block in self._own_blocks()), self.final_layer.scale_shift_table):
            nn.init.normal_(table, std=self.config.hidden_size**-0.5)
        for block in self._own_blocks():
            nn.init.zeros_(block.cross_attn.proj.weight)
        nn.init.zeros_(self.final_layer.linear.weight)
        if self.config.caption_tokens:
            nn.init.normal_(self.y_embedder.y_embedding, std=self.config.caption_channels**-0.5)

    def _own_blocks(self) -> Sequence[PixArtBlock]:
        return cast(Sequence[PixArtBlock], self.blocks)


def _rows(values: Tensor, wanted: int, what: str) -> Tensor:
    """``values`` (n, ...) repeated in turn to ``wanted`` rows."""
    if len(values) == wanted:
        return values
    if wanted % len(values):
        raise ValueError(f"there are {len(values)} {what} for {wanted} pictures; give one each, or one for all")
    return values.repeat(wanted // len(values), *[1] * (values.ndim - 1))
