"""How far a cached sampling's pictures are from the dense ones, differentiable: what a plan is learned by.

The paper takes LPIPS. Where the user has its weights it is taken here too (:func:`lpips_distance`); else a substitute,
named in the plan: of RGB pictures the features of this package's own classifier (:class:`JudgeDistance`), of latents
their squares at several scales (:class:`ScalesDistance`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import ReLU

from ..checkpoint import Loaded
from ..extras import imported
from ..train.train_judge import load_judge

SCALES = 3
"""Scales of :class:`ScalesDistance`: as they are, in half and in quarter size."""
FEATURES = 0.1
"""Weight of the features of :class:`JudgeDistance` beside the pixels: then both are of one size in cached pictures."""
NETS = ("alex", "vgg", "squeeze")
"""Backbones of LPIPS."""


class Distance(Protocol):
    """Distance (B,) of finished samples a, b (B, C, H, W), 0 for equal ones; ``name`` is written into the plan."""

    name: str

    def __call__(self, a: Tensor, b: Tensor) -> Tensor: ...


class JudgeDistance:
    """Of RGB pictures in [-1, 1]: squared distance of features, as LPIPS makes it, plus that of the pixels.

    Of each of the classifier's five stages the channels at a place are brought to unit length; their squared distance
    is averaged over places. The mean over stages, weighted with :data:`FEATURES`, is added to the mean squared error.
    It is no LPIPS: the classifier was trained on this project's procedural pictures of 64 x 64 pixels.
    """

    name = "pixel MSE + 0.1 of the judge's features"

    def __init__(self) -> None:
        self._judge = load_judge()[0].requires_grad_(False)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance (B,)."""
        self._judge.to(a.device)
        error = _mean(a - b)
        stages = 0
        total = torch.zeros_like(error)
        for layer in self._judge.stages:
            a, b = layer(a), layer(b)
            if isinstance(layer, ReLU):
                total = total + _mean(_unit(a) - _unit(b)) * a.shape[1]
                stages += 1
        return error + FEATURES / stages * total


class ScalesDistance:
    """Of latents of any channels: mean squared error as they are and averaged over 2 x 2 and 4 x 4, in sum."""

    name = "MSE at 3 scales"

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance (B,)."""
        error = a - b
        total = _mean(error)
        for _ in range(SCALES - 1):
            error = F.avg_pool2d(error, 2, ceil_mode=True)
            total = total + _mean(error)
        return total


class LpipsDistance:
    """LPIPS by a network of two pictures (B, 3, H, W) in [-1, 1] that gives one number a picture."""

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor], name: str) -> None:
        self._network, self.name = network, name

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance (B,); ``ValueError`` for a network that does not give one number a picture."""
        result = self._network(a, b)
        if result.numel() != len(a):
            raise ValueError(
                f"{self.name} gives shape {tuple(result.shape)} for {len(a)} pairs of pictures; expected a number each"
            )
        return result.reshape(len(a))


def lpips_distance(wanted: str | os.PathLike[str], loaded: Loaded) -> LpipsDistance:
    """LPIPS of a TorchScript file (``torch.jit.trace(lpips.LPIPS(net="vgg"), (a, b)).save(FILE)``), or, for one of
    :data:`NETS`, of the library ``lpips``, which gets its backbone from torchvision.

    ``ValueError`` for a model that does not draw RGB pictures, and where the file or the library is missing.
    """
    if not _draws_rgb(loaded):
        raise ValueError(
            f"LPIPS sees RGB pictures, but this model draws {loaded.latent.kind}s of {loaded.latent.channels} "
            "channels; leave it out, latents are compared as they are"
        )
    device = loaded.model.x_embedder.proj.weight.device
    if str(wanted) in NETS:
        network: Any = imported("lpips", "lpips").LPIPS(net=str(wanted), verbose=False)
        return LpipsDistance(network.to(device).eval().requires_grad_(False), f"LPIPS ({wanted})")
    path = Path(wanted)
    if not path.is_file():
        raise ValueError(f"there is no LPIPS file {path}; give a TorchScript file, or one of {', '.join(NETS)}")
    try:
        with warnings.catch_warnings():  # newer torch deprecates the format, which the user cannot help
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path.name} is no TorchScript file ({reason}); save one with torch.jit.trace") from error
    for weight in network.parameters():  # a scripted module has no requires_grad_ of its own
        weight.requires_grad_(False)
    return LpipsDistance(network, f"LPIPS ({path.name})")


def own_distance(loaded: Loaded) -> Distance:
    """The substitute for LPIPS that fits what the model draws."""
    return JudgeDistance() if _draws_rgb(loaded) else ScalesDistance()


def _draws_rgb(loaded: Loaded) -> bool:
    return loaded.latent.kind == "pixel" and loaded.latent.channels == 3


def _mean(error: Tensor) -> Tensor:
    """Mean square (B,)."""
    return error.square().flatten(1).mean(dim=1)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-10).sqrt()
