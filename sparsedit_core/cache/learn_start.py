"""Where learning begins when no plan is given: a calibration of the model itself, by dense samplings and trials."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..checkpoint import Loaded
from ..conditions import Conditions
from ..sampling import SampleOptions, initial_noise, sample
from .calibrate import Calibrator
from .calibrated import WEIGHTINGS, Choices, calibrate
from .learn import sampling_costs
from .learn_options import LearnOptions
from .plan import CachePlan

PICTURES = 16
"""Pictures of the calibration."""


def calibrated_start(
    loaded: Loaded,
    conditions: Conditions,
    options: LearnOptions,
    *,
    trials: int = len(WEIGHTINGS),
    progress: Callable[[int], object] | None = None,
) -> CachePlan:
    """The calibrated plan for the same budget, steps and guidance, of :data:`PICTURES` dense samplings from noise that
    neither training nor the comparison of plans takes; ``progress`` is called with pictures after an evaluation."""
    noise = initial_noise(loaded, PICTURES, seed=3000 + options.seed)
    asked = conditions[[number % len(conditions) for number in range(PICTURES)]]

    def sampled(cache: CachePlan | Calibrator) -> Tensor:
        wanted = SampleOptions(options.steps, cfg=options.cfg, batch=options.batch, cache=cache)
        return sample(loaded, noise, asked, wanted, progress=progress).images

    costs = sampling_costs(loaded, conditions)
    return calibrate(
        Calibrator(loaded.family, costs.sublayers, pictures=PICTURES), costs, options.budget, sampled,
        choices=Choices(options.whole, seed=options.seed), trials=trials,
    )  # fmt: skip
