"""The widgets of SparseDiT Pruning Schedule and the schedule they stand for, in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..sparsedit_core.schedule import PRESETS, PruningSchedule

CUSTOM = "custom"


@dataclass(frozen=True)
class Widgets:
    """The values of the widgets that make a schedule, in their order on the node."""

    preset: str
    rate_noise: float
    rate_clean: float
    hold_fraction: float
    hold: str
    curve: str
    steps: int
    points: str
    levels: int
    start_percent: float
    end_percent: float

    @classmethod
    def from_json(cls, values: Any) -> Widgets:
        """What a browser sent; ``ValueError`` where a value is missing or of another kind."""
        if not isinstance(values, Mapping):
            raise ValueError(f"the widget values are a {type(values).__name__}; expected an object with one by name")
        read = {}
        for field in fields(cls):
            if field.name not in values:
                raise ValueError(f"the value of the widget {field.name} is missing")
            read[field.name] = _value(field.name, values[field.name], str(field.type))
        return cls(**read)

    @classmethod
    def of(cls, schedule: PruningSchedule) -> Widgets:
        """The widgets that give ``schedule``, with the preset ``custom``."""
        return cls(
            CUSTOM,
            schedule.rate_noise,
            schedule.rate_clean,
            schedule.hold_fraction,
            schedule.hold,
            schedule.curve,
            schedule.steps,
            ", ".join(f"{time}:{rate}" for time, rate in schedule.points),
            schedule.levels or 0,
            schedule.start,
            schedule.end,
        )

    def schedule(self) -> PruningSchedule:
        """The schedule; ``ValueError`` in one sentence where there is none."""
        if self.preset != CUSTOM and self.preset not in PRESETS:
            raise ValueError(f"there is no preset {self.preset!r}; choose {', '.join([*PRESETS, CUSTOM])}")
        custom = self.preset == CUSTOM
        return replace(
            PruningSchedule(self.rate_noise, self.rate_clean) if custom else PRESETS[self.preset],
            hold_fraction=self.hold_fraction,
            hold=self.hold,
            curve=self.curve,
            steps=self.steps,
            points=parse_points(self.points) if self.curve == "custom" else (),
            levels=max(self.levels, 2) if self.levels else None,
            start=self.start_percent,
            end=self.end_percent,
        )


def parse_points(text: str) -> tuple[tuple[float, float], ...]:
    """``"0.3:0.7, 0.6:0.8"``, pairs of time and rate, separated by commas or line ends."""
    pairs = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    try:
        points = tuple((float(time), float(rate)) for time, rate in (pair.split(":") for pair in pairs))
    except ValueError:
        raise ValueError(f'points are {text!r}; write pairs of time:rate like "0.3:0.7, 0.6:0.8"') from None
    return tuple(sorted(points))


def _value(name: str, value: Any, kind: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind == "str" and isinstance(value, str):
        return value
    if kind == "float" and number:
        return float(value)
    if kind == "int" and number and value == int(value):
        return int(value)
    words = {"str": "text", "float": "a number", "int": "a whole number"}[kind]
    raise ValueError(f"the widget {name} has the value {value!r}; expected {words}")
