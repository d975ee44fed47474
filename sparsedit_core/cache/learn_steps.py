"""A whole sampling that can be learned from: the samplers' own steps, each computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..checkpoint import Loaded
from ..conditions import Conditions, call_model, without_content
from ..diffusion import Diffusion, flow_times, with_guidance
from ..diffusion.flow import flow_velocity
from ..diffusion.gaussian import ModelFn
from ..diffusion.sampling import ddim_step, working_copy
from .learn_visit import NOTHING, SoftStore, SoftVisit

Step = Callable[[ModelFn, Tensor], Tensor]
"""One step of a sampler: the model and the sample (B, C, ...) to the next sample."""


def sampler_steps(loaded: Loaded, steps: int) -> list[Step]:
    """The steps of the sampler that fits the model: Euler's of rectified flow, else deterministic DDIM's."""
    if loaded.prediction == "flow":
        return [_euler(now, after) for now, after in pairwise(flow_times(steps))]
    diffusion = Diffusion(str(steps))
    return [_ddim(diffusion, len(diffusion) - 1 - number) for number in range(len(diffusion))]


def _euler(now: float, after: float) -> Step:
    return lambda model_fn, x: x + (after - now) * flow_velocity(model_fn, x, now)


def _ddim(diffusion: Diffusion, number: int) -> Step:
    def step(model_fn: ModelFn, x: Tensor) -> Tensor:
        index = torch.full((x.shape[0],), number, dtype=torch.int64, device=x.device)
        denoised = diffusion.denoise(model_fn(x, diffusion.timesteps(index)), x, index)
        return ddim_step(diffusion, denoised, x, index, None)

    return step


def soft_sample(
    loaded: Loaded,
    noise: Tensor,
    conditions: Conditions,
    weights: Sequence[Tensor],
    levels: Sequence[Sequence[int]],
    sublayers: Sequence[str],
    *,
    seed: int = 0,
    cfg: float = 1.0,
    channels: int = 3,
    checkpointing: bool = True,
) -> Tensor:
    """Noise (B, C, H, W) to the final sample (B, C, H, W) under a plan that is learned; differentiable in ``weights``.

    ``weights``  of every step (sub-layers, levels): y of :mod:`.learn_visit`; ``levels`` the choices they stand for
    ``seed``     of the plan's queue; ``cfg`` guidance of the first ``channels``, both halves with the same tokens
    ``checkpointing``  hold the activations of one step alone in the backward pass, at the price of a second forward
                 pass. What lies between the steps, the sample and the kept outputs, is held of all of them

    The model's weights must not require gradients, or they would get them. Latents are not scaled.
    """
    device = loaded.model.x_embedder.proj.weight.device
    dtype = loaded.model.x_embedder.proj.weight.dtype
    x, conditions = working_copy(noise.to(device)), conditions.to(device)
    away = without_content(loaded.model, conditions) if cfg != 1.0 else conditions
    store = NOTHING

    def advance(
        step: Step, x: Tensor, row: Tensor, chosen: Sequence[int], before: SoftStore
    ) -> tuple[Tensor, SoftStore]:
        visit = SoftVisit(sublayers, chosen, row, before, seed)

        def model(x: Tensor, t: Tensor, y: Conditions) -> Tensor:
            return call_model(loaded.model, x.to(dtype), t, y, cache=visit).to(x.dtype)

        x = step(with_guidance(model, conditions, away, cfg, channels=channels), x)
        return x, visit.store

    for step, row, chosen in zip(sampler_steps(loaded, len(weights)), weights, levels, strict=True):
        if checkpointing:
            x, store = checkpoint(
                advance, step, x, row, chosen, store, use_reentrant=False, preserve_rng_state=False
            )
        else:
            x, store = advance(step, x, row, chosen, store)
    return x
