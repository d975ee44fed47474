"""The picture of a cache plan: what every sub-layer recomputes at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from ..canvas import COLOURS, INK, RULE, SOFT, Canvas, text_width, tint
from ..units import amount
from .costs import Costs
from .plan import LEVELS, CachePlan

SHADES = ("#eceff3", *(tint(COLOURS[0], part) for part in (0.28, 0.52, 0.78)), "#1d4fa8")
"""A colour for each level, ever darker."""
MACS = COLOURS[1]
NAMES = {"self": "self-attention", "cross": "text attention", "mlp": "MLP", "block": "whole block"}
"""What kinds of sub-layers are called beside their rows."""

LEFT, RIGHT, TOP, BAND, BOTTOM = 132, 22, 96, 74, 74
GAP = 9.0
"""Pixels between groups of rows."""


class Group(NamedTuple):
    """Rows that belong together: what they are, and which sub-layers, in the order of the forward pass."""

    title: str
    members: tuple[int, ...]


def draw_plan(plan: CachePlan, costs: Costs | None = None, *, size: tuple[int, int] = (900, 600)) -> Image.Image:
    """Steps from noise (left) to image against sub-layers, grouped by kind, the first block at the top.

    The darker a cell, the more tokens are recomputed. Above it are the MACs of every step as a share of the dense
    model's, or without ``costs`` the share of tokens recomputed. ``ValueError`` where ``costs`` are of other
    sub-layers.
    """
    if costs is not None and costs.sublayers != plan.sublayers:
        raise ValueError(
            f"the costs are of {len(costs.sublayers)} sub-layers, the plan has {len(plan.sublayers)} or others; take "
            "the costs of the plan's model"
        )
    canvas = Canvas(*size)
    _heading(canvas, plan, costs)
    table = _Table(canvas, plan)
    _band(table, step_shares(plan, costs), "MACs" if costs is not None else "tokens")
    table.cells()
    table.times()
    return canvas.image()


def step_shares(plan: CachePlan, costs: Costs | None = None) -> list[float]:
    """Of every step the MACs as a share of the dense model's; without costs the mean share of tokens recomputed."""
    if costs is None:
        return [sum(LEVELS[level] for level in row) / len(row) for row in plan.table]
    return [costs.at(row) / costs.dense for row in plan.table]


def groups_of(sublayers: Sequence[str]) -> list[Group]:
    """The sub-layers by stream and kind, in the order in which they first come."""
    members: dict[tuple[str, str], list[int]] = {}
    for index, name in enumerate(sublayers):
        block, _, kind = name.rpartition(".")
        members.setdefault((block.rpartition(".")[0], kind), []).append(index)
    titles = (f"{stream} {NAMES.get(kind, kind)}".strip() for stream, kind in members)
    return [Group(title, tuple(indices)) for title, indices in zip(titles, members.values(), strict=True)]


class _Table:
    """Where steps and sub-layers lie on the canvas."""

    def __init__(self, canvas: Canvas, plan: CachePlan) -> None:
        self.canvas, self.plan = canvas, plan
        self.groups = groups_of(plan.sublayers)
        self.right, self.upper, self.lower = canvas.width - RIGHT, TOP + BAND + 14.0, canvas.height - float(BOTTOM)
        self.column = (self.right - LEFT) / len(plan.times)
        self.row = (self.lower - self.upper - GAP * (len(self.groups) - 1)) / len(plan.sublayers)

    def x(self, step: float) -> float:
        """Left edge of a step."""
        return LEFT + step * self.column

    def cells(self) -> None:
        """All cells, group by group, with their names and blocks."""
        gap = [0.8 if side > 7 else 0.25 if side > 3.5 else 0.0 for side in (self.column, self.row)]
        y = self.upper
        for group in self.groups:
            top = y
            for index in group.members:
                for step, levels in enumerate(self.plan.table):
                    a, b = (self.x(step) + gap[0], y + gap[1]), (self.x(step + 1) - gap[0], y + self.row - gap[1])
                    self.canvas.box(a, b, SHADES[levels[index]])
                y += self.row
            self._label(group, top, y)
            y += GAP

    def _label(self, group: Group, top: float, bottom: float) -> None:
        """The group's name at the left, and the numbers of its first and last block."""
        first, last = (self.plan.sublayers[group.members[end]].rpartition(".")[0] for end in (0, -1))
        middle = (top + bottom) / 2
        lines = _broken(group.title, LEFT - 52)
        for number, line in enumerate(lines):
            self.canvas.text((18, middle + 17 * (number - (len(lines) - 1) / 2)), line, 14, INK, "lm")
        x = LEFT - 9
        self.canvas.line(((x + 3, top + 1), (x + 3, bottom - 1)), SOFT, 1.0)
        if bottom - top > 30:
            self.canvas.text((x - 2, top + 1), first.rpartition(".")[2], 12, SOFT, "ra")
            self.canvas.text((x - 2, bottom - 1), last.rpartition(".")[2], 12, SOFT, "rd")

    def times(self) -> None:
        """Numbers of steps and their diffusion times under the columns where they have room; the legend."""
        free = 0.0
        for step, time in enumerate(self.plan.times):
            words = f"{time:.2f}"
            x, half = self.x(step + 0.5), text_width(words, 13) / 2
            if x - half >= free:
                self.canvas.line(((x, self.lower + 2), (x, self.lower + 6)), SOFT, 1.0)
                self.canvas.text((x, self.lower + 8), words, 13, SOFT, "ma")
                free = x + half + 9
        y = self.canvas.height - 22.0
        x = 18.0
        for level, shade in zip(LEVELS, SHADES, strict=True):
            name = {0.0: "reused", 1.0: "recomputed"}.get(level, f"{100 * level:.0f} %")
            self.canvas.box((x, y - 8), (x + 22, y + 8), shade)
            self.canvas.text((x + 29, y), name, 13, INK, "lm")
            x += 29 + text_width(name, 13) + 18
        for words in ("across: diffusion time, 1 noise, 0 picture;  down: blocks", "diffusion time"):
            if x + text_width(words, 13) <= self.right:
                self.canvas.text((self.right, y), words, 13, SOFT, "rm")
                break


def _heading(canvas: Canvas, plan: CachePlan, costs: Costs | None) -> None:
    """What the plan is, and what it takes."""
    title = f"Cache plan for {plan.family}, {len(plan.times)} steps"
    canvas.fitted((18, 12), title, canvas.width - 36, 24)
    words = [f"budget {100 * plan.budget:.3g} % of dense MACs"]
    if costs is not None:
        share, total = plan.share(costs.macs, costs.outside), plan.macs(costs.macs, costs.outside)
        words.append(f"takes {100 * share:.1f} % ({amount(total)} of {amount(len(plan.times) * costs.dense)})")
    rule = plan.provenance.get("rule")
    words += [f"rule {rule}"] if isinstance(rule, str) else []
    words.append(f"tokens by {plan.selector}")
    canvas.fitted((18, 47), ";  ".join(words), canvas.width - 36, 15, SOFT)


def _band(table: _Table, shares: Sequence[float], what: str) -> None:
    """Bars of what each step takes."""
    canvas, upper, lower = table.canvas, TOP + 4.0, TOP + float(BAND)
    canvas.text((18, (upper + lower) / 2), what, 14, MACS, "lm")
    canvas.text((18, (upper + lower) / 2 + 17), "of a step", 12, SOFT, "lm")
    for part in (1.0, 0.5):
        y = lower - part * (lower - upper)
        canvas.line(((LEFT, y), (table.right, y)), RULE, 1.0)
        canvas.text((LEFT - 8, y), f"{100 * part:.0f} %", 12, SOFT, "rm")
    half = min(0.4 if table.column > 5 else 0.5, 24 / table.column) * table.column
    named = table.column > text_width("100", 12) + 6
    for step, share in enumerate(shares):
        x, y = table.x(step + 0.5), lower - share * (lower - upper)
        canvas.box((x - half, y), (x + half, lower), tint(MACS, 0.75))
        if named:
            canvas.text((x, y - 3), f"{100 * share:.0f}", 12, INK, "md", halo=True)
    canvas.line(((LEFT, lower), (table.right, lower)), SOFT, 1.0)


def _broken(words: str, width: float) -> list[str]:
    """Words in lines of at most ``width`` where they can be broken."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, 14) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
