"""The token cache of one sampling run in ComfyUI: made at its start, asked at every evaluation, dropped at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sampler_helpers

from ..sparsedit_core.cache.calibrate import Calibrator
from ..sparsedit_core.cache.costs import Costs, fit_memory
from ..sparsedit_core.cache.plan import CachePlan
from ..sparsedit_core.cache.runtime import TokenCache
from ..sparsedit_core.cache.visit import Visit, Visits
from ..sparsedit_core.run_record import CacheUse
from ..sparsedit_core.tokens import Grid
from ..sparsedit_core.units import memory_text
from .cache_adapter import CacheAdapter, Size

log = logging.getLogger("sparsedit")


@dataclass(frozen=True)
class CacheSettings:
    """What a MODEL carries of a token cache: the plan that acts, or the calibrator that measures.

    ``start`` and ``end`` are the diffusion times between which the plan acts, 1 noise .. 0 image; outside everything
    is computed. ``limit`` in bytes, ``None`` for no limit.
    """

    adapter: CacheAdapter
    plan: CachePlan | Calibrator
    limit: int | None = None
    start: float = 1.0
    end: float = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> CacheSettings:
        return self  # ComfyUI 0.3.64 deep-copies what hangs on a MODEL

    @property
    def words(self) -> str:
        """The plan in a few words."""
        if isinstance(self.plan, Calibrator):
            return "calibration"
        return f"{self.plan.made_by} {self.plan.hash[:8]}, budget {100 * self.plan.budget:.0f} %"


class RunCache:
    """The state of one run, and the memory that it will take."""

    def __init__(
        self, settings: CacheSettings, guider: Any, noise_shape: Sequence[int], sparse: Grid | None
    ) -> None:
        self.settings = settings
        adapter, plan = settings.adapter, settings.plan
        beside = max((adapter.beside(each) for value in guider.conds.values() for each in value), default=0)
        size = Size((_rows(guider) * noise_shape[0], *noise_shape[1:]), _text(guider), sparse, beside)
        inner, windows = guider.model_patcher.model, _overlap(guider)
        itemsize = (inner.manual_cast_dtype or inner.get_dtype()).itemsize

        def sizes(names: Sequence[str]) -> dict[str, int]:
            return {name: math.ceil(windows * each) for name, each in adapter.sizes(size, itemsize, names).items()}

        self._source: Visits
        if isinstance(plan, CachePlan):
            plan = self._fitted(plan, adapter.costs(size), sizes(plan.reused()))
            self.bytes = sum(sizes(plan.reused()).values())
            self._source = TokenCache(plan)
        else:
            self.bytes = plan.ages * sum(sizes(adapter.sublayers).values())
            self._source = plan
        log.info("token cache: will keep up to %s beside the model", memory_text(self.bytes))

    def _fitted(self, plan: CachePlan, costs: Costs, wanted: dict[str, int]) -> CachePlan:
        """The plan within the limit; tells what is left of it. ``wanted`` are the bytes of what it reuses."""
        limit = self.settings.limit
        if limit is None:
            return plan
        fitted = fit_memory(plan, costs, wanted, limit)
        if fitted is not plan:
            log.warning(
                "token cache: the plan would keep %s, the limit is %s; %d of its %d sub-layers are kept, the others "
                "are computed in full",
                memory_text(sum(wanted.values())), memory_text(limit), len(fitted.reused()), len(wanted),
            )  # fmt: skip
        return fitted

    def visit(self, time: float, x: Any, options: dict[str, Any]) -> Visit:
        """Begin the evaluation of latents x at a diffusion time."""
        settings = self.settings
        window = options.get("context_window")
        where = x.shape[1:], None if window is None else tuple(window.index_list)
        members = tuple(options.get("uuids") or (0,))
        return self._source.evaluation(time, members, where, full=not settings.end <= time <= settings.start)

    def use(self) -> CacheUse:
        """For the record of the run."""
        return CacheUse(self.settings.words, self._source.peak_bytes)

    def clear(self) -> None:
        """Drop what is kept."""
        self._source.clear()


def _rows(guider: Any) -> int:
    """Conditions that are evaluated for each latent."""
    conditions: dict[str, Any] = guider.conds
    alone = getattr(guider, "cfg", None) == 1.0 and not guider.model_options.get("disable_cfg1_optimization", False)
    return sum(len(value) for name, value in conditions.items() if not (alone and name == "negative")) or 1


def _text(guider: Any) -> int | None:
    """Text tokens of the longest condition."""
    tensors = [each.get("cross_attn") for value in guider.conds.values() for each in value]
    lengths = [tensor.shape[1] for tensor in tensors if getattr(tensor, "ndim", 0) == 3]
    return max(lengths, default=None)


def _overlap(guider: Any) -> float:
    """How often each frame is kept: context windows overlap, and each has its own cache."""
    handler = guider.model_options.get("context_handler")
    length, overlap = getattr(handler, "context_length", 0), getattr(handler, "context_overlap", 0)
    return length / (length - overlap) if length > overlap > 0 else 1.0


def with_room(model: Any, noise_shape: Any, conds: Any, needed: int) -> Any:
    """A shape of the noise, which ComfyUI only estimates memory from, that leaves ``needed`` bytes more free."""
    own = comfy.sampler_helpers.estimate_memory(model, noise_shape, conds)[0]
    factor = 1 + needed / max(own, 1)
    return [math.ceil(noise_shape[0] * factor), *noise_shape[1:]]
