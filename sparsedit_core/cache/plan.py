"""The plan of a token cache: at which share of its tokens each sub-layer runs, step by step (DiffSparse, PAPERS 2)."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from ..atomic import replacing

VERSION = 1
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of tokens that a sub-layer can recompute; a table holds their indices."""
NONE, FULL = 0, len(LEVELS) - 1
"""Indices of "reuse everything" and of "recompute everything"."""

Selector = Literal["age", "change", "entropy", "influence"]
"""Which tokens are recomputed: see :mod:`.selectors`."""
SELECTORS: tuple[Selector, ...] = get_args(Selector)

_NAME = re.compile(r"\w+(\.\w+)*")
_HEX = 16  # digits of a hash that tell plans apart


def rows_at(level: int, tokens: int) -> int:
    """Tokens of ``tokens`` that the level with this index recomputes: its share, rounded up."""
    return -(-level * tokens // FULL)


@dataclass(frozen=True)
class CachePlan:
    """Which share of its tokens every sub-layer recomputes at every step of a sampling.

    ``family``     the models that the plan is for: ``"dit"``, ``"pixart"``
    ``times``      diffusion time of every step, 1 noise .. 0 image, strictly descending
    ``sublayers``  names in the order of the forward pass: ``"0.self"``, ``"0.cross"``, ``"0.mlp"``, ``"1.self"`` ...
    ``table``      index into :data:`LEVELS` for every step and sub-layer; the first step is full, because
                   there is nothing to reuse
    ``budget``     share of the dense model's MACs that the plan was made to stay within, above 0 to 1
    ``selector``   which tokens are recomputed where it is not all of them (:mod:`.selectors`); ``seed`` of its random
                   order
    ``shared``     the halves of guidance of one picture recompute the same tokens
    ``provenance`` plain values that tell where the plan comes from; they change neither equality nor ``hash``

    Every bad value raises ``ValueError``.
    """

    family: str
    times: tuple[float, ...]
    sublayers: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    budget: float = 1.0
    selector: Selector = "age"
    seed: int = 0
    shared: bool = True
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.family, str) or not _NAME.fullmatch(self.family):
            raise ValueError(f"the plan's family is {self.family!r}; give the name of a family, such as dit")
        object.__setattr__(self, "times", _times(self.times))
        object.__setattr__(self, "sublayers", _names(self.sublayers))
        object.__setattr__(self, "table", _table(self.table, len(self.times), self.sublayers))
        budget = _number("budget", self.budget)
        if not 0.0 < budget <= 1.0:
            raise ValueError(f"the plan's budget is {budget:g}; give a share of the dense MACs above 0, at most 1")
        object.__setattr__(self, "budget", budget)
        if self.selector not in SELECTORS:
            raise ValueError(f"the plan's selector is {self.selector!r}; choose one of {', '.join(SELECTORS)}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"the plan's seed is {self.seed!r}; give a whole number from 0 to 2**63 - 1")
        if not isinstance(self.shared, bool):
            raise ValueError(f"shared is {self.shared!r}; it must be true or false")
        object.__setattr__(self, "provenance", _plain(self.provenance))

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that are equal for plans that do the same."""
        acting = {name: value for name, value in self.to_json().items() if name not in ("budget", "provenance")}
        return hashlib.sha256(json.dumps(acting, sort_keys=True).encode()).hexdigest()[:_HEX]

    @property
    def made_by(self) -> str:
        """How it came about: "calibrate", "learn", "rule fora" .."""
        rule = self.provenance.get("rule")
        return f"rule {rule}" if rule else str(self.provenance.get("made_by", "unknown"))

    def row_number(self, time: float) -> int:
        """The step whose time is nearest to ``time``, the noisier one of two; ``ValueError`` if time is NaN.

        A sampling of other steps, or one that starts late, so finds the rows of its own times. Several evaluations
        may find the same row, each of them follows it: what they cost stays the row's share of as many dense ones.
        Whoever runs the plan computes the first evaluation of a run in full, whatever its row.
        """
        if math.isnan(time):
            raise ValueError("the diffusion time is NaN; give a number from 0 (image) to 1 (pure noise)")
        return min(range(len(self.times)), key=lambda step: (abs(self.times[step] - time), step))

    def row(self, time: float) -> tuple[int, ...]:
        """The levels of the sub-layers at a diffusion time: see :meth:`row_number`."""
        return self.table[self.row_number(time)]

    def reused(self) -> tuple[str, ...]:
        """The sub-layers that reuse anything at any step: those whose output must be kept."""
        columns = zip(self.sublayers, zip(*self.table, strict=True), strict=True)
        return tuple(name for name, levels in columns if min(levels) < FULL)

    def without_reuse(self, names: Sequence[str]) -> CachePlan:
        """The plan with these sub-layers always computed in full."""
        kept = [name not in names for name in self.sublayers]
        table = [[level if keep else FULL for level, keep in zip(row, kept, strict=True)] for row in self.table]
        return replace(self, table=tuple(map(tuple, table)))

    def macs(self, costs: Sequence[Sequence[int]], outside: int = 0) -> int:
        """MACs of one picture over all steps.

        ``costs`` [sub-layer][level] and ``outside`` of one evaluation: see :class:`.costs.Costs`.
        """
        return sum(outside + sum(c[i] for c, i in zip(costs, row, strict=True)) for row in self.table)

    def share(self, costs: Sequence[Sequence[int]], outside: int = 0) -> float:
        """The same as a share of the dense model's MACs."""
        return self.macs(costs, outside) / (len(self.times) * (outside + sum(c[FULL] for c in costs)))

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values with the format's version."""
        return {
            "version": VERSION,
            "family": self.family,
            "levels": list(LEVELS),
            "times": list(self.times),
            "sublayers": list(self.sublayers),
            "table": [list(row) for row in self.table],
            "budget": self.budget,
            "selector": self.selector,
            "seed": self.seed,
            "shared": self.shared,
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CachePlan:
        """The inverse of :meth:`to_json`; a newer version, other levels or an unknown entry is a ``ValueError``."""
        if not isinstance(data, Mapping):
            raise ValueError(f"a cache plan is a JSON object, found {type(data).__name__}")
        values = dict(data)
        version = values.pop("version", None)
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"the cache plan has version {version!r}; expected {VERSION}")
        if version > VERSION:
            raise ValueError(f"the cache plan has version {version}, this program reads up to {VERSION}; update it")
        levels = values.pop("levels", list(LEVELS))
        if levels != list(LEVELS):
            raise ValueError(f"the cache plan has the levels {levels!r}; this program knows {list(LEVELS)}")
        known = {each.name for each in fields(cls)}
        unknown, missing = set(values) - known, {"family", "times", "sublayers", "table"} - set(values)
        if unknown or missing:
            raise ValueError(
                f"the cache plan has unknown entries {sorted(map(str, unknown))} and lacks {sorted(missing)}; family, "
                "times, sublayers and table are needed"
            )
        return cls(**values)


def read_plan(path: str | Path) -> CachePlan:
    """A plan from a JSON file; ``ValueError`` names the file and what is wrong in it."""
    try:
        return CachePlan.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no cache plan: {error}") from error


def write_plan(path: str | Path, plan: CachePlan) -> None:
    """Write a plan as JSON; the file appears under its name when it is complete."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(plan.to_json()) + "\n", encoding="utf-8")


def check_plan(plan: CachePlan, family: str, sublayers: Sequence[str]) -> None:
    """``ValueError`` unless the plan is for models of ``family`` with these sub-layers."""
    if plan.family == family and plan.sublayers == tuple(sublayers):
        if plan.selector == "entropy" and not any(name.endswith((".cross", ".block")) for name in sublayers):
            raise ValueError(f"the plan's selector is entropy, of reading the text, but a {family} reads none; use age")
        return
    raise ValueError(
        f"the plan is for a {plan.family} with {len(plan.sublayers)} sub-layers ({plan.sublayers[0]} .. "
        f"{plan.sublayers[-1]}), the model is a {family} with {len(sublayers)} ({sublayers[0]} .. {sublayers[-1]}); "
        "make a plan for this model: calibrate it, or take one by rule"
    )


def _sequence(what: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise ValueError(f"the plan's {what} is {value!r}; give a list")
    return tuple(value)


def _times(value: Any) -> tuple[float, ...]:
    times = tuple(_number("times", time) for time in _sequence("list of times", value))
    falling = all(a > b for a, b in pairwise(times))
    if not times or not falling or times[0] > 1.0 or times[-1] < 0.0:
        raise ValueError(
            f"the plan's times are {list(times)}; give at least one, from 1 (noise) down to 0 (image), each below the "
            "one before"
        )
    return times


def _names(value: Any) -> tuple[str, ...]:
    names = _sequence("list of sub-layers", value)
    wrong = [name for name in names if not isinstance(name, str) or not _NAME.fullmatch(name)]
    if not names or wrong or len(set(names)) != len(names):
        raise ValueError(
            f"the plan's sub-layers are {wrong[:4] or list(names)[:4]}; give different names such as 0.self and 0.mlp"
        )
    return names


def _table(value: Any, steps: int, sublayers: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    rows = tuple(_sequence("row of the table", row) for row in _sequence("table", value))
    if len(rows) != steps or any(len(row) != len(sublayers) for row in rows):
        raise ValueError(
            f"the plan's table has rows of {sorted({len(row) for row in rows})} entries, {len(rows)} of them; expected "
            f"{steps} rows, one a step, of {len(sublayers)}, one a sub-layer"
        )
    for number, row in enumerate(rows):
        for name, level in zip(sublayers, row, strict=True):
            if isinstance(level, bool) or not isinstance(level, int) or not NONE <= level <= FULL:
                raise ValueError(
                    f"the plan's table has {level!r} for {name} in step {number}; expected the index of a level, "
                    f"{NONE} .. {FULL}"
                )
    if set(rows[0]) != {FULL}:
        raise ValueError(
            f"the first step of the plan's table is {list(rows[0])[:6]}; it must be {FULL} for every sub-layer, "
            "because there is nothing to reuse"
        )
    return rows


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} holds {value!r}; give finite numbers")
    return float(value)


def _plain(value: Any) -> Mapping[str, Any]:
    """A copy of the provenance that JSON can hold."""
    try:
        copy = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the plan's provenance cannot be written as JSON ({error}); give plain values") from error
    if not isinstance(copy, dict):
        raise ValueError(f"the plan's provenance is {value!r}; give names and plain values")
    return copy
