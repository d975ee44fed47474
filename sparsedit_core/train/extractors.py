"""Networks that judge pictures: our own judge, or any network that the user gives as a TorchScript file.

All of them see pictures (B, 3, H, W) in [-1, 1] and give one row of numbers for each: features, or class logits.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .judge import Judge, features

Extractor = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in [-1, 1] to rows (B, d) of numbers, float32 on the CPU."""


@dataclass(frozen=True)
class Preparation:
    """What a network wants its pictures to look like.

    ``size``       side in pixels that pictures are resized to (bicubic with antialiasing); ``None`` leaves them
    ``low, high``  the numbers of black and white
    """

    size: int | None = None
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"a network's picture size must be 1 pixel or more, found {self.size}")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"a network's input range must rise from black to white, found {self.low:g} {self.high:g}; "
                "usual are -1 1, 0 1 and 0 255"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Pictures in [-1, 1] as the network takes them, in the 256 steps of a saved file: real ones have no others."""
        shades = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
        if self.size is not None and shades.shape[-2:] != (self.size, self.size):
            size = (self.size, self.size)
            shades = F.interpolate(shades, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)
        return self.low + (self.high - self.low) / 255 * shades


class ScriptedNetwork:
    """A TorchScript file as an :data:`Extractor`, on the CPU."""

    def __init__(self, path: str | os.PathLike[str], prepare: Preparation | None = None) -> None:
        """Load it. FileNotFoundError where there is none, ValueError for a file that is no TorchScript."""
        self.path, self.prepare = Path(path), prepare or Preparation()
        self.width: int | None = None
        if not self.path.is_file():
            raise FileNotFoundError(f"no TorchScript file at {self.path}; give one that torch.jit.save has written")
        try:
            with warnings.catch_warnings():  # newer torch deprecates the format, which the user cannot help
                warnings.simplefilter("ignore", DeprecationWarning)
                self.network = torch.jit.load(self.path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"{self.path.name} is not a TorchScript file ({reason}); write one with "
                "torch.jit.trace(network, pictures).save(FILE)"
            ) from error

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Rows (B, d) float32 of pictures (B, 3, H, W) in [-1, 1]; ValueError for an output that is not one row each.

        Taken as rows are (B, d), (B, d, 1, 1) and a list or tuple of one such tensor.
        """
        prepared = self.prepare(images.cpu())
        try:
            output = self.network(prepared)
        except RuntimeError as error:
            if "allocate memory" in str(error):
                raise
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"{self.path.name} refuses pictures of shape {tuple(prepared.shape)} ({reason}); say what it takes: "
                "its picture size and its input range"
            ) from error
        return self._rows(output, len(images))

    def _rows(self, output: object, count: int) -> Tensor:
        if isinstance(output, (list, tuple)) and len(output) == 1:
            output = output[0]
        if not isinstance(output, Tensor):
            raise ValueError(f"{self.path.name} gives a {type(output).__name__}, expected a tensor (B, d)")
        rows = output.flatten(1) if output.ndim == 4 and output.shape[2:] == (1, 1) else output
        width = self.width or (rows.shape[1] if rows.ndim == 2 else 0)
        if rows.ndim != 2 or rows.shape != (count, width) or not width:
            raise ValueError(
                f"{self.path.name} gives shape {tuple(output.shape)} for {count} pictures; "
                f"expected one row each: ({count}, d) or ({count}, d, 1, 1), the same d for all"
            )
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(f"{self.path.name} gives NaN or infinite values; is its input range the right one?")
        self.width = width
        return rows.float()


def judge_features(judge: Judge) -> Extractor:
    """The features of our judge, which sees the procedural pictures."""
    return lambda images: features(judge, images)


def judge_logits(judge: Judge) -> Extractor:
    """Class logits of our judge."""

    def logits(images: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = judge(images.float().cpu().clamp(-1, 1))
        return found

    return logits
