"""Measured speed of dense and sparse models of one size, side by side, with random weights."""

from .case import BenchCase, CaseModels, Mode, build_models
from .measure import Measurement, measure_case
from .profiling import OpTime, profile_case

__all__ = ["BenchCase", "CaseModels", "Measurement", "Mode", "OpTime", "build_models", "measure_case", "profile_case"]
