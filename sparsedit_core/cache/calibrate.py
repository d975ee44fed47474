"""What each sub-layer's output changes from evaluation to evaluation, measured in dense runs: forward passes only.

A :class:`Calibrator` stands where a :class:`.runtime.TokenCache` would: everything is computed, nothing reused. Of
every sub-layer the last outputs are kept, and the present one is compared with each: the squared change, after the
present gate, is the error that reuse would put into the residual stream, as a share of the stream's own square.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .plan import FULL, LEVELS, rows_at
from .selectors import AnyGrid
from .visit import Compute, Visit, outputs

AGES = 5
"""Evaluations back that outputs are compared over."""


@dataclass(frozen=True)
class Calibration:
    """``change`` (steps, sub-layers, ages), float64: the mean square of the error, as a share of the stream's, if at
    that step all tokens reused an output 1, 2 .. evaluations old; NaN where there was none.

    ``left`` (sub-layers, levels): the share of the change over one evaluation that remains when a level's share of
    tokens is refreshed, those that changed most the time before. 1 - share where change moves about, less where it
    stays at the same tokens.
    ``times`` (steps,) diffusion times, 1 noise .. 0 image, descending.
    """

    family: str
    sublayers: tuple[str, ...]
    times: tuple[float, ...]
    change: np.ndarray[Any, np.dtype[np.float64]]
    left: np.ndarray[Any, np.dtype[np.float64]]
    pictures: int


class Calibrator:
    """Collects a :class:`Calibration` of ``pictures`` over any number of dense runs; :meth:`clear` parts them."""

    def __init__(self, family: str, sublayers: Sequence[str], *, pictures: int = 1, ages: int = AGES) -> None:
        self.family, self.sublayers, self.pictures, self.ages = family, tuple(sublayers), pictures, ages
        self.peak_bytes = 0  # what it keeps is no cost of a plan
        self._sums: dict[float, dict[str, Any]] = defaultdict(lambda: defaultdict(lambda: np.zeros((2, ages))))
        self._left: dict[str, Any] = defaultdict(lambda: np.zeros((2, len(LEVELS))))
        self._histories: dict[Hashable, dict[str, list[Tensor]]] = {}

    def clear(self) -> None:
        """Forget the outputs of the run before; what was measured stays."""
        self._histories.clear()

    def evaluation(
        self, time: float, members: Sequence[Hashable] = (0,), where: Hashable = None, *, full: bool = False
    ) -> Probe:
        """Begin an evaluation: see :meth:`.visit.Visits.evaluation`; everything is computed anyhow."""
        del full
        history = self._histories.setdefault((where, tuple(members)), {})
        return Probe(self, round(time, 6), history)

    def note(self, name: str, time: float, errors: Sequence[float]) -> None:
        """Errors of reusing outputs 1, 2 .. evaluations old at a diffusion time."""
        count = len(errors)
        self._sums[time][name][0, :count] += errors
        self._sums[time][name][1, :count] += 1

    def note_left(self, name: str, shares: Sequence[float]) -> None:
        """What remained of a change at every level."""
        self._left[name] += np.stack([np.asarray(shares), np.ones(len(LEVELS))])

    def calibration(self) -> Calibration:
        """The means of everything so far; ``ValueError`` before two evaluations of one run."""
        times = sorted(self._sums, reverse=True)
        if len(times) < 2:
            raise ValueError(
                f"the calibration saw {len(times)} diffusion times; sample at least two steps, so that outputs can "
                "be compared"
            )
        with np.errstate(invalid="ignore"):
            change = np.array([[_mean(self._sums[time], name, self.ages) for name in self.sublayers] for time in times])
            left = np.array([_mean(self._left, name, len(LEVELS)) for name in self.sublayers])
        fallback = 1 - np.asarray(LEVELS)
        left = np.where(np.isnan(left), fallback, left)
        return Calibration(self.family, self.sublayers, tuple(times), change, left, self.pictures)


class Probe(Visit):
    """One dense evaluation that is measured."""

    def __init__(self, calibrator: Calibrator, time: float, history: dict[str, list[Tensor]]) -> None:
        super().__init__(calibrator.sublayers)
        self._calibrator, self._time, self._history = calibrator, time, history
        self._weight: tuple[Tensor, Tensor | None] | None = None

    def weigh(self, x: Tensor, gate: Tensor | None) -> None:
        """See :meth:`.visit.Visit.weigh`."""
        self._weight = x, gate

    def output(
        self,
        name: str,
        grid: AnyGrid,  # noqa: ARG002  (the shape tells it)
        x: Tensor,
        compute: Compute,
    ) -> tuple[Tensor, ...]:
        """See :meth:`.visit.Visit.output`."""
        new, *others = outputs(compute(None))
        stream, gate = self._weight or (x, None)
        self._weight = None
        self.done[name] = FULL
        past = self._history.setdefault(name, [])
        past[:] = [each for each in past if each.shape == new.shape]  # another grid: nothing to compare
        scale = float(stream.float().square().mean())
        changes = [_gated(new - each, gate) for each in past]
        self._calibrator.note(name, self._time, [float(each.mean()) / max(scale, 1e-30) for each in changes])
        if len(past) > 1:
            self._calibrator.note_left(name, _left(changes[0], _gated(past[0] - past[1], gate)))
        past.insert(0, new.clone())
        del past[self._calibrator.ages :]
        return new, *others


def _gated(change: Tensor, gate: Tensor | None) -> Tensor:
    """Mean square (B, N) of a change after the gate."""
    return (change if gate is None else change * gate).float().square().mean(dim=-1)


def _left(now: Tensor, before: Tensor) -> list[float]:
    """Share of the change ``now`` (B, N) that each level leaves when it takes those that changed most ``before``."""
    ordered = now.gather(1, before.argsort(dim=1, descending=True)).double().cumsum(dim=1).sum(dim=0)
    total, tokens = float(ordered[-1]), now.shape[1]
    taken = [rows_at(level, tokens) for level in range(len(LEVELS))]
    return [1 - float(ordered[count - 1]) / max(total, 1e-30) if count else 1.0 for count in taken]


def _mean(sums: Mapping[str, Any], name: str, width: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    if name not in sums:
        return np.full(width, np.nan)
    return sums[name][0] / sums[name][1]  # type: ignore[no-any-return]

