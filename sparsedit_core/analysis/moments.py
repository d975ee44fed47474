"""The inputs a model is looked at with: the same pictures at several diffusion times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..backbone import Backbone
from ..checkpoint import Loaded
from ..conditions import Conditions, call_model, check_conditions
from ..diffusion import Diffusion, flow_noise
from ..diffusion.betas import BASE_STEPS
from ..diffusion.flow import MODEL_TIME_SCALE
from ..sampling import SampleOptions, evaluation_times, initial_noise, sample
from ..schedule import PruningSchedule
from ..tokens import Grid, default_sparse_grid

DEFAULT_TIMES = (0.9, 0.7, 0.5, 0.3, 0.1)
"""The middles of five equal parts of the diffusion time, so that a mean over them is a mean over all time."""


@dataclass(frozen=True)
class Moment:
    """What the model is given at one diffusion ``time`` (1 noise, 0 image): x (B, C, H, W), t (B,), and its
    conditions y."""

    time: float
    x: Tensor
    t: Tensor
    y: Conditions


@torch.no_grad()
def predict(model: Backbone, moment: Moment, sparse: Grid | None = None) -> Tensor:
    """The model's noise or velocity (B, C, H, W) at a moment, float32; a learned variance is left out."""
    output = call_model(model, moment.x.to(model.x_embedder.proj.weight.dtype), moment.t, moment.y, sparse_grid=sparse)
    return output[:, : moment.x.shape[1]].float()


def sparse_grid_at(loaded: Loaded, moment: Moment, schedule: PruningSchedule | None = None) -> Grid | None:
    """The sparse grid of a SparseDiT at a moment, None for a dense model.

    It is that of ``schedule``, else of the checkpoint's schedule, else of its own side.
    """
    if loaded.layout is None:
        return None
    dense = loaded.model.token_grid(*moment.x.shape[-2:])
    schedule = schedule or loaded.schedule
    if schedule is None:
        return default_sparse_grid(dense, loaded.config.sparse_side)
    return schedule.grid(moment.time, dense)


def noised(
    loaded: Loaded, images: Tensor, conditions: Conditions, times: Sequence[float], *, seed: int = 0
) -> list[Moment]:
    """Real samples (B, C, H, W) in model space with noise: one moment for each of ``times``, the noise the same in all.

    A noise-predicting model knows 1000 timesteps; the moment's time is that of the nearest. ``ValueError`` for a time
    outside 0..1, for samples that are not the model's and for labels or captions that it does not take.
    """
    _check_times(times)
    config = loaded.config
    if images.ndim != 4 or tuple(images.shape[1:]) != (config.in_channels, *config.input_size):
        raise ValueError(
            f"the samples are {tuple(images.shape[1:])} each, but the model works on "
            f"{(config.in_channels, *config.input_size)}; give the data that it was trained on"
        )
    check_conditions(config, conditions)
    device = loaded.model.x_embedder.proj.weight.device
    images, given = images.to(device), conditions.to(device)
    noise = initial_noise(loaded, len(images), seed=seed).to(device)
    moments = []
    for time in times:
        if loaded.prediction == "flow":
            moment = torch.full((len(images),), float(time), device=device)
            moments.append(Moment(float(time), flow_noise(images, moment, noise), MODEL_TIME_SCALE * moment, given))
        else:
            index = torch.full((len(images),), round(time * (BASE_STEPS - 1)), device=device)
            x = Diffusion().add_noise(images, index, noise)
            moments.append(Moment(int(index[0]) / (BASE_STEPS - 1), x, index, given))
    return moments


def trajectory(
    loaded: Loaded,
    conditions: Conditions,
    times: Sequence[float],
    *,
    steps: int = 20,
    schedule: PruningSchedule | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[Moment]:
    """What the model itself meets while it samples pictures of ``conditions`` in ``steps`` steps, without guidance.

    Needs no data. Of every wanted time the nearest evaluation is taken, and the moment's time is that evaluation's;
    two times with the same nearest one give one moment. ``schedule`` is that of the sampling (sparse models).
    ``progress`` is called with B after each evaluation.
    """
    _check_times(times)
    visited = evaluation_times(loaded.prediction, steps)
    nearest = [min(range(len(visited)), key=lambda number: abs(visited[number] - time)) for time in times]
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, given: tuple[Any, ...]) -> None:
        seen.append((given[0] if len(seen) in nearest else given[0][:0], given[1]))

    count = len(conditions)
    hook = loaded.model.register_forward_pre_hook(note)
    try:
        options = SampleOptions(steps, schedule=schedule, batch=count)
        sample(loaded, initial_noise(loaded, count, seed=seed), conditions, options, seed=seed, progress=progress)
    finally:
        hook.remove()
    given = conditions.to(loaded.model.x_embedder.proj.weight.device)
    return [Moment(visited[number], *seen[number], given) for number in dict.fromkeys(nearest)]


def _check_times(times: Sequence[float]) -> None:
    if not times:
        raise ValueError("there is no diffusion time to look at; give at least one from 0 (image) to 1 (noise)")
    for time in times:
        if not 0.0 <= time <= 1.0:
            raise ValueError(f"the diffusion time {time:g} is outside 0 (image) .. 1 (noise)")
