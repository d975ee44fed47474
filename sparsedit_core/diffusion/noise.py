"""Where the noise of a sampler comes from: generators, one per batch or one per picture, or given tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for the whole batch, or one for every picture: then a picture does not depend on its batch."""

StepNoise = Sequence[Tensor] | Tensor | Callable[[int], Tensor] | None
"""Given noise: `noise[step]` or `noise(step)` is the tensor (B, C, ...) used at that step."""


def seeded_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator for every picture, so that the same seed means the same noise on every device."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def draw_noise(like: Tensor, generators: Generators = None) -> Tensor:
    """Standard normal noise (B, C, ...) of the shape, dtype and device of `like`.

    Drawn on the generator's device in float32, then moved. Without generators torch's own state is used.
    """
    if generators is None or isinstance(generators, torch.Generator):
        return _draw(like.shape, generators, like)
    if len(generators) != like.shape[0]:
        raise ValueError(
            f"found {len(generators)} generators for a batch of {like.shape[0]}; give one for every picture, "
            "or a single one"
        )
    return torch.stack([_draw(like.shape[1:], generator, like) for generator in generators])


def _draw(shape: torch.Size, generator: torch.Generator | None, like: Tensor) -> Tensor:
    device = like.device if generator is None else generator.device
    noise = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    return noise.to(device=like.device, dtype=like.dtype)


def noise_at(step: int, like: Tensor, given: StepNoise, generators: Generators) -> Tensor:
    """The noise of one step: the given tensor if there is one, else a fresh draw."""
    if given is None:
        return draw_noise(like, generators)
    noise = given(step) if callable(given) else given[step]
    if noise.shape != like.shape:
        raise ValueError(
            f"the noise given for step {step} has shape {tuple(noise.shape)}, expected {tuple(like.shape)}"
        )
    return noise.to(device=like.device, dtype=like.dtype)
