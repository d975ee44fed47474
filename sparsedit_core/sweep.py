"""A sweep: one pruning schedule varied along two axes, the rates across and one other value down."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from .schedule import PRESETS, PruningSchedule

MAX_CELLS = 48
"""Cells of a sweep, without the reference."""


@dataclass(frozen=True)
class Cell:
    """One schedule of a sweep; ``column`` and ``row`` name it."""

    column: str
    row: str
    schedule: PruningSchedule

    @property
    def name(self) -> str:
        """Both names, as errors and tables say them."""
        return f"{self.column}, {self.row}"


@dataclass(frozen=True)
class Sweep:
    """``cells`` row by row, each row in the order of the columns."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[Cell, ...]


def _levels(text: str) -> int | None:
    return int(text) or None


AXES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "hold_fraction": ("hold_fraction", float),
    "hold": ("hold", str),
    "curve": ("curve", str),
    "levels": ("levels", _levels),
    "end_percent": ("end", float),
}
"""What can vary down the rows: name for people -> (field of the schedule, how its values are read)."""

_EXAMPLES = {
    "hold_fraction": "0, 0.25, 0.5",
    "hold": "noise, clean",
    "curve": "linear, cosine, steps",
    "levels": "2, 6, 0",
    "end_percent": "0.5, 0.79, 1",
}


def parse_rates(text: str, own: Mapping[str, PruningSchedule] = MappingProxyType({})) -> dict[str, dict[str, Any]]:
    """The columns: name -> what it says of a schedule, by field.

    ``"0.61:0.44, 512 fast"``: pairs of rate_noise:rate_clean and names of presets, separated by commas or line ends.
    The paper's presets say the two rates, those of a person's ``own`` everything. An own name with a comma in it takes
    a line of its own. ``ValueError`` names the first bad one.
    """
    found: dict[str, dict[str, Any]] = {}
    for part in _parts(text, "x_values", "0.61:0.44, 0.86:0.61", own):
        name = part
        if part in own:
            column = dict(vars(own[part]))
        elif part in PRESETS:
            column = {"rate_noise": PRESETS[part].rate_noise, "rate_clean": PRESETS[part].rate_clean}
        else:
            noise, clean = _pair(part, own)
            name, column = f"{noise:g} to {clean:g}", {"rate_noise": noise, "rate_clean": clean}
        if name in found:
            raise ValueError(f"x_values name the rates {part!r} twice; leave one out")
        found[name] = column
    return found


def parse_values(axis: str, text: str) -> dict[str, Any]:
    """The rows: name -> value of the schedule's field that ``axis`` varies; ``ValueError`` names the first bad one."""
    if axis not in AXES:
        raise ValueError(f"y_axis is {axis!r}; choose one of {', '.join(AXES)}")
    field, read = AXES[axis]
    found: dict[str, Any] = {}
    for part in _parts(text, "y_values", _EXAMPLES[axis]):
        try:
            value = read(part)
            if not (axis == "curve" and value == "custom"):  # its points are known only with the whole schedule
                replace(PruningSchedule(0.5, 0.5), **{field: value})
        except ValueError as error:
            raise ValueError(
                f'y_values has {part!r}, which cannot be {axis} ({error}); write values like "{_EXAMPLES[axis]}"'
            ) from None
        name = f"{axis} {part}"
        if name in found:
            raise ValueError(f"y_values has {part!r} twice; leave one out")
        found[name] = value
    return found


def build_sweep(
    base: PruningSchedule,
    rates: str,
    axis: str,
    values: str,
    own: Mapping[str, PruningSchedule] = MappingProxyType({}),
) -> Sweep:
    """All schedules of a sweep; what neither axis says is that of ``base``, and the rows come before the columns.

    ``own`` are presets of a person's, as :func:`parse_rates` takes them. ``ValueError`` if there are too many or one
    cannot be, which it names.
    """
    columns, rows = parse_rates(rates, own), parse_values(axis, values)
    check_count(len(columns), len(rows))
    cells = []
    for row, value in rows.items():
        for column, said in columns.items():
            changes = {**said, AXES[axis][0]: value}
            if changes.get("curve", base.curve) != "custom":
                changes["points"] = ()
            elif not changes.get("points", base.points):
                raise ValueError(
                    f"the cell {column}, {row} has curve custom, but the {'preset' if column in own else 'base'} "
                    "schedule has no points; give its points at SparseDiT Pruning Schedule, or take another curve"
                )
            try:
                cells.append(Cell(column, row, replace(base, **changes)))
            except ValueError as error:
                raise ValueError(f"the cell {column}, {row} of the sweep cannot be: {error}") from None
    return Sweep(tuple(columns), tuple(rows), tuple(cells))


def check_count(columns: int, rows: int) -> None:
    """``ValueError`` if a sweep of that many columns and rows is too large."""
    if columns * rows > MAX_CELLS:
        raise ValueError(
            f"the sweep has {columns} x {rows} = {columns * rows} cells, at most {MAX_CELLS} fit on a sheet; "
            "shorten x_values or y_values"
        )


def _parts(text: str, name: str, example: str, whole: Container[str] = ()) -> list[str]:
    """What stands between commas and line ends; a line that is one of ``whole`` is not cut."""
    lines = [line.strip() for line in text.splitlines()]
    parts = [part.strip() for line in lines for part in ([line] if line in whole else line.split(",")) if part.strip()]
    if not parts:
        raise ValueError(f'{name} is empty; write values like "{example}"')
    return parts


def _pair(part: str, own: Iterable[str]) -> tuple[float, float]:
    try:
        noise, clean = (float(value) for value in part.split(":"))
    except ValueError:
        raise ValueError(
            f'x_values has {part!r}; write pairs of rate_noise:rate_clean like "0.61:0.44, 0.86:0.61", or names of '
            f"presets ({', '.join([*PRESETS, *own])})"
        ) from None
    try:
        PruningSchedule(noise, clean)
    except ValueError as error:
        raise ValueError(f"x_values has {part!r}: {error}") from None
    return noise, clean
