"""What ``evaluate`` found: numbers over the seeds, and the report as tables."""

from __future__ import annotations

import statistics
from typing import Any

from . import text

# what it is, factor, digits, unit
METRICS = {
    "accuracy": ("class accuracy", 100, 2, " %"),
    "shape": ("shape of the caption", 100, 2, " %"),
    "texture": ("texture of the caption", 100, 2, " %"),
    "colour": ("colour of the caption", 100, 2, " %"),
    "caption": ("all of the caption", 100, 2, " %"),
    "frechet": ("Frechet distance", 1, 4, ""),
    "precision": ("precision", 100, 2, " %"),
    "recall": ("recall", 100, 2, " %"),
}
CAPTION = ("shape", "texture", "colour", "caption")
MISSING = "n/a"


def spread(values: list[float]) -> dict[str, float] | None:
    """Mean and standard deviation over the seeds (0 for one); ``None`` where a seed has no value."""
    if any(value is None for value in values):
        return None
    return {"mean": statistics.fmean(values), "deviation": statistics.stdev(values) if len(values) > 1 else 0.0}


def spreads(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """The spread of every metric over the verdicts on several seeds."""
    return {metric: spread([seed[metric] for seed in seeds]) for metric in METRICS}


def report_text(report: dict[str, Any]) -> str:
    """Everything that was found, one table a metric."""
    models, floor = report["models"], report["floor"]
    seeds = [seed["seed"] for seed in models[0]["seeds"] if seed["seed"] is not None]
    shown = [name for name in METRICS if name not in CAPTION or any(row[name] is not None for row in models)]
    parts = [metric_table(metric, seeds, models) + f"\n{real_line(metric, floor)}" for metric in shown]
    cost = [
        [
            row["file"],
            MISSING if row["mean_macs"] is None else text.macs_text(row["mean_macs"]),
            MISSING if row["macs_ratio"] is None else f"{100 * row['macs_ratio']:.1f} %",
            f"{row['frechet_ratio']:.3f}x",
        ]
        for row in models
    ]
    header = ["cost", "executed, mean evaluation of a picture", "of the first", "Frechet distance"]
    parts.append(text.table(header, cost))
    if "by_time" in models[0]:
        parts.append(time_table(models))
    skipped = report.get("skipped", {"count": 0})
    if skipped["count"]:
        parts.append(f"{skipped['count']} images did not decode and were left out: {', '.join(skipped['first'])}")
    if seeds:
        sampling = f"{report['samples']} samples a seed, {report['steps']} steps, guidance {report['cfg']:g}"
        parts.append(f"{sampling}, the same noise and labels for all models")
    beside = f"{report['references']} real pictures ({report['real']}), features of {report['features']}"
    parts.append(beside)
    return "\n\n".join(parts)


def metric_table(metric: str, seeds: list[int], models: list[dict[str, Any]]) -> str:
    """One row a model, one column a seed; given pictures have no seed, and their value stands under the mean."""
    title, scale, digits, unit = METRICS[metric]

    def cell(value: float | None, unit: str = unit) -> str:
        return MISSING if value is None else f"{scale * value:.{digits}f}{unit}"

    rows = []
    for row in models:
        over_seeds = row[metric] or {"mean": None, "deviation": None}
        found = {seed["seed"]: cell(seed[metric]) for seed in row["seeds"]}
        deviation = "" if None in found else cell(over_seeds["deviation"], "")
        rows.append([row["file"], *(found.get(seed, "") for seed in seeds), cell(over_seeds["mean"]), deviation])
    return text.table([title, *(f"seed {seed}" for seed in seeds), "mean", "+-"], rows)


def real_line(metric: str, floor: dict[str, Any]) -> str:
    """What the same metric says about real pictures."""
    _, scale, digits, unit = METRICS[metric]
    value = MISSING if floor[metric] is None else f"{scale * floor[metric]:.{digits}f}{unit}"
    count, others = floor["pictures"], floor["others"]
    if metric == "frechet":
        return f"floor {value}: {count} real pictures against {others} others"
    if metric in ("accuracy", *CAPTION):
        return f"of {count} real pictures {value}"
    return f"of {floor['compared']} real pictures against as many others {value}"


def time_table(models: list[dict[str, Any]]) -> str:
    """Error of the prediction, times from picture to noise across; the sparse grid under each of a sparse model."""
    times = [f"{entry['time']:g}" for entry in models[0]["by_time"]["times"]]
    rows = []
    for row in (row for row in models if "by_time" in row):
        entries = row["by_time"]["times"]
        rows.append([f"{row['file']} ({row['by_time']['predicts']})", *(f"{e['error']:.5f}" for e in entries)])
        if row["layout"] is not None:
            rows.append(["  sparse grid", *("x".join(map(str, e["sparse_grid"])) for e in entries)])
    count = models[0]["by_time"]["pictures"]
    note = f"mean squared error of the prediction on {count} real pictures, same noise for all; time 1 is pure noise"
    alone = [row["file"] for row in models if row.get("by_time", {}).get("told") == "nothing"]
    if alone:
        note += f"\nunconditional, as the pictures show nothing that the model could be told: {', '.join(alone)}"
    return text.table(["error by time", *times], rows) + "\n" + note
