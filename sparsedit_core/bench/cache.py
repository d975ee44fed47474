"""Token caches beside everything else that saves time, on one model: how far from dense, how good, how fast.

All ways sample the same noise. The pictures come in parts; every part is sampled in every way in turn, forwards and
backwards, so that a machine's moods reach all alike: a way's seconds are the median over the parts of its share of the
dense seconds of the same part.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

from ..cache.calibrate import Calibrator
from ..cache.calibrated import tried_plan
from ..cache.costs import Costs
from ..cache.plan import FULL, CachePlan
from ..cache.rules import RULES, rule_plan
from ..checkpoint import Loaded
from ..conditions import Conditions
from ..metrics import psnr, ssim
from ..sampling import SampleOptions, Samples, evaluation_times, sample
from ..train.evaluation import Jury, PictureSet
from ..train.pictures import Attributes
from .first_block import FirstBlockCache, threshold_for

DENSE, FEWER, CALIBRATED, LEARNED, FIRST_BLOCK = "dense", "fewer steps", "calibrated", "learned", "first-block cache"
HIGHEST = 4.0
"""Highest threshold of the first-block cache that is tried."""
FEW = 4
"""Pictures that thresholds of step caches are found on."""
Progress = Callable[[str], object]


@dataclass(frozen=True)
class Part:
    """Pictures that are sampled together: noise (B, C, H, W), what they are asked with, and what they should show."""

    noise: Tensor
    conditions: Conditions
    shown: Tensor | Attributes | None = None


@dataclass(frozen=True)
class Way:
    """A way to sample: in ``steps``, under a plan, a threshold of the first-block cache or nothing.

    ``budget`` is the share of the dense MACs that it was made for, ``None`` where there is none.
    """

    method: str
    setting: str
    steps: int
    cache: CachePlan | float | None = None
    budget: float | None = None


@dataclass(frozen=True)
class Row:
    """What a way gave, beside dense sampling in ``steps`` steps.

    ``macs``      executed, share of dense; ``seconds`` and ``processor`` seconds likewise, medians over the parts, with
                  the quartiles of the former in ``spread``; ``processor`` is ``None`` where a device computes
    ``psnr``      dB to the dense picture, ``ssim``: means over the pictures; infinite and 1 of equal ones
    ``frechet``   squared Frechet distance to real pictures in the judge's features
    ``accuracy``  share of the pictures taken for their class
    """

    model: str
    steps: int
    method: str
    setting: str
    budget: float | None
    macs: float
    seconds: float
    spread: tuple[float, float]
    processor: float | None
    psnr: float
    ssim: float
    frechet: float
    accuracy: float | None
    pictures: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass
class Tally:
    """What is gathered of a way over the parts."""

    seen: PictureSet
    macs: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)

    def score(self, images: Tensor, dense: Tensor, shown: Tensor | Attributes | None) -> None:
        """Take in the pictures of a part and those of dense sampling."""
        self.psnr += psnr(images, dense).tolist()
        self.ssim += ssim(images, dense).tolist()
        self.seen.add(images, shown)

    def row(self, model: str, steps: int, way: Way, dense: Tally, real: PictureSet) -> Row:
        """The row of a way, beside the tally of dense sampling over the same parts."""
        seconds = shares(self.seconds, dense.seconds)
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
        verdict = self.seen.against(real)
        processor = statistics.median(shares(self.processor, dense.processor)) if self.processor else None
        return Row(
            model, steps, way.method, way.setting, way.budget,
            sum(self.macs) / sum(dense.macs), statistics.median(seconds), (low, high), processor,
            statistics.fmean(self.psnr), statistics.fmean(self.ssim),
            verdict.frechet, verdict.accuracy, len(self.psnr),
        )  # fmt: skip


def shares(values: Sequence[float], dense: Sequence[float]) -> list[float]:
    """Every value over the dense one of its part."""
    return [one / other for one, other in zip(values, dense, strict=True)]


def ways_of(loaded: Loaded, costs: Costs, steps: int, budgets: Sequence[float], plans: Sequence[CachePlan],
            tuning: Part, progress: Progress = lambda _: None) -> list[Way]:  # fmt: skip
    """Everything to compare at one number of steps, dense sampling first.

    ``plans`` are learned ones of this number of steps; ``tuning`` are pictures that are not judged: on them plans are
    calibrated and thresholds found.
    """
    budgets = [budget for budget in budgets if budget >= least_budget(costs, steps)]
    ways = [Way(DENSE, f"{steps} steps", steps)]
    for fewer in fewer_steps(steps, budgets):
        ways.append(Way(FEWER, f"{fewer} of {steps}", fewer))
    times = evaluation_times(loaded.prediction, steps)
    for rule in RULES:
        for budget in budgets:
            ways.append(_planned(rule, rule_plan(rule, costs, times, loaded.family, budget), budget))
    ways += _first_block(loaded, costs, steps, budgets, tuning, progress)
    ways += _calibrated(loaded, costs, steps, budgets, tuning, progress)
    return ways + [_planned(LEARNED, plan, plan.budget) for plan in plans]


def least_budget(costs: Costs, steps: int) -> float:
    """The share of the dense MACs that every plan takes: the first step and what is outside the sub-layers."""
    return (costs.dense + (steps - 1) * costs.outside) / (steps * costs.dense)


def fewer_steps(steps: int, budgets: Sequence[float]) -> list[int]:
    """The numbers of steps that cost from the least budget to the highest, one more included, below ``steps``."""
    low, high = int(min(budgets) * steps + 1e-9), int(max(budgets) * steps + 1e-9)
    return [fewer for fewer in range(high + 1, low - 1, -1) if 1 <= fewer < steps]


def _planned(method: str, plan: CachePlan, budget: float) -> Way:
    return Way(method, f"{100 * budget:.3g} %", len(plan.times), plan, budget)


def _first_block(
    loaded: Loaded, costs: Costs, steps: int, budgets: Sequence[float], tuning: Part, progress: Progress
) -> list[Way]:
    found: dict[float, Way] = {}
    dense, few = steps * costs.dense, Part(tuning.noise[:FEW], tuning.conditions[:FEW])
    first = costs.sublayers[0].rpartition(".")[0]
    later = sum(
        macs[FULL] for name, macs in zip(costs.sublayers, costs.macs, strict=True) if name.rpartition(".")[0] != first
    )

    @cache
    def share(threshold: float) -> float:
        progress(f"{steps} steps, {FIRST_BLOCK}")
        way = Way(FIRST_BLOCK, "", steps, threshold)
        return drawn(loaded, way, few, costs.sublayers).macs / dense

    for budget in budgets:
        threshold, reached = threshold_for(share, budget, HIGHEST, later / dense)
        # of budgets between the same two numbers of evaluations one is enough
        found.setdefault(reached, Way(FIRST_BLOCK, f"below {threshold:.3g}", steps, threshold, budget))
    return list(found.values())


def _calibrated(
    loaded: Loaded, costs: Costs, steps: int, budgets: Sequence[float], tuning: Part, progress: Progress
) -> list[Way]:
    calibrator = Calibrator(loaded.family, costs.sublayers, pictures=len(tuning.noise))
    options = SampleOptions(steps, batch=len(tuning.noise), cache=calibrator)
    reference = sample(loaded, tuning.noise, tuning.conditions, options).images
    calibration = calibrator.calibration()

    def run(plan: CachePlan) -> Tensor:
        progress(f"{steps} steps, {CALIBRATED}")
        return drawn(loaded, Way(CALIBRATED, "", steps, plan), tuning, costs.sublayers).images

    plans = [tried_plan(calibration, costs, budget, run, reference) for budget in budgets]
    return [_planned(CALIBRATED, plan, budget) for plan, budget in zip(plans, budgets, strict=True)]


def drawn(loaded: Loaded, way: Way, part: Part, sublayers: Sequence[str]) -> Samples:
    """A part, sampled in a way with Euler steps."""
    how = FirstBlockCache(sublayers, way.cache) if isinstance(way.cache, float) else way.cache
    options = SampleOptions(way.steps, batch=len(part.noise), cache=how)
    return sample(loaded, part.noise, part.conditions, options)


def compare(
    model: str,
    loaded: Loaded,
    costs: Costs,
    ways: Sequence[Way],
    parts: Sequence[Part],
    jury: Jury,
    real: PictureSet,
    progress: Progress = lambda _: None,
) -> list[Row]:
    """A row for every way, the first of which is dense; ``real`` are the real pictures as the jury sees them."""
    tallies = [Tally(PictureSet(jury)) for _ in ways]
    on_cpu = next(loaded.model.parameters()).device.type == "cpu"
    for way in ways:  # what a first call costs
        drawn(loaded, way, Part(parts[0].noise[:1], parts[0].conditions[:1]), costs.sublayers)
    for number, part in enumerate(parts):
        images: dict[int, Tensor] = {}
        for index in range(len(ways)) if number % 2 == 0 else reversed(range(len(ways))):
            way, tally = ways[index], tallies[index]
            progress(f"{ways[0].steps} steps, {way.method}")
            started, spent = time.perf_counter(), time.process_time()
            samples = drawn(loaded, way, part, costs.sublayers)
            tally.seconds.append(time.perf_counter() - started)
            if on_cpu:
                tally.processor.append(time.process_time() - spent)
            tally.macs.append(float(samples.macs * len(part.noise)))
            images[index] = samples.images
        for index, found in images.items():
            tallies[index].score(found, images[0], part.shown)
    steps = ways[0].steps
    return [tally.row(model, steps, way, tallies[0], real) for way, tally in zip(ways, tallies, strict=True)]

