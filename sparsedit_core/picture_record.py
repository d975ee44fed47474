"""What a picture file tells about how it was made: a report's runs in short, and the version of this program."""

from __future__ import annotations

import json
from typing import Any

from . import __version__

KEY = "sparsedit"
"""Name of the record in a picture file."""
_KEPT = (
    "name", "model", "layout", "schedule", "convention", "macs", "flops", "dense_macs", "dense_flops",
    "ratio_to_dense", "seconds", "setting", "cache", "psnr",
)  # fmt: skip


def picture_record(report: str = "") -> dict[str, Any]:
    """The record of ``report``, the JSON text of a report or a sweep; without one only the version.

    ``{"version": ..., "runs": [...]}``: every run with its model, layout, schedule, totals and the number of its
    evaluations in place of their list. ``ValueError`` if the text is no such JSON.
    """
    record: dict[str, Any] = {"version": __version__}
    if not report.strip():
        return record
    try:
        runs = json.loads(report)["runs"]
        record["runs"] = [_short(run) for run in runs]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"the report is {report.strip()[:40]!r}, not the JSON of a sampling; connect the json output of SparseDiT "
            "Report or SparseDiT Schedule Grid"
        ) from None
    return record


def with_record(extra_pnginfo: dict[str, Any] | None, record: dict[str, Any]) -> dict[str, Any]:
    """A copy of what ComfyUI writes into a picture, with ``record`` beside the workflow and in its ``extra``.

    The workflow is otherwise the same; nothing of ``extra_pnginfo`` is changed.
    """
    info = dict(extra_pnginfo or {})
    workflow = info.get("workflow")
    if isinstance(workflow, dict):
        info["workflow"] = {**workflow, "extra": {**(workflow.get("extra") or {}), KEY: record}}
    return {**info, KEY: record}


def _short(run: dict[str, Any]) -> dict[str, Any]:
    return {name: run[name] for name in _KEPT if name in run} | {"evaluations": len(run["evaluations"])}
