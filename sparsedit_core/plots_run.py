"""Drawing of one sampling run: tokens, MACs and seconds of every evaluation against the dense model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from PIL import Image

from .canvas import COLOURS, INK, PAPER, RULE, SOFT, Canvas, text_width, tint
from .measured import Speedup, mean_seconds
from .plots import round_step
from .run_record import Evaluation, RunRecord, count
from .units import amount

TOKENS, MACS, SECONDS = tint(COLOURS[0], 0.4), COLOURS[1], tint(COLOURS[2], 0.75)
WARM_UP, SKIPPED = tint(COLOURS[2], 0.3), "#b9c1ca"
LEFT, RIGHT, TOP, WORDS = 78, 22, 164, 16
OUTLIER = 4.0
"""Evaluations of more than so many medians are cut off in the picture, with their seconds written on them."""


def draw_run(
    run: RunRecord, *, against: Speedup | None = None, size: tuple[int, int] = (900, 600)
) -> Image.Image:
    """The totals as figures, then two rows of bars, noise at the left: shares of the dense model, and seconds.

    ``against`` is the measured speed-up (:func:`.measured.speedup`); without one only MACs are compared. Seconds of
    the first evaluation are paler, because it also loads and warms up.
    """
    canvas = Canvas(*size)
    canvas.fitted((22, 12), run.source, size[0] - 44, 24)
    layout = f"SparseDiT, layout {run.layout}" if run.layout else "dense model"
    cache = f"; {run.cache.words}" if run.cache else ""
    canvas.fitted((22, 44), layout + cache, size[0] - 44, WORDS, SOFT)
    _figures(canvas, run, against)
    if not run.evaluations:
        canvas.text((size[0] / 2, size[1] / 2), "no evaluation of the model", 24, SOFT, "mm")
        return canvas.image()
    room = size[1] - TOP - 62
    upper = _Panel(canvas, run.evaluations, TOP + 62, TOP + 0.6 * room)
    lower = _Panel(canvas, run.evaluations, TOP + 0.6 * room + 44, TOP + room)
    _shares(upper, run)
    _seconds(lower, run, against)
    lower.times()
    return canvas.image()


class _Panel:
    """A row of bars, one slot for each evaluation, between the pixel rows ``upper`` and ``lower``."""

    def __init__(self, canvas: Canvas, evaluations: Sequence[Evaluation], upper: float, lower: float) -> None:
        self.canvas, self.evaluations, self.upper, self.lower = canvas, evaluations, upper, lower
        self.right = canvas.width - RIGHT
        self.slot = (self.right - LEFT) / max(len(evaluations), 1)
        self.half = min(0.4 if self.slot > 5 else 0.5, 45 / self.slot) * self.slot

    def x(self, number: int) -> float:
        """The middle of an evaluation's slot."""
        return LEFT + (number + 0.5) * self.slot

    def y(self, part: float) -> float:
        """The pixel row of a part of the height."""
        return self.lower - part * (self.lower - self.upper)

    def rule(self, part: float, words: str, colour: str = RULE) -> None:
        """A line across, named at the left."""
        self.canvas.line(((LEFT, self.y(part)), (self.right, self.y(part))), colour, 1.0)
        self.canvas.text((LEFT - 8, self.y(part)), words, WORDS, SOFT, "rm")

    def bar(self, number: int, part: float, colour: str) -> None:
        """A bar from the bottom."""
        x = self.x(number)
        self.canvas.box((x - self.half, self.y(part)), (x + self.half, self.lower), colour)

    def skipped(self) -> None:
        """A grey foot where a cache answered."""
        for number, evaluation in enumerate(self.evaluations):
            if not evaluation.macs:
                x = self.x(number)
                self.canvas.box((x - self.half, self.lower - 5), (x + self.half, self.lower), SKIPPED)

    def times(self) -> None:
        """Diffusion times under the bars where they have room, and what they mean."""
        free = 0.0
        for number, evaluation in enumerate(self.evaluations):
            free = _if_room(self.canvas, f"{evaluation.time:.2f}", (self.x(number), self.lower + 6), free, "ma", SOFT)
        words = "diffusion time of each evaluation, in order: 1 is noise, 0 the picture"
        self.canvas.text(((LEFT + self.right) / 2, self.canvas.height - 10), words, WORDS, SOFT, "md")


def _figures(canvas: Canvas, run: RunRecord, against: Speedup | None) -> None:
    """Numbers in large type, each with two lines of what it counts."""
    skipped = sum(not evaluation.macs for evaluation in run.evaluations)
    share = f"{100 * run.ratio:.1f} %" if run.evaluations else "-"
    took = f"{run.seconds:.{2 if run.seconds < 100 else 0}f} s"
    figures = [
        (share, "of the dense model's MACs", f"{amount(run.macs)} of {amount(run.dense_macs)}", MACS),
        (str(len(run.evaluations)), count(run.evaluations).split()[1], f"{skipped} skipped" if skipped else "", INK),
        (took, "sampling", run.setting, COLOURS[2]),
    ]
    if against is not None:
        factor, _, rest = against.words.removeprefix("measured ").partition(" ")
        figures.append((factor, rest, f"measured: {against.dense.source}", COLOURS[0]))
    elif run.layout is not None and run.macs:
        fewer = f"{run.dense_macs / run.macs:.2f}x"
        figures.append((fewer, "fewer MACs than dense", "upper estimate of the speed-up", SOFT))
    places = (22, 268, 420, 630, 900)
    for place, after, (value, *words, colour) in zip(places, places[1:], figures, strict=False):
        at, width = (part * canvas.width / 900 for part in (place, after - place - 14))
        canvas.text((at, 72), value, 38, colour)
        for line, each in enumerate(words):
            canvas.fitted((at, 116 + 20 * line), each, width, WORDS, SOFT)


def _part(evaluation: Evaluation) -> float:
    """Share of tokens in the sparse blocks; under a token cache of the outputs that were computed anew."""
    if evaluation.recomputed is not None:
        return evaluation.recomputed
    return evaluation.tokens / (evaluation.dense[0] * evaluation.dense[1])


def _shares(panel: _Panel, run: RunRecord) -> None:
    """Bars of tokens, and the line of MACs: what was computed of the dense model."""
    canvas, head = panel.canvas, panel.upper - 42
    canvas.text((LEFT, head), "of the dense model:", WORDS, INK, "lm")
    canvas.box((LEFT + 162, head - 7), (LEFT + 178, head + 7), TOKENS)
    what = "tokens of the sparse blocks" if run.layout else "tokens"
    canvas.text((LEFT + 186, head), "outputs recomputed" if run.cache else what, WORDS, SOFT, "lm")
    canvas.line(((LEFT + 416, head), (LEFT + 440, head)), MACS, 2.6)
    canvas.text((LEFT + 448, head), "MACs", WORDS, SOFT, "lm")
    if not all(evaluation.macs for evaluation in run.evaluations):
        canvas.box((LEFT + 520, head - 3), (LEFT + 536, head + 3), SKIPPED)
        canvas.text((LEFT + 544, head), "skipped, a cache answered", WORDS, SOFT, "lm")
    for part in (1.0, 0.75, 0.5, 0.25):
        panel.rule(part, f"{100 * part:.0f} %")
    parts = [_part(e) for e in run.evaluations]
    shares = [e.macs / e.dense_macs for e in run.evaluations]
    for number, part in enumerate(parts):
        panel.bar(number, part, TOKENS)
    panel.skipped()
    _stairs(panel, shares)
    panel.rule(0.0, "0 %", SOFT)
    named, free = "", 0.0
    for number, evaluation in enumerate(run.evaluations):
        name, y = evaluation.grid_name, panel.y(max(parts[number], shares[number]))
        if evaluation.macs and name != named:
            x = max(panel.x(number), LEFT + text_width(name, WORDS) / 2)
            new = _if_room(canvas, name, (x, y - 5), free, "md", INK)
            named, free = (name, new) if new != free else (named, free)


def _stairs(panel: _Panel, shares: Sequence[float]) -> None:
    """The line of MACs, broken where nothing was computed."""
    piece: list[tuple[float, float]] = []
    for number, share in enumerate([*shares, 0.0]):
        if share:
            x, reach = panel.x(number), panel.slot / 2 if len(shares) > 1 else panel.half
            piece += [(x - reach, panel.y(share)), (x + reach, panel.y(share))]
        elif piece:
            panel.canvas.line(piece, PAPER, 5.0)
            panel.canvas.line(piece, MACS, 2.6)
            piece = []


def _seconds(panel: _Panel, run: RunRecord, against: Speedup | None) -> None:
    """Bars of seconds; what stands far out is cut and told."""
    canvas, head = panel.canvas, panel.upper - 22
    values = [evaluation.seconds for evaluation in run.evaluations]
    dense = mean_seconds(against.dense) if against is not None else None
    step = round_step(scale(values, dense) / 3)
    top = step * math.ceil(scale(values, dense) / step)
    words = "seconds of each evaluation"
    if len(values) > 1:
        words += f", {_short(mean_seconds(run) or 0.0)} on average without the first, which warms up"
    canvas.fitted((LEFT, head - 10), words, panel.right - LEFT, WORDS)
    for number in range(1, round(top / step) + 1):
        panel.rule(number * step / top, _short(number * step))
    free = 0.0
    for number, seconds in enumerate(values):
        panel.bar(number, min(seconds / top, 1.06), SECONDS if number else WARM_UP)
        if seconds > top:
            _cut(panel, number)
    if dense is not None:
        y = panel.y(dense / top)
        fine = [(LEFT + step, y) for step in range(0, int(panel.right - LEFT), 6)]
        canvas.dashes(fine, INK, 1.6)
        canvas.text((panel.right, y - 4), f"the dense run: {_short(dense)}", WORDS, INK, "rd", halo=True)
    for number, seconds in enumerate(values):
        if seconds > top:
            x = max(panel.x(number), LEFT + text_width(_short(seconds), WORDS) / 2 + 2)
            free = _if_room(canvas, _short(seconds), (x, panel.y(0.86)), free, "ma", INK)
    panel.rule(0.0, "0", SOFT)


def scale(seconds: Sequence[float], dense: float | None = None) -> float:
    """The most seconds to show: of all evaluations but outliers, and the ``dense`` run's; above 0."""
    usual = OUTLIER * statistics.median(seconds[1:] or seconds or [0.0])
    return max([each for each in seconds if each <= usual] + [dense or 0.0, 1e-9])


def _cut(panel: _Panel, number: int) -> None:
    """A white slash through the top of a bar that goes on."""
    x, y = panel.x(number), panel.y(0.95)
    panel.canvas.line(((x - panel.half - 1, y + 3), (x + panel.half + 1, y - 3)), PAPER, 2.5)


def _short(seconds: float) -> str:
    """Seconds in three digits with their unit: ``31.4 ms``, ``2.41 s``."""
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _if_room(
    canvas: Canvas, words: str, at: tuple[float, float], free: float, anchor: str, colour: str
) -> float:
    """Write ``words`` unless they would touch the last ones; returns where the next may begin."""
    half = text_width(words, WORDS) / 2
    if at[0] - half < free:
        return free
    canvas.text(at, words, WORDS, colour, anchor, halo=True)
    return at[0] + half + 8
