"""Noise and conditions in, pictures and an account of every evaluation out: the one sampling of the command line."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from .backbone import Backbone
from .cache.costs import sublayer_names
from .cache.plan import CachePlan, check_plan
from .cache.runtime import TokenCache
from .cache.visit import Visits
from .checkpoint import Loaded
from .conditions import Captions, Conditions, call_model, check_conditions, has_null, without_content
from .device import wait
from .diffusion import (
    Diffusion,
    ModelFn,
    diffusion_time,
    flow_times,
    respaced_timesteps,
    sample_ddim,
    sample_ddpm,
    sample_flow,
    seeded_generators,
    with_guidance,
)
from .diffusion.flow import MODEL_TIME_SCALE
from .diffusion.guidance import OFFICIAL_CHANNELS
from .diffusion.model_time import Prediction
from .run_record import Evaluation, measure
from .schedule import PruningSchedule
from .tokens import Grid, default_sparse_grid

Sampler = Literal["ddim", "ddpm", "euler", "heun"]
SAMPLERS: dict[str, tuple[Sampler, ...]] = {"eps": ("ddim", "ddpm"), "flow": ("euler", "heun")}
"""Samplers by what the model predicts, the default first."""

_PICTURES_PER_SEED = 1_000_003  # a prime: seeds stay apart in the 32 bits that torch's CPU generator takes


@dataclass(frozen=True)
class SampleOptions:
    """How pictures are sampled.

    ``steps``           steps of the sampler; heun evaluates the model ``2 * steps - 1`` times
    ``sampler``         None takes the first of :data:`SAMPLERS` that fits the model
    ``cfg``             guidance scale; 1 runs the conditional half alone
    ``guided_channels`` channels that guidance moves; None takes those of the family (:func:`guided_channels`)
    ``schedule``        None follows the checkpoint's own schedule, or its own side where it has none
    ``batch``           pictures evaluated together
    ``cache``           plan of a token cache, or what makes the visits, such as a calibrator; ``None`` computes all
    """

    steps: int = 20
    sampler: Sampler | None = None
    cfg: float = 1.0
    guided_channels: int | None = None
    schedule: PruningSchedule | None = None
    batch: int = 50
    cache: CachePlan | Visits | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps is {self.steps} and batch is {self.batch}; both must be 1 or more")
        if not math.isfinite(self.cfg):
            raise ValueError(f"the guidance scale is {self.cfg}; give a number, 1 for no guidance")


@dataclass(frozen=True)
class Samples:
    """``images`` (B, C, H, W) float32 as an autoencoder takes them (the latent's scale divided out), of pixel models
    the pictures in -1..1; every evaluation is the account of all of them. ``cache_bytes`` is the most that a token
    cache kept.
    """

    images: Tensor
    evaluations: tuple[Evaluation, ...]
    cache_bytes: int = 0

    @property
    def macs(self) -> int:
        """Executed MACs of one picture, guidance included."""
        return sum(evaluation.macs for evaluation in self.evaluations) // len(self.images)

    @property
    def seconds(self) -> float:
        """Seconds spent in the model for all pictures."""
        return sum(evaluation.seconds for evaluation in self.evaluations)


def guided_channels(loaded: Loaded) -> int:
    """Channels that guidance moves where none are asked for: 3 of a DiT as the official code, all of a PixArt."""
    return OFFICIAL_CHANNELS if loaded.family == "dit" else loaded.config.in_channels


def picture_seeds(count: int, seed: int, first: int = 0) -> list[int]:
    """One seed for each of the pictures from ``first``: picture i of a seed is the same in every batch and count."""
    return [(seed * _PICTURES_PER_SEED + index) % 2**63 for index in range(first, first + count)]


def initial_noise(
    loaded: Loaded, count: int, *, seed: int = 0, size: tuple[int, int] | None = None, first: int = 0
) -> Tensor:
    """Noise (count, C, H, W) float32 of the pictures from ``first``; ``size`` is (height, width) in pixels, None the
    model's own.

    ``ValueError`` where the size is no multiple of the pixels that one position of the latent stands for.
    """
    factor = loaded.latent.factor
    height, width = loaded.config.input_size if size is None else (side // factor for side in size)
    if size is not None and (min(size) < factor or size[0] % factor or size[1] % factor):
        raise ValueError(f"picture size {size[1]}x{size[0]} is no multiple of {factor} pixels, the latent's factor")
    shape = (loaded.latent.channels, height, width)
    return torch.stack([torch.randn(shape, generator=g) for g in seeded_generators(picture_seeds(count, seed, first))])


def sample(
    loaded: Loaded,
    noise: Tensor,
    conditions: Conditions,
    options: SampleOptions | None = None,
    *,
    negative: Captions | None = None,
    seed: int = 0,
    first: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Samples:
    """Turn noise (B, C, H, W) into pictures of ``conditions``, classes (B,) or captions, on the model's device.

    ``negative`` are captions, one a picture, that guidance leads away from instead of the null caption; ``seed`` is
    that of the noise a stochastic sampler adds, for pictures numbered from ``first``; ``progress`` is called with the
    pictures of a batch after each of its evaluations. ``ValueError`` for a label, caption, sampler or schedule that
    the model does not have, ``ArithmeticError`` when the pictures are not finite.
    """
    options = options or SampleOptions()
    options = replace(options, sampler=_sampler(loaded, options.sampler))
    _check(loaded, noise, conditions, options, negative)
    generators = seeded_generators([s + 1_000_000_007 for s in picture_seeds(len(noise), seed, first)])
    images: list[Tensor] = []
    records: list[list[Evaluation]] = []
    kept = 0
    for start in range(0, len(noise), options.batch):
        part = slice(start, start + options.batch)
        recorder = _Recorder(loaded, noise.shape[-2:], options, progress)
        away = None if negative is None else negative[part]
        images.append(_run(recorder, noise[part], conditions[part], away, options, generators[part]).cpu())
        records.append(recorder.evaluations)
        kept = max(kept, recorder.cache.peak_bytes if recorder.cache else 0)
    finished = torch.cat(images) / loaded.latent.scale
    if not bool(torch.isfinite(finished).all()):
        raise ArithmeticError("the model gave NaN or infinite values; compute in float32, and check the file")
    merged = (reduce(Evaluation.joined, group) for group in zip(*records, strict=True))
    return Samples(finished, tuple(merged), kept)


class _Recorder:
    """The model as samplers see it; picks the grid of each evaluation and keeps an account of it."""

    def __init__(
        self, loaded: Loaded, size: Sequence[int], options: SampleOptions, progress: Callable[[int], object] | None
    ) -> None:
        self.loaded, self.size, self.progress = loaded, (size[0], size[1]), progress
        self.model: Backbone = loaded.model
        self.dense = self.model.token_grid(*self.size)
        self.schedule = options.schedule or loaded.schedule
        self.evaluations: list[Evaluation] = []
        self.weight = self.model.x_embedder.proj.weight
        cache = options.cache
        self.cache: Visits | None = TokenCache(cache) if isinstance(cache, CachePlan) else cache
        if self.cache is not None:
            self.cache.clear()

    def grid(self, moment: float) -> Grid | None:
        """The sparse grid at a diffusion time; None for a dense model."""
        config = self.loaded.config
        if config.layout is None:
            return None
        if self.schedule is None:
            return default_sparse_grid(self.dense, config.sparse_side)
        return self.schedule.grid(moment, self.dense)

    def __call__(self, x: Tensor, t: Tensor, y: Conditions, pictures: int) -> Tensor:
        moment = diffusion_time(t, self.loaded.prediction)
        grid = self.grid(moment)
        visit = self.cache.evaluation(moment, range(len(x) // pictures)) if self.cache else None
        cached = {} if visit is None else {"cache": visit}
        wait(x.device)
        start = time.perf_counter()
        with torch.no_grad():
            output = call_model(self.model, x.to(self.weight.dtype), t, y, sparse_grid=grid, **cached)
        wait(x.device)
        seconds, config, images = time.perf_counter() - start, self.loaded.config, len(x)
        text = y.mask.shape[1] if isinstance(y, Captions) else None
        timestep = float(t[0])
        self.evaluations.append(
            measure(config, moment, timestep, self.dense, grid, images, images, seconds, text, visit)
        )
        if self.progress is not None:
            self.progress(pictures)
        return output.float()


def _run(
    recorder: _Recorder,
    noise: Tensor,
    conditions: Conditions,
    negative: Captions | None,
    options: SampleOptions,
    generators: list[torch.Generator],
) -> Tensor:
    device = recorder.weight.device
    noise, conditions = noise.to(device), conditions.to(device)
    away: Conditions = conditions  # is not used at scale 1, where a model needs no null condition
    if options.cfg != 1.0:
        away = without_content(recorder.model, conditions) if negative is None else negative.to(device)
    model_fn: ModelFn = with_guidance(
        lambda x, t, y: recorder(x, t, y, len(noise)),
        conditions,
        away,
        options.cfg,
        channels=options.guided_channels or guided_channels(recorder.loaded),
    )
    if options.sampler in ("euler", "heun"):
        return sample_flow(model_fn, noise, options.steps, method=options.sampler)
    walk: Callable[..., Tensor] = sample_ddpm if options.sampler == "ddpm" else sample_ddim
    return walk(Diffusion(str(options.steps)), model_fn, noise, generator=generators)


def _sampler(loaded: Loaded, wanted: Sampler | None) -> Sampler:
    fitting = SAMPLERS[loaded.prediction]
    if wanted is not None and wanted not in get_args(Sampler):
        raise ValueError(f"unknown sampler {wanted!r}; choose one of {', '.join(get_args(Sampler))}")
    if wanted is not None and wanted not in fitting:
        raise ValueError(
            f"sampler {wanted} does not fit a model that predicts {loaded.prediction!r}; use {' or '.join(fitting)}"
        )
    return wanted or fitting[0]


def _check(
    loaded: Loaded, noise: Tensor, conditions: Conditions, options: SampleOptions, negative: Captions | None
) -> None:
    config = loaded.config
    flat = isinstance(conditions, Captions) or conditions.ndim == 1
    if noise.ndim != 4 or noise.shape[1] != config.in_channels or not flat or not len(conditions) == len(noise) > 0:
        raise ValueError(
            f"found noise {tuple(noise.shape)} and {len(conditions)} conditions; expected (B, {config.in_channels}, H, "
            "W) and labels (B,) or B captions, with B of 1 or more"
        )
    check_conditions(config, conditions)
    if negative is not None:
        check_conditions(config, negative)
        if len(negative) != len(noise):
            raise ValueError(f"there are {len(negative)} negative captions for {len(noise)} pictures; give one each")
    if options.cfg != 1.0 and negative is None and not has_null(config):
        raise ValueError(
            f"guidance {options.cfg:g} needs a null class or caption, which this model does not have; use 1"
        )
    if isinstance(options.cache, CachePlan):
        check_plan(options.cache, loaded.family, sublayer_names(config))
    if options.schedule is not None and config.layout is None:
        raise ValueError(
            "a pruning schedule was given but the model is dense; convert it first: sparsedit convert --help"
        )


def grid_counts(samples: Samples) -> dict[str, int]:
    """How many evaluations ran on each sparse grid, in the order of the sampling; empty for a dense model."""
    return dict(Counter(e.grid_name for e in samples.evaluations if e.sparse is not None))


def evaluation_count(options: SampleOptions) -> int:
    """Evaluations of the model in one sampling; guidance is inside them."""
    return 2 * options.steps - 1 if options.sampler == "heun" else options.steps


def evaluation_times(prediction: Prediction, steps: int, sampler: Sampler | None = None) -> tuple[float, ...]:
    """Diffusion times of the evaluations of one sampling in their order, as the model is given them.

    ``sampler`` None is the first of :data:`SAMPLERS`. ``ValueError`` for a number of steps that it cannot take.
    """
    if prediction == "eps":
        return tuple(diffusion_time(t, "eps") for t in reversed(respaced_timesteps(str(steps))))
    times = flow_times(steps)
    visited = times[:-1]
    if sampler == "heun":  # the end of every step but the last is evaluated too
        visited = [time for step in pairwise(times) for time in step][:-1]
    return tuple(diffusion_time(torch.tensor([time]) * MODEL_TIME_SCALE, "flow") for time in visited)
