"""Measured speed of dense and sparse models of one size, side by side, with random weights."""

from .case import BenchCase, CaseModels, Mode, build_models
from .comfyui import ComfyUI, comfyui_folders, load_comfyui, why_not_core
from .measure import Measurement, measure_case, measure_schedules
from .profiling import OpTime, profile_case

__all__ = [
    "BenchCase",
    "CaseModels",
    "ComfyUI",
    "Measurement",
    "Mode",
    "OpTime",
    "build_models",
    "comfyui_folders",
    "load_comfyui",
    "measure_case",
    "measure_schedules",
    "profile_case",
    "why_not_core",
]
