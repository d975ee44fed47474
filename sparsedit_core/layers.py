"""The parts of a transformer block; every weighted layer comes from an injected ``ops`` namespace.

``ops`` has ``Linear``, ``Conv2d``, ``LayerNorm`` and ``Embedding`` with torch's signatures. Stand-alone that is torch
itself; ComfyUI passes its own, which load, cast and offload weights. Therefore nothing here reads ``layer.weight``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attention = Callable[..., Tensor]
"""(q, k, v, heads) and, where some keys are to be left out, a mask (B, keys) that is true at the others."""

TORCH_OPS = SimpleNamespace(Linear=nn.Linear, Conv2d=nn.Conv2d, LayerNorm=nn.LayerNorm, Embedding=nn.Embedding)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention of (B, M, C) queries over (B, N, C) keys and values; result (B, M, C).

    ``mask`` (B, N) is true at the keys that count; every row must have one.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))  # (B, heads, tokens, C/heads)
    bias = None if mask is None else mask[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: x (B, N, C) scaled and shifted by (B, 1, C) each."""
    return torch.addcmul(shift, x, 1 + scale)


class QKNorm(nn.Module):
    """Base of attentions that may normalise queries and keys over all heads (PixArt-Sigma's ``qk_norm``)."""

    def __init__(self, dim: int, *, qk_norm: bool, ops: Any, **kw: Any) -> None:
        super().__init__()
        self.q_norm = ops.LayerNorm(dim, **kw) if qk_norm else nn.Identity()
        self.k_norm = ops.LayerNorm(dim, **kw) if qk_norm else nn.Identity()


class SelfAttention(QKNorm):
    """Ordinary attention among the tokens of x, one fused projection (dense and sparse blocks)."""

    def __init__(
        self, dim: int, heads: int, *, qk_norm: bool = False, ops: Any, attention: Attention, **kw: Any
    ) -> None:
        super().__init__(dim, qk_norm=qk_norm, ops=ops, **kw)
        self.heads, self.attention = heads, attention
        self.qkv = ops.Linear(dim, 3 * dim, **kw)
        self.proj = ops.Linear(dim, dim, **kw)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(self.attention(self.q_norm(q), self.k_norm(k), v, self.heads))  # type: ignore[no-any-return]


class CrossAttention(QKNorm):
    """Queries from x (B, M, C), keys and values from ``context`` (B, N, C) (generation and recovery blocks)."""

    def __init__(
        self, dim: int, heads: int, *, qk_norm: bool = False, ops: Any, attention: Attention, **kw: Any
    ) -> None:
        super().__init__(dim, qk_norm=qk_norm, ops=ops, **kw)
        self.heads, self.attention = heads, attention
        self.q = ops.Linear(dim, dim, **kw)
        self.kv = ops.Linear(dim, 2 * dim, **kw)
        self.proj = ops.Linear(dim, dim, **kw)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        k, v = self.kv(context).chunk(2, dim=-1)
        q = self.q_norm(self.q(x))
        return self.proj(self.attention(q, self.k_norm(k), v, self.heads))  # type: ignore[no-any-return]


class TextAttention(nn.Module):
    """PixArt's cross-attention: queries from x (B, M, C), keys and values from text tokens (B, L, C).

    The names are PixArt's. ``mask`` (B, L) is true at the text tokens that count.
    """

    def __init__(self, dim: int, heads: int, *, ops: Any, attention: Attention, **kw: Any) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.q_linear = ops.Linear(dim, dim, **kw)
        self.kv_linear = ops.Linear(dim, 2 * dim, **kw)
        self.proj = ops.Linear(dim, dim, **kw)

    def forward(self, x: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        k, v = self.kv_linear(text).chunk(2, dim=-1)
        masks = () if mask is None else (mask,)
        return self.proj(self.attention(self.q_linear(x), k, v, self.heads, *masks))  # type: ignore[no-any-return]


class PooledAttention(nn.Module):
    """Every token receives proj(mean over tokens of V) (Poolingformer, SparseDiT section 3.2).

    The mean commutes with the V projection, so both layers run on one token; result (B, 1, C). The mean is float32:
    half-precision sums over thousands of tokens lose it.
    """

    def __init__(self, dim: int, *, ops: Any, **kw: Any) -> None:
        super().__init__()
        self.v = ops.Linear(dim, dim, **kw)
        self.proj = ops.Linear(dim, dim, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.v(x.mean(dim=1, keepdim=True, dtype=torch.float32).to(x.dtype)))  # type: ignore[no-any-return]


def tanh_gelu_(x: Tensor) -> Tensor:
    """GELU in its tanh form, x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3); may overwrite x.

    For float32 inference on a CPU it is computed as the same x sigmoid(2u), in half the time of torch's kernel and
    without another tensor of x's size.
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or not x.is_contiguous()
    if plain or torch.is_grad_enabled():
        return F.gelu(x, approximate="tanh")
    slope = math.sqrt(8 / math.pi)
    start = x.new_tensor(slope)
    if torch.compiler.is_compiling():  # the same numbers in one piece, which a compiler fuses by itself
        return torch.addcmul(start, x, x, value=0.044715 * slope).mul(x).sigmoid() * x
    for rows in torch.split(x.flatten(0, -2), 128):  # what stays in the processor's cache
        rows.mul_(torch.addcmul(start, rows, rows, value=0.044715 * slope).mul_(rows).sigmoid_())
    return x


class Mlp(nn.Module):
    """Two layers with tanh-GELU between them; the result is as wide as x unless ``out`` says otherwise."""

    def __init__(self, dim: int, hidden: int, out: int | None = None, *, ops: Any, **kw: Any) -> None:
        super().__init__()
        self.fc1 = ops.Linear(dim, hidden, **kw)
        self.fc2 = ops.Linear(hidden, out or dim, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(tanh_gelu_(self.fc1(x)))  # type: ignore[no-any-return]


# Frequencies 0.02 of a float32 step from a rounding tie, which the exponential behind the published implementations'
# numbers (MKL's generic path) rounds to the other side: index -> direction, by (half, last).
_TIES: dict[tuple[int, int], dict[int, int]] = {(128, 0): {12: 1, 106: 1}, (128, 1): {4: -1}}


def timestep_frequencies(dim: int = 256, *, last: int = 0) -> tuple[float, ...]:
    """The dim/2 frequencies 10000^(-i / (dim/2 - last)), each a float32 value."""
    # float32 steps with an exactly rounded exponential: t reaches 999, so the last bit of a frequency is visible in
    # the model's output, and the float32 exponential of one processor is not that of another
    half = dim // 2
    exponent = np.float32(-math.log(10000.0)) * np.arange(half, dtype=np.float32) / np.float32(half - last)
    frequencies = np.exp(exponent.astype(np.float64)).astype(np.float32)
    for index, direction in _TIES.get((half, last), {}).items():
        frequencies[index] = np.nextafter(frequencies[index], np.float32(direction))
    return tuple(frequencies.tolist())


def timestep_features(t: Tensor, frequencies: Tensor) -> Tensor:
    """[cos | sin] features (B, 2F) of timesteps (B,) at the frequencies (F,), float32."""
    angles = t[:, None].float() * frequencies
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class TimestepEmbedder(nn.Module):
    """Sinusoidal timestep features and two layers; the sinusoids stay float32."""

    def __init__(self, dim: int, *, frequency_shift: int, ops: Any, **kw: Any) -> None:
        super().__init__()
        # Python numbers: a buffer would be lost on the meta device, a cached function opaque to torch.compile
        self.frequencies = timestep_frequencies(last=frequency_shift)
        self._tables: dict[torch.device, Tensor] = {}
        self.mlp = nn.Sequential(ops.Linear(256, dim, **kw), nn.SiLU(), ops.Linear(dim, dim, **kw))

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        return self.mlp(timestep_features(t, self._table(t.device)).to(dtype))  # type: ignore[no-any-return]

    def _table(self, device: torch.device) -> Tensor:
        if torch.compiler.is_compiling():  # there it is a constant of the graph
            return torch.tensor(self.frequencies, dtype=torch.float32, device=device)
        if device not in self._tables:  # copied once: a copy at every evaluation would wait for the device
            self._tables[device] = torch.tensor(self.frequencies, dtype=torch.float32, device=device)
        return self._tables[device]


class LabelEmbedder(nn.Module):
    """A table of class embeddings; the last row may be the null class."""

    def __init__(self, rows: int, dim: int, *, ops: Any, **kw: Any) -> None:
        super().__init__()
        self.embedding_table = ops.Embedding(rows, dim, **kw)

    def forward(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return self.embedding_table(y).to(dtype)  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Patches of an image (B, C, H, W) to tokens (B, N, D); H and W are multiples of the patch size."""

    def __init__(self, patch: int, channels: int, dim: int, *, ops: Any, **kw: Any) -> None:
        super().__init__()
        self.proj = ops.Conv2d(channels, dim, kernel_size=patch, stride=patch, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()  # type: ignore[no-any-return]
