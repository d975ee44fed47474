"""Token grids: adaptive pooling, nearest upsampling, position tables."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def default_sparse_grid(dense: Grid, side: int) -> Grid:
    """The sparse grid of a checkpoint whose side is ``side``: that square on a square picture, else the same number
    of tokens at the picture's aspect; never above the dense grid, at least 1 x 1."""
    stretch = math.sqrt(dense[0] / dense[1])
    return clamp_grid((round(side * stretch), round(side / stretch)), dense)


def clamp_grid(grid: Grid, dense: Grid) -> Grid:
    """``grid`` limited to 1 .. ``dense`` in both directions."""
    return min(max(grid[0], 1), dense[0]), min(max(grid[1], 1), dense[1])


def check_grid(grid: Grid, dense: Grid) -> Grid:
    """``grid`` as Python ints, or ``ValueError`` when it does not fit into ``dense``."""
    h, w = int(grid[0]), int(grid[1])
    if not (1 <= h <= dense[0] and 1 <= w <= dense[1]):
        raise ValueError(
            f"sparse_grid is {h}x{w} but the picture has {dense[0]}x{dense[1]} tokens; give a grid of at least 1x1 "
            "that is not larger than the picture's"
        )
    return h, w


def averaging_matrix(source: int, target: int, device: torch.device) -> Tensor:
    """(target, source) float32: row i averages the window [floor(i*source/target), ceil((i+1)*source/target)) of
    AdaptiveAvgPool. Made of tensor operations, so that it neither waits for the device nor breaks a compiled graph."""
    i = torch.arange(target, device=device)[:, None]
    j = torch.arange(source, device=device)
    start, end = i * source // target, ((i + 1) * source + target - 1) // target
    return ((j >= start) & (j < end)).float() / (end - start)


class Pooling:
    """Adaptive average pooling from a dense to a sparse grid, as two small averaging matrices.

    Matrices, so that every grid works on every device (MPS refuses adaptive pooling whose sizes do not divide).
    """

    def __init__(self, dense: Grid, sparse: Grid, device: torch.device) -> None:
        self.dense, self.sparse = dense, sparse
        if dense == sparse:
            return
        self.rows = averaging_matrix(dense[0], sparse[0], device)  # (h, H)
        self.columns = averaging_matrix(dense[1], sparse[1], device)  # (w, W)

    def __call__(self, x: Tensor) -> Tensor:
        """Tokens (B, H*W, C) to (B, h*w, C), computed in float32 (autocast aside), returned in the dtype of x."""
        if self.dense == self.sparse:
            return x
        (H, W), (h, w) = self.dense, self.sparse
        b, _, c = x.shape
        y = torch.matmul(self.columns, x.float().reshape(b * H, W, c))  # (B*H, w, C)
        y = torch.matmul(self.rows, y.reshape(b, H, w * c))  # (B, h, w*C)
        return y.view(b, h * w, c).to(x.dtype)


def upsample(x: Tensor, sparse: Grid, dense: Grid) -> Tensor:
    """Nearest upsampling (floor index) of tokens (B, h*w, C) to (B, H*W, C)."""
    if dense == sparse:
        return x
    b, _, c = x.shape
    image = x.reshape(b, *sparse, c).permute(0, 3, 1, 2)  # channels-last memory: no copy
    return F.interpolate(image, size=dense, mode="nearest").permute(0, 2, 3, 1).reshape(b, dense[0] * dense[1], c)


def sincos_table(
    hidden_size: int, grid: Grid, *, base: Grid | None = None, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The sin-cos position table (1, H*W, D).

    First half of the channels encodes the column, second half the row; each is [sin | cos] of
    position * 10000^(-k / (D/4)), computed in float64 (CHECKPOINTS 5.13). Positions are the token's numbers, and with
    a ``base`` grid those divided by (side / base's side) and ``scale``, as PixArt spreads them over any size.
    """
    omega = 1.0 / 10000 ** (np.arange(hidden_size // 4, dtype=np.float64) / (hidden_size / 4))
    steps = [b / n / scale for n, b in zip(grid, base or grid, strict=True)]
    rows, columns = (np.arange(n, dtype=np.float64) * step for n, step in zip(grid, steps, strict=True))
    row, column = np.meshgrid(rows, columns, indexing="ij")
    angles = [axis.reshape(-1, 1) * omega for axis in (column, row)]
    table = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)
    return torch.from_numpy(table).to(dtype)[None]


def resample_positions(table: Tensor, stored: Grid, wanted: Grid) -> Tensor:
    """The position table (1, N, D) for another grid than the stored one, by bicubic interpolation in float32.

    Positions are interpolated, not continued: a larger picture spans the range the model was trained on.
    """
    if stored == wanted:
        return table
    image = table.float().view(1, *stored, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=wanted, mode="bicubic", align_corners=False)
    return image.permute(0, 2, 3, 1).reshape(1, wanted[0] * wanted[1], -1)
