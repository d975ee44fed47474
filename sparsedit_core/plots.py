"""Drawings of pruning schedules: tokens kept along the sampling, from noise (left) to image (right)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image

from .canvas import COLOURS, INK, RULE, SOFT, Canvas, text_width, tint
from .schedule import Grid, PruningSchedule

TICKS = (1.0, 0.75, 0.5, 0.25, 0.0)
LEFT, RIGHT, BOTTOM = 66, 26, 58


def draw_schedule(
    schedule: PruningSchedule,
    dense: Grid,
    *,
    title: str = "Pruning schedule",
    times: Sequence[float] = (),
    size: tuple[int, int] = (900, 420),
) -> Image.Image:
    """One schedule for a picture of ``dense`` = (rows, columns) tokens, as an RGB image of ``size`` pixels.

    The step line is the sparse grid with its sides and token counts, the dashed curve the rate it follows, the
    squares above are the grids themselves; ``times`` (1 noise, 0 image) marks the evaluations of a sampling.
    """
    buckets = schedule.buckets(dense)
    axes = _Axes(Canvas(*size), 112, max(_density(grid, dense) for _, _, grid in buckets))
    axes.heading(title, _summary(schedule, dense))
    for a, b, grid in buckets:
        share = _density(grid, dense)
        axes.canvas.box(axes.at(b, share), axes.at(a, 0.0), tint(COLOURS[0], 0.10 + 0.28 * share / axes.top))
    axes.frame()
    fine = [i / 300 for i in range(300, -1, -1)]
    axes.canvas.dashes([axes.at(time, 1.0 - schedule.rate(time)) for time in fine], tint(COLOURS[0], 0.8), 1.4)
    axes.canvas.line(axes.stairs(buckets, dense), COLOURS[0], 2.4)
    axes.plateau_labels(buckets, dense)
    for time in times:
        axes.canvas.dot(axes.at(time, _density(schedule.grid(time, dense), dense)), 3.2, COLOURS[1])
    if times:
        axes.canvas.dot((size[0] - RIGHT - 112, 27), 3.2, COLOURS[1])
        axes.canvas.text((size[0] - RIGHT, 27), f"{len(times)} evaluations", 13, SOFT, "rm")
    return axes.canvas.image()


def draw_schedules(
    schedules: Mapping[str, PruningSchedule],
    dense: Grid,
    *,
    title: str = "Pruning schedules",
    size: tuple[int, int] = (900, 420),
) -> Image.Image:
    """Several schedules in one picture, told apart by colour and a legend that gives their token counts.

    ``ValueError`` when there is none.
    """
    if not schedules:
        raise ValueError("there is no schedule to draw; give at least one")
    buckets = {name: schedule.buckets(dense) for name, schedule in schedules.items()}
    most = max(_density(grid, dense) for steps in buckets.values() for _, _, grid in steps)
    axes = _Axes(Canvas(*size), 76 + 20 * len(schedules), most)
    axes.heading(title, f"dense {_name(dense)} = {dense[0] * dense[1]} tokens")
    axes.frame()
    noise: dict[Grid, list[str]] = {}
    clean: dict[Grid, list[str]] = {}
    for index, (name, schedule) in enumerate(schedules.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.canvas.line(axes.stairs(buckets[name], dense), colour, 2.4)
        y = 63 + 20 * index
        axes.canvas.line(((LEFT, y + 8), (LEFT + 24, y + 8)), colour, 3.2)
        axes.canvas.fitted((LEFT + 34, y), f"{name}:  {_counts(schedule, dense)}", axes.right - LEFT - 34, 13)
        noise.setdefault(buckets[name][-1][2], []).append(colour)
        clean.setdefault(buckets[name][0][2], []).append(colour)
    axes.end_labels(noise, dense, 1.0)
    axes.end_labels(clean, dense, 0.0)
    return axes.canvas.image()


class _Axes:
    """Time against the share of tokens kept, on a canvas; ``most`` is the highest share to show."""

    def __init__(self, canvas: Canvas, upper: float, most: float) -> None:
        self.canvas, self.upper, self.top = canvas, upper, 1.14 * most
        self.right, self.lower = canvas.width - RIGHT, canvas.height - BOTTOM

    def at(self, time: float, share: float) -> tuple[float, float]:
        """Pixel of a time (1 at the left) and a share of tokens."""
        x = LEFT + (1.0 - time) * (self.right - LEFT)
        return x, self.lower - share / self.top * (self.lower - self.upper)

    def heading(self, title: str, below: str) -> None:
        """Title and the line under it."""
        self.canvas.fitted((LEFT, 14), title, self.right - LEFT - 130, 20)
        self.canvas.fitted((LEFT, 40), below, self.right - LEFT, 13, SOFT)

    def frame(self) -> None:
        """Rules and numbers of both axes."""
        step = round_step(self.top / 5)
        for i in range(math.floor(self.top / step) + 1):
            share = step * i
            x, y = self.at(1.0, share)
            self.canvas.line(((x, y), (self.right, y)), RULE if i else SOFT, 1.0)
            percent = f"{100 * share:.3g} %"
            self.canvas.text((x - 8, y), percent, 12, SOFT, "rm")
        for time in TICKS:
            x, y = self.at(time, 0.0)
            self.canvas.line(((x, y), (x, y + 5)), SOFT, 1.0)
            anchor = {1.0: "la", 0.0: "ra"}.get(time, "ma")
            words = {1.0: "1  pure noise", 0.0: "image  0"}.get(time, f"{time:g}")
            self.canvas.text((x, y + 9), words, 12, SOFT, anchor)
        middle = (LEFT + self.right) / 2
        words = "share of tokens kept at each diffusion time; sampling runs to the right"
        if text_width(words, 12) > self.right - LEFT:
            words = "tokens kept at each time"
        self.canvas.text((middle, self.canvas.height - 12), words, 12, SOFT, "md")

    def stairs(self, buckets: list[tuple[float, float, Grid]], dense: Grid) -> list[tuple[float, float]]:
        """The corners of the step line, noise first."""
        return [self.at(time, _density(grid, dense)) for a, b, grid in reversed(buckets) for time in (b, a)]

    def plateau_labels(self, buckets: list[tuple[float, float, Grid]], dense: Grid) -> None:
        """Sides and token counts of the plateaus that have room, and their grids drawn above them."""
        free = float(LEFT)
        for a, b, grid in reversed(buckets):
            x, y = self.at((a + b) / 2, _density(grid, dense))
            half = max(text_width(_name(grid), 14), text_width(str(grid[0] * grid[1]), 12), 30.0) / 2 + 3
            x = min(max(x, LEFT + half), self.right - half)
            if x - half < free:
                continue
            free = x + half
            self.canvas.text((x, y - 6), _name(grid), 14, INK, "md", halo=True)
            place, anchor = ((x, y + 6), "ma") if self.lower - y > 22 else ((x, y - 23), "md")
            self.canvas.text(place, str(grid[0] * grid[1]), 12, SOFT, anchor)
            _token_grid(self.canvas, (x, self.upper - 27), 32, grid, dense)

    def end_labels(self, ends: Mapping[Grid, list[str]], dense: Grid, time: float) -> None:
        """The grids at one end of the curves, with the colours that meet there; moved apart where they are close."""
        lowest = float(self.lower)
        for grid in sorted(ends, key=lambda grid: grid[0] * grid[1]):
            x, y = self.at(time, _density(grid, dense))
            y = min(y - 6, lowest)
            lowest = y - 15
            colour = ends[grid][0] if len(ends[grid]) == 1 else INK
            place, anchor = ((x + 6, y), "ld") if time == 1.0 else ((x - 6, y), "rd")
            self.canvas.text(place, _name(grid), 13, colour, anchor, halo=True)


def _token_grid(canvas: Canvas, centre: tuple[float, float], side: float, grid: Grid, dense: Grid) -> None:
    """A small picture of the sparse tokens, in the shape of the image."""
    height, width = (side * n / max(dense) for n in dense)
    x0, y0 = centre[0] - width / 2, centre[1] - height / 2
    canvas.box((x0, y0), (x0 + width, y0 + height), tint(COLOURS[0], 0.16), tint(COLOURS[0], 0.75))
    strength = 0.75 if max(grid) <= 16 else 0.4
    for i in range(1, grid[0]):
        y = y0 + height * i / grid[0]
        canvas.line(((x0, y), (x0 + width, y)), tint(COLOURS[0], strength), 0.5)
    for i in range(1, grid[1]):
        x = x0 + width * i / grid[1]
        canvas.line(((x, y0), (x, y0 + height)), tint(COLOURS[0], strength), 0.5)


def _density(grid: Grid, dense: Grid) -> float:
    return grid[0] * grid[1] / (dense[0] * dense[1])


def _name(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"


def round_step(step: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten that is not below ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= step)


def _counts(schedule: PruningSchedule, dense: Grid) -> str:
    """Fewest and most tokens, and their mean over all times."""
    buckets = schedule.buckets(dense)
    total = dense[0] * dense[1]
    mean = sum((b - a) * grid[0] * grid[1] for a, b, grid in buckets)
    counts = [grid[0] * grid[1] for _, _, grid in buckets]
    return f"{min(counts)} to {max(counts)} tokens, mean {mean:.0f} ({100 * mean / total:.0f} %)"


def _summary(schedule: PruningSchedule, dense: Grid) -> str:
    hold = "" if schedule.curve == "custom" else f", {schedule.hold} held for {100 * schedule.hold_fraction:.0f} %"
    window = "" if (schedule.start, schedule.end) == (0.0, 1.0) else f", {schedule.start:g} to {schedule.end:g} only"
    return (
        f"{_counts(schedule, dense)} of dense {_name(dense)} = {dense[0] * dense[1]};  pruning rate "
        f"{schedule.rate_noise:.2f} to {schedule.rate_clean:.2f}, {schedule.curve}{hold}{window}"
    )
