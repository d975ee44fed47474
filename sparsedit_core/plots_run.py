"""Drawing of one sampling run: the tokens and MACs of every evaluation against the dense model."""

from __future__ import annotations

from PIL import Image

from .canvas import COLOURS, INK, RULE, SOFT, Canvas, text_width, tint
from .run_record import Evaluation, RunRecord
from .units import macs_text

LEFT, RIGHT, UPPER, BOTTOM = 66, 26, 96, 62


def draw_run(run: RunRecord, *, size: tuple[int, int] = (900, 420)) -> Image.Image:
    """One bar per evaluation, noise at the left: the share of tokens kept; dots are the share of the dense MACs.

    The seconds are left out, so that the same sampling gives the same picture.
    """
    canvas = Canvas(*size)
    canvas.fitted((LEFT, 14), run.source, size[0] - LEFT - RIGHT, 20)
    canvas.fitted((LEFT, 40), _heading(run), size[0] - LEFT - RIGHT, 13, SOFT)
    _legend(canvas)
    lower = size[1] - BOTTOM
    for percent in (0, 25, 50, 75, 100):
        y = _height(canvas, percent / 100)
        canvas.line(((LEFT, y), (size[0] - RIGHT, y)), RULE if percent else SOFT, 1.0)
        canvas.text((LEFT - 8, y), f"{percent} %", 12, SOFT, "rm")
    slot = (size[0] - LEFT - RIGHT) / max(len(run.evaluations), 1)
    free_name = free_time = 0.0
    for number, evaluation in enumerate(run.evaluations):
        x = LEFT + (number + 0.5) * slot
        top = _bar(canvas, evaluation, x, slot)
        free_name = _if_room(canvas, evaluation.grid_name, (x, top - 5), free_name, "md", INK)
        free_time = _if_room(canvas, f"{evaluation.time:.3g}", (x, lower + 8), free_time, "ma", SOFT)
    words = "diffusion time of each evaluation, 1 noise, 0 image"
    canvas.text(((LEFT + size[0] - RIGHT) / 2, size[1] - 12), words, 12, SOFT, "md")
    return canvas.image()


def _heading(run: RunRecord) -> str:
    layout = f"layout {run.config.layout}" if run.config.layout else "dense"
    return (
        f"{layout};  {len(run.evaluations)} evaluations, {macs_text(run.macs)}, "
        f"{100 * run.ratio:.1f} % of dense"
    )


def _legend(canvas: Canvas) -> None:
    canvas.box((LEFT, 68), (LEFT + 16, 78), tint(COLOURS[0], 0.4))
    canvas.text((LEFT + 24, 73), "tokens of the sparse blocks, share of dense", 12, SOFT, "lm")
    canvas.dot((LEFT + 310, 73), 3.2, COLOURS[1])
    canvas.text((LEFT + 322, 73), "MACs, share of dense", 12, SOFT, "lm")


def _bar(canvas: Canvas, evaluation: Evaluation, x: float, slot: float) -> float:
    """Bar and dot of an evaluation around ``x``; returns the upper end of both."""
    half = max(0.4 * slot, 0.5)
    tokens = _height(canvas, evaluation.tokens / (evaluation.dense[0] * evaluation.dense[1]))
    macs = _height(canvas, evaluation.macs / evaluation.dense_macs)
    canvas.box((x - half, tokens), (x + half, _height(canvas, 0.0)), tint(COLOURS[0], 0.4))
    canvas.dot((x, macs), 3.2, COLOURS[1])
    return min(tokens, macs - 4)


def _height(canvas: Canvas, share: float) -> float:
    lower = canvas.height - BOTTOM
    return lower - share * (lower - UPPER - 24)


def _if_room(
    canvas: Canvas, words: str, at: tuple[float, float], free: float, anchor: str, colour: str
) -> float:
    """Write ``words`` unless they would touch the last ones; returns where the next may begin."""
    half = text_width(words, 12) / 2
    if at[0] - half < free:
        return free
    canvas.text(at, words, 12, colour, anchor, halo=True)
    return at[0] + half + 5
