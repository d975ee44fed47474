"""What ``ablate`` found, as one table: text for people, Markdown for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import text
from .evaluate_text import METRICS, MISSING, real_line

HEADER = ("variant", "layout", "sparse grid", "MACs of dense", "training loss", "error of prediction")


def judged(report: Mapping[str, Any]) -> list[str]:
    """The metrics that say something about this model: those of captions are not for classes, nor the other way."""
    found = [report["floor"] or {}, *report["rows"]]
    return [name for name in METRICS if any(entry.get(name) is not None for entry in found)]


def report_text(report: Mapping[str, Any]) -> str:
    """The table and what it was made with."""
    names = judged(report)
    rows = [cells(row, names) for row in report["rows"]]
    return "\n".join([text.table(titles(names), rows), "", *notes(report)])


def report_markdown(report: Mapping[str, Any]) -> str:
    """The same as a page of Markdown."""
    names = judged(report)
    header = titles(names)
    rule = ["---", "---", "---", *["---:"] * (len(header) - 3)]
    rows = [header, rule, *(cells(row, names) for row in report["rows"])]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(report)), "", f"`{report['command']}`", ""])


def titles(names: Sequence[str]) -> tuple[str, ...]:
    """The table's header with these metrics."""
    return (*HEADER, *(METRICS[name][0] for name in names))


def cells(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """One row of the table."""
    failed = row["failure"] is not None
    return [
        row["name"],
        row["layout"] or "dense",
        grid_text(row["grids"]),
        f"{100 * row['macs_ratio']:.1f} %",
        "diverged" if failed and row["loss"] is None else _number(row["loss"], 5),
        _number(row["error"], 5),
        *("no pictures" if failed and row["loss"] is not None else metric_text(name, row[name]) for name in names),
    ]


def metric_text(name: str, found: Mapping[str, float] | None) -> str:
    """Mean over the seeds and, of several, their standard deviation."""
    if found is None:
        return MISSING
    _, scale, digits, unit = METRICS[name]
    deviation = f" +- {scale * found['deviation']:.{digits}f}" if found["deviation"] else ""
    return f"{scale * found['mean']:.{digits}f}{deviation}{unit}"


def grid_text(grids: list[list[int]]) -> str:
    """Of a moving schedule the grids at both ends, noise first."""
    if not grids:
        return "-"
    ends = [f"{rows}x{columns}" for rows, columns in (grids[0], grids[-1])]
    return f"moving {ends[0]} .. {ends[1]}" if len(grids) > 1 else f"fixed {ends[0]}"


def notes(report: Mapping[str, Any]) -> list[str]:
    """How the numbers came about, one sentence a line."""
    training, floor = report["settings"]["training"], report["floor"]
    seeds = ", ".join(map(str, report["seeds"]))
    found = [
        f"every variant: {training['pictures']} training pictures in batches of {training['batch']} from "
        f"{report['dense']}, the same pictures, seed and settings; MACs executed, mean over diffusion time; the loss "
        "is the training's own, smoothed over about 100 steps",
        f"error: mean squared error of the prediction, mean over the times .1 to .9, on {report['by_time']} real "
        "pictures with the same noise for all",
        f"{report['samples']} samples a seed ({seeds}), {report['steps']} steps, guidance {report['cfg']:g}, the same "
        f"noise and labels for all; {report['references']} real pictures ({report['real']}), features of "
        f"{report['features']}",
    ]
    found += [f"{METRICS[name][0]}: {real_line(name, floor)}" for name in judged(report)] if floor else []
    for chosen in report["suggestions"]:
        also = "" if chosen["row"] == chosen["name"] else f", which is the row {chosen['row']!r}"
        share = f"{100 * chosen['budget']:.1f} % of the dense model's MACs"
        found.append(f"{chosen['name']}: {chosen['layout']}{also}, found by analysis under {share}")
    found += [f"{row['name']}: {row['failure'].split(';')[0]}" for row in report["rows"] if row["failure"]]
    missing = len(report["plan"]["variants"]) - len(report["rows"])
    return [*found, f"{missing} variants are still to come; go on with --resume"] if missing else found


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"
