"""The table of ``bench``, and its profiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..bench import BenchCase, Measurement, OpTime
from ..schedule import PRESETS, PruningSchedule
from . import text

NOTES = {
    "": """One evaluation of the whole batch, medians; sparse is the mean over the schedule's evaluations.
reached: speed-up over MAC ratio (1 MAC = 2 FLOPs; MACs as executed).""",
    "plain": """plain: the same dense model written out by hand. bare: its linear layers and attentions alone, nothing
between.""",
    "core": """core: the dense PixArt of ComfyUI itself in this process, on the same weights, with torch's fused
attention; before the timing its float32 output was compared with ours (core apart: largest difference over the
largest value). reached/core: speed-up over core's dense model over MAC ratio.""",
}


def report_text(found: Sequence[Measurement]) -> str:
    """A line for every case; columns that no case fills are left out."""
    columns = [(title, [cell(one) for one in found]) for title, cell in COLUMNS.items()]
    columns = [(title, cells) for title, cells in columns if any(cells)]
    table = text.table(
        [title for title, _ in columns],
        [[cells[i] or "-" for _, cells in columns] for i in range(len(found))],
    )
    seen = {"", *(variant for one in found for variant in one.seconds)}
    return table + "\n\n" + "\n".join(note for variant, note in NOTES.items() if variant in seen)


def caption(case: BenchCase, *, schedule: bool = True) -> str:
    """One case in words."""
    samples = f"batch {case.batch}" + (" x 2" if case.guidance else "")
    dtype = str(case.dtype).removeprefix("torch.")
    captions = f", captions of {case.captions}" if case.captions else ""
    rows = f", {schedule_name(case.schedule)}" if schedule else ""
    return f"{case.name} {case.size} px, {case.device} {dtype}, {samples}{captions}, {case.mode}{rows}"


def schedule_name(schedule: PruningSchedule) -> str:
    """The presets that the schedule is, else its rates."""
    names = [f'"{name}"' for name, preset in PRESETS.items() if preset == schedule]
    return " = ".join(names) or f"rates {schedule.rate_noise:g} to {schedule.rate_clean:g}"


def _ratio(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else f"{value:{form}}"


def _core(key: str, form: Callable[[Any], str]) -> Callable[[Measurement], str]:
    def cell(found: Measurement) -> str:
        report = found.to_json()["core"]
        return "" if report is None else form(report[key])

    return cell


COLUMNS: dict[str, Callable[[Measurement], str]] = {
    "case": lambda found: caption(found.case),
    "core ms": _core("seconds", lambda value: f"{1000 * value:.1f}"),
    "dense ms": lambda found: f"{1000 * found.median('dense'):.1f}",
    "sparse ms": lambda found: f"{1000 * found.sparse_seconds:.1f}",
    "speed-up": lambda found: f"{found.speed_up:.2f}x",
    "dense work": lambda found: text.macs_text(found.dense_macs),
    "sparse work": lambda found: text.macs_text(found.sparse_macs),
    "MAC ratio": lambda found: f"{found.macs_ratio:.2f}x",
    "reached": lambda found: f"{100 * found.reached:.0f} %",
    "over core": _core("speed_up", lambda value: f"{value:.2f}x"),
    "reached/core": _core("speed_up_over_macs_ratio", lambda value: f"{100 * value:.0f} %"),
    "core/dense": _core("core_over_dense", lambda value: f"{value:.3f}"),
    "core apart": _core("output_difference", lambda value: f"{value:.0e}"),
    "dense/plain": lambda found: _ratio(found.to_json()["dense_over_plain"], ".3f"),
    "dense/bare": lambda found: _ratio(found.to_json()["dense_over_bare"], ".3f"),
}


def operations_json(profiles: dict[str, list[OpTime]]) -> dict[str, Any]:
    """Plain values of a profile."""
    return {
        variant: [{"name": op.name, "calls": op.calls, "self_seconds": op.seconds} for op in operations]
        for variant, operations in profiles.items()
    }


def profile_text(case: BenchCase, profiles: dict[str, list[OpTime]]) -> str:
    """A table for each model of a profile."""
    parts = [caption(case)]
    names = {"dense": "dense", "core": "core ComfyUI's dense"}
    for variant, operations in profiles.items():
        name = names.get(variant, f"sparse, grid {variant}")
        shown = sum(op.seconds for op in operations)
        rows = [
            [op.name[:60], f"{op.calls:g}", f"{1000 * op.seconds:.2f}", f"{100 * op.seconds / shown:.1f} %"]
            for op in operations
        ]
        parts.append(text.table((f"{name}: operation", "calls", "self ms", "share of these"), rows))
    return "\n\n".join(parts) + "\n"
