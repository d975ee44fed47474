"""Shapes of a pruning schedule between its two rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

Hold = Literal["noise", "clean"]
Curve = Literal["linear", "cosine", "steps", "custom"]
Points = tuple[tuple[float, float], ...]


def ramp(curve: Curve, position: float, steps: int) -> float:
    """A monotone way from 0 to 1 for ``position`` in [0, 1]; exactly 0 and 1 at its ends.

    ``"steps"`` has ``steps`` plateaus of equal width, the first at 0 and the last at 1.
    """
    if curve == "cosine":
        return (1.0 - math.cos(math.pi * position)) / 2.0
    if curve == "steps":
        return min(math.floor(position * steps), steps - 1) / (steps - 1)
    return position


def interpolate(points: Sequence[tuple[float, float]], time: float) -> float:
    """The straight lines through ``points`` (time ascending) at ``time``, between the outer ones."""
    if time >= points[-1][0]:
        return points[-1][1]
    for (t0, r0), (t1, r1) in pairwise(points):
        if time < t1:
            share = (time - t0) / (t1 - t0)
            return min(max(r0 + (r1 - r0) * share, min(r0, r1)), max(r0, r1))
    return points[-1][1]


def check_points(curve: Curve, points: Any, low: float, high: float) -> Points:
    """The inner points of a custom curve as floats; ``ValueError`` names the first bad one.

    Points at time 0 and 1 may be given, must then equal ``low`` and ``high``, and are left out of the result.
    """
    if isinstance(points, (str, bytes, Mapping)) or not isinstance(points, Iterable):
        raise ValueError(f"points are {points!r}; give a list of (time, rate) pairs")
    pairs = [_pair(point) for point in points]
    if curve != "custom":
        if pairs:
            raise ValueError(f'points are given but the curve is "{curve}"; only curve="custom" uses points')
        return ()
    for (before, _), (after, _) in pairwise(pairs):
        if before >= after:
            raise ValueError(
                f"points of a custom curve must ascend in time; found {before:g} before {after:g}"
            )
    for time, rate in pairs:
        if not 0.0 <= time <= 1.0:
            raise ValueError(f"point ({time:g}, {rate:g}): its time must lie in [0, 1] (0 image, 1 noise)")
        if not low <= rate <= high:
            raise ValueError(
                f"point ({time:g}, {rate:g}): its rate must lie between rate_clean {low:g} and "
                f"rate_noise {high:g}"
            )
        if (time == 0.0 and rate != low) or (time == 1.0 and rate != high):
            raise ValueError(
                f"point ({time:g}, {rate:g}) contradicts the curve's end: time 0 has rate_clean {low:g}, "
                f"time 1 has rate_noise {high:g}; change the point or that rate"
            )
    return tuple((time, rate) for time, rate in pairs if 0.0 < time < 1.0)


def _pair(point: Any) -> tuple[float, float]:
    try:
        time, rate = (float(value) for value in point)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"point {point!r} of a custom curve is not a (time, rate) pair of numbers") from None
    if not (math.isfinite(time) and math.isfinite(rate)):
        raise ValueError(f"point {point!r} of a custom curve is not a (time, rate) pair of finite numbers")
    return time, rate
