"""What finished runs measured: seconds of an evaluation, and how much faster a run was than a dense one.

The first evaluation of a run loads weights, starts threads and chooses kernels: no figure here counts it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .config import BackboneConfig
from .run_record import Evaluation, RunRecord
from .tokens import Grid


@dataclass(frozen=True)
class Speedup:
    """``factor`` times faster than ``dense``: mean seconds of an evaluation, dense over sparse, first ones aside."""

    factor: float
    dense: RunRecord

    @property
    def words(self) -> str:
        """``measured 1.52x faster than the dense run``; slower where it was."""
        faster = self.factor >= 1
        factor, way = (self.factor, "faster") if faster else (1 / self.factor, "slower")
        return f"measured {factor:.2f}x {way} than the dense run"

    def to_json(self) -> dict[str, Any]:
        """Plain values: the factor, and which run it was measured against."""
        return {"factor": self.factor, "dense_model": self.dense.source, "dense_seconds": mean_seconds(self.dense)}

    def line(self) -> str:
        """:attr:`words` with the run it was measured against."""
        per = f"{mean_seconds(self.dense):.3g} s an evaluation"
        return f"{self.words} of {self.dense.source} ({per}; first evaluations aside)"


def steady(run: RunRecord) -> Sequence[Evaluation]:
    """The evaluations after the first."""
    return run.evaluations[1:]


def mean_seconds(run: RunRecord) -> float | None:
    """Mean seconds of an evaluation after the first, skipped ones included; ``None`` in a run of fewer than two."""
    seconds = [evaluation.seconds for evaluation in steady(run)]
    return statistics.fmean(seconds) if seconds else None


def speedup(run: RunRecord, others: Iterable[RunRecord]) -> Speedup | None:
    """``run`` against the last of ``others`` that is dense and of the same shape, size, batch and setting.

    ``None`` where there is no such run, where either has fewer than two evaluations, and for a ``run`` that computed
    everything: dense and without a token cache.
    """
    own = mean_seconds(run)
    if (run.layout is None and run.cache is None) or not own:
        return None
    matching = [other for other in others if _is_dense_of(other, run)]
    return Speedup((mean_seconds(matching[-1]) or 0.0) / own, matching[-1]) if matching else None


def grid_seconds(
    runs: Iterable[RunRecord], config: BackboneConfig, dense: Grid, *, images: int | None = None
) -> dict[Grid | None, float]:
    """Median seconds of one image of one evaluation by sparse grid; ``None`` is the dense model.

    Of the runs of models shaped as ``config`` (sparse ones: of its layout) at ``dense`` tokens, all of the
    ``setting`` of the newest such run. ``images`` keeps evaluations of as many latents only, both halves of guidance
    included: larger batches take less per image. Skipped evaluations and the first of each run do not count.
    """
    alike = [run for run in runs if run.cache is None and _same_shape(run.config, config)]
    alike = [run for run in alike if run.layout in (None, config.layout)]
    alike = [run for run in alike if any(evaluation.dense == dense for evaluation in run.evaluations)]
    found: dict[Grid | None, list[float]] = {}
    for run in alike:
        for evaluation in steady(run) if run.setting == alike[-1].setting else ():
            if evaluation.macs and evaluation.dense == dense and images in (None, evaluation.images):
                key = None if run.layout is None else evaluation.sparse
                found.setdefault(key, []).append(evaluation.seconds / evaluation.images)
    return {grid: statistics.median(seconds) for grid, seconds in found.items()}


def _is_dense_of(other: RunRecord, run: RunRecord) -> bool:
    if other.layout is not None or other.cache is not None or not steady(other) or other.setting != run.setting:
        return False
    if run.config is None and run.source != other.source:  # another maker's model is known by its name alone
        return False
    return _same_shape(other.config, run.config) and _sizes(other) == _sizes(run) and _all_computed(other)


def _same_shape(a: BackboneConfig | None, b: BackboneConfig | None) -> bool:
    """Whether the dense transformers are of one shape; what only a sparse model has does not count."""
    if a is None or b is None:
        return a is b
    a, b = (
        replace(each, layout=None, sparse_side=1, reinject_positions=False, input_size=(each.patch_size,) * 2)
        for each in (a, b)
    )
    return a == b


def _sizes(run: RunRecord) -> set[tuple[Grid, int, int | None]]:
    """Tokens, latents and text tokens of the evaluations."""
    return {(e.dense, e.images, e.caption_tokens) for e in run.evaluations}


def _all_computed(run: RunRecord) -> bool:
    return all(evaluation.macs == evaluation.dense_macs for evaluation in run.evaluations)
