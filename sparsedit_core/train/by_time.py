"""How wrong a model's prediction is at each diffusion time: where few tokens cost quality, and where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Loaded
from ..conditions import Conditions, call_model
from ..diffusion import Diffusion, diffusion_time, flow_losses, training_losses
from ..diffusion.betas import BASE_STEPS
from ..sampling import initial_noise
from ..schedule import PruningSchedule
from ..tokens import Grid, default_sparse_grid

TIMES = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
""".1 near the picture to .9 near the noise."""


@dataclass(frozen=True)
class ErrorAtTime:
    """Mean squared error per value at one time (1 noise, 0 picture), of the velocity (flow models) or the noise (eps).

    ``grid`` is the sparse grid that the model ran with, ``None`` of a dense one; ``deviation`` is the standard error
    of the mean over the pictures.
    """

    time: float
    grid: Grid | None
    error: float
    deviation: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "time": self.time,
            "sparse_grid": None if self.grid is None else list(self.grid),
            "error": self.error,
            "deviation": self.deviation,
        }


@torch.no_grad()
def errors_by_time(
    loaded: Loaded,
    images: Tensor,
    conditions: Conditions,
    *,
    times: Sequence[float] = TIMES,
    schedule: PruningSchedule | None = None,
    seed: int = 0,
    batch: int = 50,
    progress: Callable[[int], object] = lambda _: None,
) -> list[ErrorAtTime]:
    """The model's error on pictures in its own space (n, C, H, W), the latent's scale applied, with their
    classes (n,) or captions.

    Picture i gets the same noise at all times and for all models of its shape. ``schedule`` ``None`` is the model's
    own; a sparse model without any keeps its own grid. ``progress`` is called with the pictures of every batch.
    """
    config = loaded.config
    wanted = (loaded.latent.channels, *config.input_size)
    if images.shape[1:] != wanted or len(images) != len(conditions) or len(images) < 2:
        raise ValueError(
            f"found samples {tuple(images.shape)} and {len(conditions)} conditions; this model takes 2 or more of "
            f"{wanted}, with one label or caption each"
        )
    dense = loaded.model.token_grid(*config.input_size)
    weight = loaded.model.x_embedder.proj.weight
    noise = initial_noise(loaded, len(images), seed=seed)
    result = []
    for time in times:
        grid = _grid(time, loaded, schedule or loaded.schedule, dense)
        parts = []
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            x0, eps = (values[part].to(weight.device) for values in (images.float(), noise))
            given = conditions[part].to(weight.device)

            def model_fn(x: Tensor, t: Tensor, given: Conditions = given, grid: Grid | None = grid) -> Tensor:
                return call_model(loaded.model, x.to(weight.dtype), t, given, sparse_grid=grid).float()

            if loaded.prediction == "flow":
                losses = flow_losses(model_fn, x0, torch.full((len(x0),), time, device=x0.device), eps)
            else:
                index = torch.full((len(x0),), _timestep(time), device=x0.device)
                losses = training_losses(Diffusion(), model_fn, x0, index, eps)
            parts.append(losses["mse"].cpu().double())
            progress(len(x0))
        errors = torch.cat(parts)
        if not bool(torch.isfinite(errors).all()):
            raise ArithmeticError("the model gave NaN or infinite values; compute in float32, and check the file")
        result.append(ErrorAtTime(time, grid, float(errors.mean()), float(errors.std() / len(errors) ** 0.5)))
    return result


def _grid(time: float, loaded: Loaded, schedule: PruningSchedule | None, dense: Grid) -> Grid | None:
    if loaded.config.layout is None:
        return None
    if schedule is None:
        return default_sparse_grid(dense, loaded.config.sparse_side)
    # noise-predicting models know whole timesteps only, and follow the schedule by the one they are given
    asked = time if loaded.prediction == "flow" else diffusion_time(float(_timestep(time)), "eps")
    return schedule.grid(asked, dense)


def _timestep(time: float) -> int:
    """The timestep of noise-predicting models that is nearest to a time."""
    return round(time * (BASE_STEPS - 1))
