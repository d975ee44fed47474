"""Two samplings of the same noise side by side: cost, seconds, likeness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..metrics import WINDOW, psnr, ssim
from ..sampling import Samples, grid_counts
from . import text

UNITS = "1 MAC = 2 FLOPs, executed; totals are of one picture, those of an evaluation of all its images; seconds of all"
"""What the numbers of a report count."""


@dataclass(frozen=True)
class Likeness:
    """How near samples are to reference ones: PSNR of the mean squared error of all, mean SSIM; None if too small."""

    psnr: float
    ssim: float | None


def likeness(samples: Tensor, reference: Tensor, *, pixels: bool) -> Likeness:
    """Compare pictures in [-1, 1], or latents over the range that the reference takes."""
    data_range = 2.0 if pixels else float(reference.max() - reference.min())
    if pixels:
        samples, reference = samples.clamp(-1, 1), reference.clamp(-1, 1)
    # the mean of the errors, not of the decibels, so that one equal picture does not make it infinite
    errors = data_range**2 / 10 ** (psnr(samples, reference, data_range=data_range) / 10)
    error = float(errors.mean())
    decibel = math.inf if error == 0 else 10 * math.log10(data_range**2 / error)
    if min(samples.shape[-2:]) < WINDOW:
        return Likeness(decibel, None)
    return Likeness(decibel, float(ssim(samples, reference, data_range=data_range).mean()))


@dataclass(frozen=True)
class Entry:
    """One line of a comparison; ``like`` is None for the reference itself."""

    name: str
    samples: Samples
    seconds: float
    like: Likeness | None
    accuracy: float | None = None

    def to_json(self, reference: Entry) -> dict[str, Any]:
        """Plain values, with what they are of the reference's."""
        return {
            "name": self.name,
            "macs": self.samples.macs,
            "flops": 2 * self.samples.macs,
            "macs_ratio": self.samples.macs / reference.samples.macs,
            "seconds": self.seconds,
            "seconds_ratio": self.seconds / reference.seconds,
            "psnr_db": None if self.like is None else self.like.psnr,
            "ssim": None if self.like is None else self.like.ssim,
            "class_accuracy": self.accuracy,
            "sparse_grids": grid_counts(self.samples),
            "evaluations": [evaluation.to_json() for evaluation in self.samples.evaluations],
        }

    def cells(self, reference: Entry) -> list[str]:
        """The cells of a table's line."""
        share = f"{100 * self.samples.macs / reference.samples.macs:.1f} %"
        cells = [self.name, text.macs_text(self.samples.macs), share, f"{self.seconds:.2f}"]
        cells.append(f"{reference.seconds / self.seconds:.2f}x")
        cells += [decibel(self.like), "-" if self.like is None or self.like.ssim is None else f"{self.like.ssim:.3f}"]
        return cells if self.accuracy is None else [*cells, f"{100 * self.accuracy:.1f} %"]


def header(reference: str) -> list[str]:
    """The columns of a table whose first line is ``reference``."""
    return ["", "MACs (FLOPs) of a picture", f"of {reference}", "seconds", "speed", "PSNR", "SSIM"]


def decibel(like: Likeness | None) -> str:
    """PSNR in words."""
    if like is None:
        return "-"
    return "equal" if math.isinf(like.psnr) else f"{like.psnr:.1f} dB"
