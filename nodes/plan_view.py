"""The live picture on SparseDiT Cache Plan: the plan of the widgets, made by the code that the node runs.

What a node ran with (its model, latent size and connected plan) is kept for a while under a token that the browser
gets with the result, so that the picture then follows the slider for models that only a run knows.
"""

from __future__ import annotations

import base64
import io as bytes_io
import uuid
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import comfy.model_base
import comfy.samplers

from ..sparsedit_core.cache.calibrated import carries_calibration, with_budget
from ..sparsedit_core.cache.costs import Costs
from ..sparsedit_core.cache.draw import draw_plan
from ..sparsedit_core.cache.plan import CachePlan, check_plan
from ..sparsedit_core.cache.rules import RULES, rule_plan
from ..sparsedit_core.checkpoint import describe_checkpoint
from .cache_own import OwnAdapter
from .comfy_model import ModelConfig, model_type
from .files import checkpoint_path, file_stamp
from .info import SparseDiTInfo
from .plans import Grids, costs_of, plan_of_name, plan_words
from .sampling_time import model_timestep

BY_RULE = {f"rule: {name}": name for name in RULES}
KEPT = 256


class Widgets(NamedTuple):
    """The node's own inputs."""

    source: str
    budget: float
    steps: int
    scheduler: str


class Subject(NamedTuple):
    """What a plan is for: the family and sub-layers of a model, its MACs, its sampling, and a connected plan."""

    family: str
    sublayers: tuple[str, ...]
    costs: Costs
    sampling: Any
    plan: CachePlan | None = None
    grids: Grids | None = None


_seen: OrderedDict[str, Subject] = OrderedDict()
_lock = Lock()


def remember(subject: Subject) -> str:
    """Keep what a node ran with; the token to ask for it again."""
    token = uuid.uuid4().hex
    with _lock:
        _seen[token] = subject
        while len(_seen) > KEPT:
            _seen.popitem(last=False)
    return token


def plan_for(subject: Subject, widgets: Widgets) -> tuple[CachePlan, str]:
    """The plan, and a note on what it does not follow; ``ValueError`` in one sentence."""
    if subject.plan is None and widgets.source in BY_RULE:
        times = sampler_times(subject.sampling, widgets.scheduler, widgets.steps)
        return rule_plan(BY_RULE[widgets.source], subject.costs, times, subject.family, widgets.budget), ""
    plan = subject.plan or plan_of_name(widgets.source)
    check_plan(plan, subject.family, subject.sublayers)
    if carries_calibration(plan):
        return with_budget(plan, subject.costs, widgets.budget), ""
    return plan, "; a plan without calibration keeps its own budget"


def sampler_times(sampling: Any, scheduler: str, steps: int) -> list[float]:
    """Diffusion times of the steps of ComfyUI's sampler, 1 noise .. 0 image, descending; equal ones once."""
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)[:-1]
    last = float(sampling.timestep(sampling.sigma_max))
    times = {min(model_timestep(sampling, sigma) / last, 1.0) for sigma in sigmas}
    return sorted(times, reverse=True)


def plan_view(data: dict[str, Any]) -> dict[str, Any]:
    """Picture (PNG as base64) and words of the plan of ``data["values"]``.

    The model is that of ``data["token"]`` or of ``data["checkpoint"]``; with neither a file is drawn without its MACs,
    and a rule waits for a run.
    """
    widgets = _widgets(data.get("values"))
    subject = _subject(data)
    if subject is None and widgets.source in BY_RULE:
        return {"picture": None, "words": "run the workflow once: only then is this model known"}
    if subject is None:
        plan, words = plan_of_name(widgets.source), "run the workflow once to see what it takes"
    else:
        plan, note = plan_for(subject, widgets)
        words = plan_words(plan, subject.costs, subject.grids) + note
    stream = bytes_io.BytesIO()
    draw_plan(plan, subject and subject.costs).save(stream, format="PNG")
    return {"picture": base64.b64encode(stream.getvalue()).decode("ascii"), "words": words}


def _subject(data: dict[str, Any]) -> Subject | None:
    token, checkpoint = data.get("token"), data.get("checkpoint")
    with _lock:
        if isinstance(token, str) and token in _seen:
            _seen.move_to_end(token)
            return _seen[token]
    if data.get("linked") or not isinstance(checkpoint, str):
        return None  # a connected plan is known only after a run
    size = data.get("latent")
    shape = tuple(size) if isinstance(size, list) and len(size) == 2 else None
    if shape and not all(isinstance(side, int) and 1 <= side <= 65536 for side in shape):
        raise ValueError(f"latent is {size!r}; give two whole numbers")
    return _described(checkpoint, file_stamp(checkpoint), shape)


@lru_cache(maxsize=8)
def _described(name: str, _stamp: str, shape: tuple[int, int] | None) -> Subject:  # the stamp is part of the key only
    info = SparseDiTInfo.of(describe_checkpoint(Path(checkpoint_path(name))), name)
    adapter = OwnAdapter(info.config)
    height, width = shape or info.config.input_size
    sampling = comfy.model_base.model_sampling(ModelConfig(info), model_type(info))
    grids = Grids(info.config, adapter.grid((height, width)), info.schedule) if info.layout else None
    costs = costs_of(adapter, (1, info.config.in_channels, height, width), grids)
    return Subject(adapter.family, adapter.sublayers, costs, sampling, None, grids)


def _widgets(values: Any) -> Widgets:
    found = values if isinstance(values, dict) else {}
    source, budget, steps, scheduler = (found.get(name) for name in Widgets._fields)
    if not isinstance(source, str) or scheduler not in comfy.samplers.KSampler.SCHEDULERS:
        raise ValueError(f"source is {source!r} and scheduler is {scheduler!r}; choose of the node's lists")
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0.0 < budget <= 1.0:
        raise ValueError(f"budget is {budget!r}; give a share of the dense MACs above 0, at most 1")
    if isinstance(steps, bool) or not isinstance(steps, int) or not 2 <= steps <= 1000:
        raise ValueError(f"steps is {steps!r}; give a whole number from 2 to 1000")
    return Widgets(source, float(budget), steps, scheduler)
