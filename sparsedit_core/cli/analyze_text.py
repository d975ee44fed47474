"""What ``analyze`` found, as text and as pictures."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

from PIL import Image

from ..analysis.analysis import Analysis
from ..analysis.draw import HeatMap, draw_heat_maps, draw_toy
from ..analysis.maps import UNIFORM
from ..analysis.suggest import PROXY, Suggestion
from ..layout import Role
from . import text

STATISTICS = (
    ("departure", "distance to uniform", "total variation, 0 is all ones / N"),
    ("entropy", "entropy", "of the uniform map's, 1 is uniform"),
    ("reach", "reach", "distance to what is attended, of the uniform map's"),
)
ROLES: tuple[tuple[Role, str, str], ...] = (
    ("sparse", "as a sparse block", "on pooled tokens only"),
    ("generation", "as a generation block", "queries pooled, keys and values dense"),
    ("recovery", "as a recovery block", "queries dense, keys and values pooled"),
)
RUNNERS_UP = 5


def as_text(report: dict[str, Any], analysis: Analysis, command: str | None) -> str:
    """Tables of attention and the toy experiment; the suggestion with its command line."""
    rows, columns = analysis.dense_grid
    times = ", ".join(f"{time:.3g}" for time in analysis.times)
    head = (
        f"{report['file']}: {report['layout'] or 'dense'}, {len(analysis.roles)} blocks, {rows}x{columns} = "
        f"{rows * columns} tokens\n{analysis.samples} samples at times {times} (1 noise, 0 image): {report['inputs']}"
    )
    parts = [head, _attention(analysis), _toy(analysis)]
    if analysis.suggestion is not None and command is not None:
        parts.append(_suggestion(analysis.suggestion, report["schedule"], command))
    else:
        parts.append("a layout is suggested for dense models only")
    return "\n\n".join(parts)


def _attention(analysis: Analysis) -> str:
    rows = []
    for number, role in enumerate(analysis.roles):
        found = [at_time[number].statistics for at_time in analysis.maps]
        means = (fmean(one.mean(name) for one in found) for name, _, _ in STATISTICS)
        rows.append([f"{number} {role}", *(f"{mean:.3f}" for mean in means)])
    header = ["attention, mean over times", *(name for _, name, _ in STATISTICS)]
    return "\n".join([text.table(header, rows), *(f"{name}: {words}" for _, name, words in STATISTICS)])


def _toy(analysis: Analysis) -> str:
    times = [f"t {time:.3g}" for time in analysis.times]
    first = [[_percent(values) for values in result.first] for result in analysis.toy]
    single = [[_percent(values) for values in result.single] for result in analysis.toy]
    rows = [[f"the first {k}", *(values[k] for values in first)] for k in range(len(analysis.roles) + 1)]
    rows += [[f"block {i} alone", *(values[i] for values in single)] for i in range(len(analysis.roles))]
    table = text.table(["uniform attention in", *times], rows)
    return f"{table}\nchange of the prediction, of its norm; nothing is trained"


def _percent(squared: float) -> str:
    return f"{100 * math.sqrt(max(squared, 0.0)):.1f} %"


def _suggestion(suggestion: Suggestion, schedule: dict[str, Any], command: str) -> str:
    shown = (*suggestion.candidates[: 1 + RUNNERS_UP], *suggestion.against)
    rows = [
        [
            str(found.candidate.layout),
            f"{100 * found.candidate.macs / suggestion.dense:.1f} %",
            text.macs_text(found.candidate.macs),
            _percent(found.candidate.predicted),
            _percent(found.change),
        ]
        for found in shown
    ]
    header = ["layout", "of dense", "executed, mean evaluation", "predicted change", "measured change"]
    title = (
        f"suggested layout for at most {100 * suggestion.budget:g} % of the dense model's MACs, rates "
        f"{schedule['rate_noise']:g} to {schedule['rate_clean']:g}: {suggestion.layout}"
    )
    return (
        f"{title}\n\n{text.table(header, rows)}\n"
        f"the first is the suggestion, the others are the next best{_against(suggestion)}\n"
        "predicted: sum of the blocks' own squared changes; measured: all blocks in their roles at once, untrained\n"
        f"this is {PROXY}\n\n{command}"
    )


def _against(suggestion: Suggestion) -> str:
    return f", the last {len(suggestion.against)} were asked for" if suggestion.against else ""


def attention_picture(name: str, analysis: Analysis) -> Image.Image:
    """Heat maps of the statistics of attention, the darker the farther from uniform."""
    maps = []
    for key, title, meaning in STATISTICS:
        rows = [[at_time[i].statistics.mean(key) for at_time in analysis.maps] for i in range(len(analysis.roles))]
        uniform = UNIFORM.mean(key)
        farthest = max((value for row in rows for value in row), key=lambda value: abs(value - uniform))
        # at least a fifth of the scale, so that almost uniform maps look alike
        full = uniform + math.copysign(max(abs(farthest - uniform), 0.2), 1.0 if key == "departure" else -1.0)
        maps.append(HeatMap(title, meaning, rows, uniform, full))
    title = f"Attention of {name}: the darker, the farther from uniform"
    return draw_heat_maps(title, _names(analysis), analysis.times, maps)


def role_picture(name: str, analysis: Analysis, suggestion: Suggestion) -> Image.Image:
    """Heat maps of what it changes to put one block into another role."""
    found = suggestion.sensitivity
    panels = {role: found.roles[role] for role, _, _ in ROLES}
    values = {role: [[math.sqrt(v) for v in block] for block in zip(*panels[role], strict=True)] for role in panels}
    alone = [[math.sqrt(result.single[i]) for result in analysis.toy] for i in range(len(analysis.roles))]
    full = max(0.01, *(value for panel in (*values.values(), alone) for row in panel for value in row))
    maps = [HeatMap("as a Poolingformer", "attention is the mean", alone, 0.0, full)]
    maps += [HeatMap(title, meaning, values[role], 0.0, full) for role, title, meaning in ROLES]
    title = f"{name}: change of the prediction when one block takes another role"
    return draw_heat_maps(title, _names(analysis), analysis.times, maps)


def toy_picture(name: str, analysis: Analysis) -> Image.Image:
    """Curves of the toy experiment."""
    first = [[math.sqrt(value) for value in result.first] for result in analysis.toy]
    single = [[math.sqrt(value) for value in result.single] for result in analysis.toy]
    return draw_toy(f"Attention replaced by ones / N in {name}", analysis.times, first, single)


def _names(analysis: Analysis) -> list[str]:
    return [f"{number} {role}" for number, role in enumerate(analysis.roles)]
