"""How uniform and how local the attention of every block is, measured on the maps themselves.

The maps are never kept: attention is watched while the model runs, in chunks of queries, so that N x N maps of many
blocks, heads and samples do not pile up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ..backbone import Backbone
from ..layers import Attention, CrossAttention, SelfAttention
from ..layout import Role, SegmentLayout
from ..tokens import Grid
from .moments import Moment, predict

_CHUNK = 1 << 22  # entries of attention maps that exist at a time: 16 MB of float32


@dataclass(frozen=True)
class MapStatistics:
    """What the attention maps of one block look like at one time: means over samples and queries, one for each head.

    ``departure``  total variation distance to the uniform map, 0 (all ones / N) .. 1 (one key of very many);
    ``entropy``    entropy over that of the uniform map, 1 (uniform) .. 0 (one key);
    ``reach``      mean distance between a query and what it attends to, in tokens, over that of the uniform map:
                   1 is no locality, below 1 is local. Queries and keys of different grids lie on one picture.
    """

    departure: tuple[float, ...]
    entropy: tuple[float, ...]
    reach: tuple[float, ...]

    def mean(self, name: str) -> float:
        """Mean over heads of ``"departure"``, ``"entropy"`` or ``"reach"``."""
        return fmean(getattr(self, name))

    def to_json(self) -> dict[str, Any]:
        """Plain values: the mean over heads under each name, and the heads under ``<name>_by_head``."""
        names = ("departure", "entropy", "reach")
        return {name: self.mean(name) for name in names} | {f"{name}_by_head": getattr(self, name) for name in names}


UNIFORM = MapStatistics((0.0,), (1.0,), (1.0,))
"""Of a Poolingformer block, whose attention is the mean by definition."""


@dataclass(frozen=True)
class BlockMaps:
    """The statistics of block ``block`` at diffusion ``time`` on its ``queries`` and ``keys`` grids."""

    block: int
    role: Role
    time: float
    queries: Grid
    keys: Grid
    statistics: MapStatistics


def map_statistics(q: Tensor, k: Tensor, heads: int, queries: Grid, keys: Grid, dense: Grid) -> MapStatistics:
    """Of softmax(q k^T / sqrt(width)) for q (B, M, C) on the grid ``queries`` and k (B, N, C) on ``keys``; float32.

    Distances are Euclidean between the tokens' centres, both grids spread over ``dense``.
    """
    batch, count, width = q.shape[0], k.shape[1], q.shape[2] // heads
    q, k = (x.float().reshape(batch, -1, heads, width).transpose(1, 2) for x in (q, k))  # (B, heads, tokens, width)
    distance = _distances(queries, keys, dense, q.device)  # (M, N)
    sums = torch.zeros(3, heads, dtype=torch.float64)
    rows = max(1, _CHUNK // (batch * heads * count))
    for part in torch.split(torch.arange(q.shape[2], device=q.device), rows):
        logs = (q[:, :, part] @ k.transpose(-1, -2) * width**-0.5).log_softmax(dim=-1)  # (B, heads, rows, N)
        maps = logs.exp()
        departure = (maps - 1.0 / count).abs().sum(dim=(0, 2, 3)) / 2
        # -0 log 0 is 0, also where the logarithm is minus infinity
        entropy = -torch.where(maps > 0, maps * logs, 0.0).sum(dim=(0, 2, 3))
        reach = (maps * distance[part]).sum(dim=(0, 2, 3))
        sums += torch.stack([departure, entropy, reach]).cpu().double()  # in this order: not every device has float64
    departure, entropy, reach = sums / (batch * q.shape[2])
    whole = float(distance.cpu().double().mean())
    # a single key, or all tokens in one place: there is nothing but the uniform map
    entropy = entropy / math.log(count) if count > 1 else torch.ones_like(entropy)
    reach = reach / whole if whole > 0 else torch.ones_like(reach)
    return MapStatistics(tuple(departure.tolist()), tuple(entropy.tolist()), tuple(reach.tolist()))


def _distances(queries: Grid, keys: Grid, dense: Grid, device: torch.device) -> Tensor:
    """(M, N) between the centres of two grids that cover the same picture, in dense tokens."""
    return torch.cdist(_centres(queries, dense, device), _centres(keys, dense, device))


def _centres(grid: Grid, dense: Grid, device: torch.device) -> Tensor:
    rows, columns = ((torch.arange(n, device=device) + 0.5) * (N / n) for n, N in zip(grid, dense, strict=True))
    return torch.cartesian_prod(rows, columns)


Seen = Callable[[int, Tensor, Tensor, int], None]  # block, q, k, heads


@contextmanager
def watching(model: Backbone, seen: Seen) -> Iterator[None]:
    """Inside the block, ``seen(block, q, k, heads)`` is called before every attention of ``model``."""
    with replacing_attention(model, lambda number, before: _watched(number, before, seen)):
        yield


@contextmanager
def replacing_attention(model: Backbone, make: Callable[[int, Attention], Attention]) -> Iterator[None]:
    """Inside the block, the attention of every block (Poolingformers have none) is ``make(block, its attention)``."""
    layers = attention_layers(model)
    before = {number: layer.attention for number, layer in layers.items()}
    try:
        for number, layer in layers.items():
            layer.attention = make(number, before[number])
        yield
    finally:
        for number, layer in layers.items():
            layer.attention = before[number]


def attention_layers(model: Backbone) -> dict[int, SelfAttention | CrossAttention]:
    """The attention layers by block number; Poolingformer blocks are left out."""
    found = {number: block.attn for number, block in enumerate(model.blocks)}
    return {number: layer for number, layer in found.items() if isinstance(layer, (SelfAttention, CrossAttention))}


def block_roles(model: Backbone) -> tuple[Role, ...]:
    """The role of every block; all are dense in a dense model."""
    return (model.layout or SegmentLayout(0, (), model.config.depth)).roles


def _watched(number: int, attention: Attention, seen: Seen) -> Attention:
    def watched(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        seen(number, q, k, heads)
        return attention(q, k, v, heads)

    return watched


@torch.no_grad()
def attention_maps(model: Backbone, moment: Moment, sparse: Grid | None = None) -> list[BlockMaps]:
    """The statistics of every block of ``model`` at one moment, in the order of the blocks.

    ``sparse`` is the sparse grid of a SparseDiT.
    """
    dense = model.token_grid(*moment.x.shape[-2:])
    roles = block_roles(model)
    found: dict[int, BlockMaps] = {
        number: BlockMaps(number, role, moment.time, dense, dense, UNIFORM)
        for number, role in enumerate(roles)
        if role == "pooled"
    }

    def grid(tokens: Tensor) -> Grid:
        return dense if sparse is None or tokens.shape[1] == dense[0] * dense[1] else sparse

    def seen(number: int, q: Tensor, k: Tensor, heads: int) -> None:
        queries, keys = grid(q), grid(k)
        statistics = map_statistics(q, k, heads, queries, keys, dense)
        found[number] = BlockMaps(number, roles[number], moment.time, queries, keys, statistics)

    with watching(model, seen):
        predict(model, moment, sparse)
    return [found[number] for number in sorted(found)]
