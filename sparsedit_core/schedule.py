"""How dense the tokens are along the sampling: diffusion time -> pruning rate -> sparse grid (PAPERS 1.2)."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import pairwise
from typing import Any, get_args

from .curves import Curve, Hold, check_points, interpolate, ramp

Grid = tuple[int, int]

VERSION = 1


@dataclass(frozen=True)
class PruningSchedule:
    """The pruning rate r = 1 - M/N (M sparse of N dense tokens) as a function of diffusion time.

    Time is 1 at pure noise and 0 at the image: t / 999 for noise-predicting models, sigma for flow models.

    ``rate_noise``      rate at time 1, the higher one: most tokens are dropped while there is only noise
    ``rate_clean``      rate at time 0, the lower one
    ``hold_fraction``   part of the time axis on which the rate stands still (the paper's T/4)
    ``hold``            ``"noise"``: time in [1 - hold_fraction, 1] has ``rate_noise`` (the first quarter of
                        sampling); ``"clean"``: time in [0, hold_fraction] has ``rate_clean`` (the last
                        quarter, as in the paper's figure)
    ``curve``           between hold and end: ``"linear"``, ``"cosine"``, ``"steps"``, ``"custom"``
    ``levels``          the longer side of the sparse grid takes at most so many values over the run, both
                        ends among them, which bounds the compiled graphs; ``None`` is exact
    ``steps``           number of plateaus of the curve ``"steps"``
    ``points``          (time, rate) pairs of the curve ``"custom"``, joined by straight lines from
                        (0, rate_clean) to (1, rate_noise); the rates lie between those two, ``hold`` does
                        not apply
    ``start``, ``end``  where the schedule acts, as fractions of the sampling, 1 - time (0 noise, 1 image),
                        both included; elsewhere the rate is 0 and the grid the full dense one

    Times beyond 0 and 1 count as the end they passed. Every bad value raises ``ValueError``.
    """

    rate_noise: float
    rate_clean: float
    hold_fraction: float = 0.25
    hold: Hold = "noise"
    curve: Curve = "linear"
    levels: int | None = 6
    steps: int = 4
    points: tuple[tuple[float, float], ...] = ()
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rate_noise", "rate_clean", "hold_fraction", "start", "end"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        for name in ("rate_noise", "rate_clean", "hold_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be at least 0 and below 1")
        if self.rate_noise < self.rate_clean:
            raise ValueError(
                f"rate_noise {self.rate_noise:g} is below rate_clean {self.rate_clean:g}, but tokens are "
                f"pruned most at pure noise; swap them: rate_noise={self.rate_clean:g}, rate_clean={self.rate_noise:g}"
            )
        if not 0.0 <= self.start < self.end <= 1.0:
            raise ValueError(
                f"the schedule acts from start {self.start:g} to end {self.end:g}; give fractions of the "
                "sampling with 0 <= start < end <= 1"
            )
        _choice("hold", self.hold, get_args(Hold))
        _choice("curve", self.curve, get_args(Curve))
        if self.levels is not None:
            _at_least_two("levels", self.levels, "values of the token side, or give None for the exact side")
        _at_least_two("steps", self.steps, "plateaus, one for each end")
        object.__setattr__(
            self, "points", check_points(self.curve, self.points, self.rate_clean, self.rate_noise)
        )

    def active(self, time: float) -> bool:
        """Whether ``time`` lies between ``start`` and ``end`` of the sampling."""
        return 1.0 - self.end <= _clamp(time) <= 1.0 - self.start

    def rate(self, time: float) -> float:
        """The pruning rate at ``time``; 0 outside ``start`` .. ``end``. ``ValueError`` if time is NaN."""
        return self._curve_rate(_clamp(time)) if self.active(time) else 0.0

    def _curve_rate(self, time: float) -> float:
        low, high = self.rate_clean, self.rate_noise
        if self.curve == "custom":
            return interpolate(((0.0, low), *self.points, (1.0, high)), time)
        moving = 1.0 - self.hold_fraction
        position = time / moving if self.hold == "noise" else (time - self.hold_fraction) / moving
        share = ramp(self.curve, min(max(position, 0.0), 1.0), self.steps)
        return high if share == 1.0 else low + (high - low) * share  # the sum may miss ``high`` by a last bit

    def grid(self, time: float, dense: Grid) -> Grid:
        """The sparse token grid (rows, columns) at ``time`` for a picture of ``dense`` = (H, W) tokens.

        Python ints. The longer side is round(sqrt(1 - rate) * side), moved to the nearest of the ``levels``
        (the denser one of two), the other side follows the aspect; at least 1 x 1, never above ``dense``.
        """
        rows, columns = _check_dense(dense)
        if not self.active(time):
            return rows, columns
        longer = max(rows, columns)
        exact = _exact_side(self.rate(time), longer)
        if self.levels is None:
            side = _round_side(exact)
        else:
            side = min(reversed(self.sides(longer)), key=lambda level: abs(level - exact))
        return _scaled(rows, side, longer), _scaled(columns, side, longer)

    def sides(self, longer: int) -> tuple[int, ...]:
        """The values that a dense side of ``longer`` tokens may take between ``start`` and ``end``."""
        low, high = (_round_side(_exact_side(rate, longer)) for rate in (self.rate_noise, self.rate_clean))
        count = high - low + 1 if self.levels is None else min(self.levels, high - low + 1)
        if count == 1:
            return (low,)
        return tuple(sorted({low + math.floor((high - low) * k / (count - 1) + 0.5) for k in range(count)}))

    def buckets(self, dense: Grid) -> list[tuple[float, float, Grid]]:
        """The longest time intervals of one grid, ``(from, to, grid)`` ascending from 0 to 1.

        Fine-tuning draws a batch's times from one of them (PAPERS 1.6); its probability is its width. Borders
        are bisected to about 1e-15, so the border itself may belong to either neighbour.
        """
        return list(_buckets(self, _check_dense(dense)))

    def _find_buckets(self, dense: Grid) -> list[tuple[float, float, Grid]]:
        pieces = [piece for a, b in pairwise(self._edges()) for piece in self._split(a, b, dense)]
        merged: list[tuple[float, float, Grid]] = []
        for a, b, grid in pieces:
            if merged and (merged[-1][2] == grid or b - a < 1e-12):
                merged[-1] = (merged[-1][0], b, merged[-1][2])
            elif merged or b - a >= 1e-12:
                merged.append((merged[-1][1] if merged else 0.0, b, grid))
        return merged

    def _edges(self) -> list[float]:
        """Times between which the rate is monotone."""
        held = 1.0 - self.hold_fraction if self.hold == "noise" else self.hold_fraction
        return sorted({0.0, held, 1.0 - self.end, 1.0 - self.start, 1.0, *(time for time, _ in self.points)})

    def _split(self, a: float, b: float, dense: Grid) -> list[tuple[float, float, Grid]]:
        # inside [a, b] the grid is monotone but for the edges themselves, which ``start`` and ``end`` include
        nudge = 0.25 * min(b - a, 1e-13)
        first, last = self.grid(a + nudge, dense), self.grid(b - nudge, dense)
        if first == last:
            return [(a, b, first)]
        middle = (a + b) / 2
        if b - a < 1e-15 or middle in (a, b):
            return [(a, middle, first), (middle, b, last)]
        return self._split(a, middle, dense) + self._split(middle, b, dense)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values with the format's version."""
        return {"version": VERSION} | asdict(self) | {"points": [list(point) for point in self.points]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PruningSchedule:
        """The inverse of :meth:`to_json`; a newer version or unknown entry is refused with ``ValueError``."""
        try:
            values = dict(data)
        except (TypeError, ValueError):
            raise ValueError(f"a pruning schedule is a JSON object, found {type(data).__name__}") from None
        version = values.pop("version", None)
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"the pruning schedule has version {version!r}; expected {VERSION}")
        if version > VERSION:
            raise ValueError(
                f"the pruning schedule has version {version}, this program reads up to {VERSION}; update it"
            )
        unknown = set(values) - {field.name for field in fields(cls)}
        missing = {"rate_noise", "rate_clean"} - set(values)
        if unknown or missing:
            raise ValueError(
                f"the pruning schedule has unknown entries {sorted(unknown)} and lacks {sorted(missing)}; "
                "rate_noise and rate_clean are needed"
            )
        return cls(**values)


@lru_cache(maxsize=64)
def _buckets(schedule: PruningSchedule, dense: Grid) -> tuple[tuple[float, float, Grid], ...]:
    # tens of milliseconds, asked for again at every training step and every drawing
    return tuple(schedule._find_buckets(dense))


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; give a finite number")
    return float(value)


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")


def _at_least_two(name: str, value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise ValueError(f"{name} is {value!r}; give a whole number of at least 2 {what}")


def _clamp(time: float) -> float:
    if math.isnan(time):
        raise ValueError("the diffusion time is NaN; give a number from 0 (image) to 1 (pure noise)")
    return min(max(float(time), 0.0), 1.0)


def _check_dense(dense: Grid) -> Grid:
    try:
        rows, columns = (operator.index(n) for n in dense)
    except (TypeError, ValueError):
        rows, columns = 0, 0
    if rows < 1 or columns < 1:
        raise ValueError(f"the dense token grid is {dense!r}; give (rows, columns), each at least 1")
    return rows, columns


def _exact_side(rate: float, side: int) -> float:
    return math.sqrt(1.0 - rate) * side


def _round_side(exact: float) -> int:
    return max(1, math.floor(exact + 0.5))


def _scaled(side: int, sparse: int, longer: int) -> int:
    return max(1, (2 * side * sparse + longer) // (2 * longer))  # round(side * sparse / longer), halves up


PRESETS: dict[str, PruningSchedule] = {
    "256 quality": PruningSchedule(rate_noise=0.61, rate_clean=0.44),
    "256 fast": PruningSchedule(rate_noise=0.86, rate_clean=0.61),
    "512 quality": PruningSchedule(rate_noise=0.86, rate_clean=0.61),
    "512 fast": PruningSchedule(rate_noise=0.96, rate_clean=0.90),
}
"""The rows of the paper's DiT-XL/2 tables (PAPERS 1.3), by picture size in pixels."""
