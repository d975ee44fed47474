"""Where learning begins when no plan is given: a calibration of the model itself, by dense samplings."""

from __future__ import annotations

import numpy as np

from ..checkpoint import Loaded
from ..conditions import Conditions
from ..sampling import SampleOptions, initial_noise, sample
from .aged import solve_aged
from .calibrate import Calibrator
from .costs import sublayer_names
from .learn import model_costs
from .learn_options import LearnOptions
from .plan import LEVELS, CachePlan

PICTURES = 16
"""Pictures of the calibration."""


def calibrated_start(loaded: Loaded, conditions: Conditions, options: LearnOptions) -> CachePlan:
    """The plan of least measured harm for the same budget, steps and guidance, of :data:`PICTURES` dense samplings.

    The queue refreshes tokens in turn, so a level leaves the rest of a sub-layer's change: 1 - its share.
    """
    calibrator = Calibrator(loaded.family, sublayer_names(loaded.config))
    noise = initial_noise(loaded, PICTURES, seed=3000 + options.seed)
    asked = conditions[[number % len(conditions) for number in range(PICTURES)]]
    sample(loaded, noise, asked, SampleOptions(options.steps, cfg=options.cfg, batch=options.batch, cache=calibrator))
    measured = calibrator.calibration()
    left = np.tile(1 - np.asarray(LEVELS), (len(measured.sublayers), 1))
    plan, _ = solve_aged(
        measured.change, left, model_costs(loaded, conditions), measured.times, family=loaded.family,
        budget=options.budget, whole=options.whole, seed=options.seed,
        provenance={"method": "calibrate", "pictures": PICTURES},
    )
    return plan
