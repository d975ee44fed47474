"""Which tokens a sub-layer recomputes at a partial level (PAPERS 2, "token selector").

Tokens are named by their number in the flattened grid (rows, columns) or (frames, rows, columns).

``age``, the default, costs nothing: tokens stand in one seeded random queue, in which of every 2 x 2 cell one comes
first, then the second of every cell, and so on. A level takes the next tokens of the queue, so none waits longer than
ceil(N / K) refreshes and each quarter of the tokens covers the picture. The others weigh a signal of every token by the
evaluations that it has waited, and raise the best of each cell:

``change``     squared change of its output when it was last recomputed
``influence``  attention that it received from all tokens (column sums of the self-attention map)
``entropy``    entropy of its attention over the text: unsettled tokens look at many words
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

CELL = 2  # side of a spatial cell
CELL_BONUS = 0.5  # of the best token of a cell, as a share of its own score
_CHUNK = 2**24  # numbers of an attention map held at once

AnyGrid = tuple[int, ...]


@lru_cache(maxsize=64)
def queue(grid: AnyGrid, seed: int) -> Tensor:
    """The order (N,) int64 in which tokens of ``grid`` are recomputed: cell by cell, seeded."""
    generator = np.random.default_rng(seed)
    places = np.indices(grid)
    cells = np.ravel_multi_index((*places[:-2], *(places[-2:] // CELL)), grid).ravel()
    order = np.lexsort((generator.random(cells.size), cells))  # the tokens of each cell together, shuffled inside
    sorted_cells = cells[order]
    starts = np.r_[True, sorted_cells[1:] != sorted_cells[:-1]]
    first = np.maximum.accumulate(np.where(starts, np.arange(cells.size), 0))
    turn = np.empty(cells.size, dtype=np.int64)
    turn[order] = np.arange(cells.size) - first
    return torch.from_numpy(np.lexsort((generator.random(cells.size), turn)))


def best_rows(signal: Tensor, age: Tensor, count: int, grid: AnyGrid) -> Tensor:
    """The ``count`` tokens (B, count) with the highest signal (B, N) times age (B, N), best of each cell raised."""
    score = signal.float() / signal.float().mean(dim=1, keepdim=True).clamp_min(1e-20) * age
    score = score * (1 + CELL_BONUS * (score >= _cell_best(score, grid)))
    return score.topk(count, dim=1, sorted=False).indices


def _cell_best(score: Tensor, grid: AnyGrid) -> Tensor:
    """Of every token (B, N) the best score in its cell."""
    rows, columns = grid[-2:]
    planes = score.reshape(-1, 1, rows, columns)
    best = torch.nn.functional.max_pool2d(planes, CELL, ceil_mode=True)
    best = best.repeat_interleave(CELL, dim=2)[:, :, :rows].repeat_interleave(CELL, dim=3)[..., :columns]
    return best.reshape(score.shape)


def influence(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Attention (B, M) that each of the keys (B, M, C) receives from the queries (B, N, C), mean over heads, sum over
    queries; the map itself is never held whole."""
    q, k = _by_head(q, heads), _by_head(k, heads)
    step = max(1, _CHUNK // (q.shape[0] * heads * k.shape[2]))
    parts = (part @ k.transpose(2, 3) for part in torch.split(q, step, dim=2))
    return torch.stack([part.float().softmax(dim=-1).mean(dim=1).sum(dim=1) for part in parts]).sum(dim=0)


def entropy(q: Tensor, k: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Entropy (B, N) in nats of the attention of queries (B, N, C) over keys (B, L, C), mean over heads.

    ``mask`` (B, L) is true at the keys that count.
    """
    q, k = _by_head(q, heads), _by_head(k, heads)
    scores = (q @ k.transpose(2, 3)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -math.inf)
    logs = scores.log_softmax(dim=-1)
    return -(logs.exp() * logs.nan_to_num(neginf=0.0)).sum(dim=-1).mean(dim=1)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) to (B, heads, N, C / heads), the half of the softmax's scale in each factor."""
    split: Tensor = x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)
    scaled: Tensor = split * float(split.shape[-1]) ** -0.25
    return scaled
