"""What one sampling run did: time, token grid, MACs and seconds of every evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from .cache.costs import sublayer_costs
from .cache.visit import Visit
from .config import BackboneConfig
from .cost import caption_length, macs
from .layout import SegmentLayout
from .schedule import PruningSchedule
from .tokens import Grid
from .units import amount, macs_text, memory_text


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the model.

    ``time``       1 noise, 0 image; ``timestep`` is what the model was given
    ``dense``      token grid (rows, columns) of the latent; ``sparse`` the sparse one, ``None`` in a dense model
    ``images``     how many latents were evaluated, both halves of guidance included
    ``macs``       executed multiply-accumulates of all of them, 0 where a cache answered instead of the model;
                   ``dense_macs`` those of the dense model
    ``seconds``    wall time of the evaluation
    ``caption_tokens``  text tokens that were read, of the longest caption; ``None`` for models of classes
    ``recomputed``  under a token cache the share of the sub-layers' outputs that was computed anew, else ``None``
    """

    time: float
    timestep: float
    dense: Grid
    sparse: Grid | None
    images: int
    macs: int
    dense_macs: int
    seconds: float
    caption_tokens: int | None = None
    recomputed: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the sparse blocks; 0 where nothing was computed."""
        rows, columns = self.sparse or self.dense
        return rows * columns if self.macs else 0

    @property
    def grid_name(self) -> str:
        """The grid as ``8x8``; a dash where nothing was computed."""
        rows, columns = self.sparse or self.dense
        return f"{rows}x{columns}" if self.macs else "-"

    def joined(self, other: Evaluation) -> Evaluation:
        """Both as one: halves of one evaluation that were computed apart."""
        return replace(
            self,
            images=self.images + other.images,
            macs=self.macs + other.macs,
            dense_macs=self.dense_macs + other.dense_macs,
            seconds=self.seconds + other.seconds,
            recomputed=self._mean_recomputed(other),
            caption_tokens=max((n for n in (self.caption_tokens, other.caption_tokens) if n), default=None),
        )

    def _mean_recomputed(self, other: Evaluation) -> float | None:
        """The share of both together, by their pictures."""
        if self.recomputed is None or other.recomputed is None:
            return None
        images = self.images + other.images
        return (self.recomputed * self.images + other.recomputed * other.images) / images

    def to_json(self) -> dict[str, Any]:
        """Plain values; FLOPs are two per MAC."""
        return {
            "time": self.time,
            "timestep": self.timestep,
            "dense_grid": list(self.dense),
            "sparse_grid": list(self.sparse) if self.sparse else None,
            "images": self.images,
            "caption_tokens": self.caption_tokens,
            "macs": self.macs,
            "flops": 2 * self.macs,
            "dense_macs": self.dense_macs,
            "dense_flops": 2 * self.dense_macs,
            "ratio_to_dense": self.macs / self.dense_macs,
            "recomputed": self.recomputed,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class CacheUse:
    """The token cache of a run: ``plan`` names it in a few words, ``peak_bytes`` is the most that it kept."""

    plan: str
    peak_bytes: int

    @property
    def words(self) -> str:
        """Which plan, and the memory."""
        return f"token cache ({self.plan}), at most {memory_text(self.peak_bytes)} kept"

    def line(self, recomputed: float | None) -> str:
        """:attr:`words` with what was computed anew."""
        share = "" if recomputed is None else f": {100 * recomputed:.1f} % of the sub-layers' outputs recomputed"
        return self.words + share


@dataclass(frozen=True)
class RunRecord:
    """A finished sampling run of one model.

    ``schedule`` is the one that acted, or ``None``; ``setting`` is what seconds depend on beside the shapes, such as
    "float32 on cpu": only runs of one setting are timed against each other. ``config`` is ``None`` of models that are
    not this pack's own; ``cache`` is the token cache that acted, or ``None``.
    """

    source: str
    config: BackboneConfig | None
    schedule: PruningSchedule | None
    evaluations: tuple[Evaluation, ...]
    seconds: float
    setting: str = ""
    cache: CacheUse | None = None

    @property
    def layout(self) -> SegmentLayout | None:
        """The layout of a sparse model."""
        return None if self.config is None else self.config.layout

    @property
    def recomputed(self) -> float | None:
        """Share of the sub-layers' outputs that was computed anew, of all evaluations; ``None`` without a cache."""
        shares = [e.recomputed for e in self.evaluations if e.recomputed is not None]
        return sum(shares) / len(shares) if shares else None

    @property
    def macs(self) -> int:
        """Executed MACs of the run."""
        return sum(evaluation.macs for evaluation in self.evaluations)

    @property
    def dense_macs(self) -> int:
        """What the dense model of the same shape would have executed."""
        return sum(evaluation.dense_macs for evaluation in self.evaluations)

    @property
    def ratio(self) -> float:
        """Share of the dense model's MACs; 1 for a run without an evaluation."""
        return self.macs / self.dense_macs if self.evaluations else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values: the model, the schedule, totals in MACs and FLOPs, every evaluation."""
        return {
            "model": self.source,
            "layout": str(self.layout) if self.layout else None,
            "schedule": self.schedule.to_json() if self.schedule else None,
            "convention": "executed",
            "macs": self.macs,
            "flops": 2 * self.macs,
            "dense_macs": self.dense_macs,
            "dense_flops": 2 * self.dense_macs,
            "ratio_to_dense": self.ratio,
            "seconds": self.seconds,
            "setting": self.setting,
            "cache": self._cache_json(),
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
        }

    def _cache_json(self) -> dict[str, Any] | None:
        if self.cache is None:
            return None
        return {"plan": self.cache.plan, "recomputed": self.recomputed, "peak_bytes": self.cache.peak_bytes}

    def headline(self) -> str:
        """The totals in a few words."""
        if not self.evaluations:
            return "no evaluation of the model"
        skipped = sum(not evaluation.macs for evaluation in self.evaluations)
        cached = f" ({skipped} skipped)" if skipped else ""
        return f"{count(self.evaluations)}{cached}, {100 * self.ratio:.1f} % of dense MACs, {self.seconds:.2f} s"

    def summary(self) -> str:
        """One line for a log: the grids from first to last, and :meth:`headline`."""
        done = [evaluation for evaluation in self.evaluations if evaluation.macs]
        if not done:
            return self.headline()
        first, last = done[0].grid_name, done[-1].grid_name
        grids = first if first == last else f"{first} to {last}"
        rows, columns = done[0].dense
        return f"{grids} of {rows}x{columns} tokens, {self.headline()}"

    def text(self) -> str:
        """A table of the evaluations and the totals, for people."""
        layout = f"layout {self.layout}" if self.layout else "dense"
        lines = [f"{self.source}  ({layout})"]
        lines.append(" #   time  timestep  tokens              MACs      FLOPs   of dense  seconds")
        for number, e in enumerate(self.evaluations, 1):
            tokens = f"{e.grid_name} = {e.tokens}" if e.macs else "skipped"
            lines.append(
                f"{number:2}  {e.time:5.3f}  {e.timestep:8.2f}  {tokens:14} {amount(e.macs):>9}  "
                f"{amount(2 * e.macs):>9}  {100 * e.macs / e.dense_macs:6.1f} %  {e.seconds:7.3f}"
            )
        return "\n".join([*lines, *self._totals()])

    def _totals(self) -> list[str]:
        if not self.evaluations:
            return ["no evaluation of the model"]
        if not self.macs:
            return ["every evaluation was skipped"]
        return [
            f"{count(self.evaluations)}: {macs_text(self.macs)}, dense "
            f"{macs_text(self.dense_macs)}",
            f"{100 * self.ratio:.1f} % of dense, {self.dense_macs / self.macs:.2f}x fewer MACs",
            f"{self.seconds:.2f} seconds",
            *([self.cache.line(self.recomputed)] if self.cache else []),
        ]


def count(evaluations: Sequence[Evaluation]) -> str:
    """"1 evaluation", "20 evaluations"."""
    return f"{len(evaluations)} evaluation{'' if len(evaluations) == 1 else 's'}"


def progress_words(number: int, evaluation: Evaluation, share: float) -> str:
    """What evaluation ``number`` of a run computed, and the ``share`` of the dense model's MACs so far."""
    rows, columns = evaluation.dense
    part = evaluation.tokens / (rows * columns)
    tokens = f"{evaluation.grid_name} of {rows}x{columns} tokens ({part:.0%})" if evaluation.macs else "skipped"
    return f"evaluation {number}, time {evaluation.time:.2f}: {tokens}, {100 * share:.1f} % of dense MACs so far"


def measure(
    config: BackboneConfig,
    time: float,
    timestep: float,
    dense: Grid,
    sparse: Grid | None,
    images: int,
    computed: int,
    seconds: float,
    caption_tokens: int | None = None,
    visit: Visit | None = None,
) -> Evaluation:
    """The account of one evaluation of ``images`` latents of ``dense`` tokens, ``computed`` of them by the model.

    ``caption_tokens``  length of the captions given to a PixArt; ``None`` counts :func:`.cost.caption_length`
    ``visit``  the evaluation under a token cache, if one acted
    """
    length = caption_length(config, caption_tokens) or None
    if visit is None:
        own, recomputed = _macs(config, dense, sparse, length), None
    else:
        own = sublayer_costs(config, dense, sparse, length).at(visit.levels()) + visit.watching // max(images, 1)
        recomputed = visit.recomputed
    full = _macs(replace(config, layout=None), dense, None, length)
    return Evaluation(time, timestep, dense, sparse, images, computed * own, images * full, seconds, length, recomputed)


@lru_cache(maxsize=256)
def _macs(config: BackboneConfig, dense: Grid, sparse: Grid | None, caption_tokens: int | None) -> int:
    size = dense[0] * config.patch_size, dense[1] * config.patch_size
    return macs(config, size, sparse_grid=sparse, factor=1, caption_tokens=caption_tokens).total
