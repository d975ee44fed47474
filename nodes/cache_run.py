"""The token cache of one sampling run in ComfyUI: made at its start, asked at every evaluation, dropped at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.sampler_helpers

from ..sparsedit_core.cache.calibrate import Calibrator
from ..sparsedit_core.cache.costs import fit_memory
from ..sparsedit_core.cache.plan import CachePlan
from ..sparsedit_core.cache.runtime import TokenCache, Visit
from ..sparsedit_core.run_record import CacheUse
from ..sparsedit_core.tokens import Grid
from ..sparsedit_core.units import memory_text
from .cache_adapters import CacheAdapter

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
        made = self.plan.provenance.get("made_by", "plan")
        return f"{made} {self.plan.hash[:8]}, budget {100 * self.plan.budget:.0f} %"


class RunCache:
    """The state of one run, and the memory that it will take."""

    def __init__(
        self, settings: CacheSettings, guider: Any, noise: Any, sparse: Callable[[float], Grid | None]
    ) -> None:
        self.settings = settings
        self.bytes = 0
        self._source: TokenCache | Calibrator
        if isinstance(settings.plan, Calibrator):
            settings.plan.new_run()
            self._source = settings.plan
        else:
            self._source = TokenCache(self._fitted(settings.plan, guider, noise, sparse(0.0)))

    def _fitted(self, plan: CachePlan, guider: Any, noise: Any, sparse: Grid | None) -> CachePlan:
        """The plan within the limit; tells what it will keep."""
        adapter, limit = self.settings.adapter, self.settings.limit
        rows, text = _rows(guider) * noise.shape[0], _text(guider)
        shape = rows, *noise.shape[1:]
        inner = guider.model_patcher.model
        itemsize = (inner.manual_cast_dtype or inner.get_dtype()).itemsize
        windows = _overlap(guider)
        beside = max((adapter.beside(each) for value in guider.conds.values() for each in value), default=0)

        def sizes(names: tuple[str, ...]) -> dict[str, int]:
            found = adapter.sizes(shape, text, itemsize, names, sparse, beside)
            return {name: math.ceil(windows * size) for name, size in found.items()}

        wanted = sizes(plan.reused())
        if limit is not None:
            fitted = fit_memory(plan, adapter.costs(shape, text, sparse, beside), wanted, limit)
            if fitted is not plan:
                left = len(fitted.reused())
                log.warning(
                    "token cache: the plan would keep %s, the limit is %s; %d of its %d sub-layers are kept, the "
                    "others are computed in full",
                    memory_text(sum(wanted.values())), memory_text(limit), left, len(wanted),
                )  # fmt: skip
                plan, wanted = fitted, sizes(fitted.reused())
        self.bytes = sum(wanted.values())
        log.info("token cache: will keep up to %s beside the model", memory_text(self.bytes))
        return plan

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
