"""What a run tells while it goes on: a record of every step, and its log as JSON lines and as a table."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..atomic import replacing
from ..backbone import Backbone
from ..tokens import Grid

LOG_EVERY = 50  # steps between two lines of the log


@dataclass(frozen=True)
class Progress:
    """After ``step`` of ``steps`` steps: ``loss`` smoothed, ``step_loss`` and ``grad_norm`` (before clipping) of this
    step, ``rate`` the learning rate, ``grid`` of the main process's last micro-batch; ``seconds`` of all sessions."""

    step: int
    steps: int
    pictures: int
    loss: float
    step_loss: float
    grad_norm: float
    rate: float
    grid: Grid | None
    images_per_second: float
    seconds: float


_NAMES = {item.name for item in fields(Progress)}
_NUMBERS = ("step", "steps", "pictures", "loss", "seconds")


class Watcher:
    """Looks at a run, by what a subclass overrides; main process only. Its OSError or ArithmeticError is warned of."""

    def resumed(self, step: int, /) -> None:
        """The run goes on after ``step`` steps; 0 for a new one."""

    def step(self, progress: Progress, averaged: Backbone, /) -> None:
        """A step is done; ``averaged`` holds the averaged weights."""

    def saved(self, progress: Progress, /) -> None:
        """The model was written."""


class RunLog(Watcher):
    """``OUT.log.jsonl``: a line of every 50 steps, appended at once; ``OUT.loss.csv``: the losses, at every save.

    A resumed run goes on in both files, after the lines of the steps it goes on from.
    """

    def __init__(self, out: Path) -> None:
        self.lines_path, self.table_path = out.with_suffix(".log.jsonl"), out.with_suffix(".loss.csv")
        self.rows: list[dict[str, Any]] = []
        self.lead = False  # set in the main process only

    def resumed(self, step: int) -> None:
        """See :class:`Watcher`."""
        self.lead = True
        self.rows = [row for row in (read_log(self.lines_path) if step else []) if row["step"] <= step]
        _write(self.lines_path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def step(self, progress: Progress, _: Backbone) -> None:
        """See :class:`Watcher`."""
        if progress.step % LOG_EVERY and progress.step < progress.steps:
            return
        # JSON has no infinity, which the norm of a gradient in fp16 can be
        self.rows.append({name: value if _finite(value) else None for name, value in asdict(progress).items()})
        with self.lines_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")

    def saved(self, _: Progress) -> None:
        """See :class:`Watcher`."""
        lines = [f"{row['pictures']},{row['loss']:.6f},{row['seconds']:.1f}" for row in self.rows]
        _write(self.table_path, "\n".join(["pictures,loss,seconds", *lines]) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last one that was cut off, or any other that is none, is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.keys() >= _NAMES and all(isinstance(row[n], (int, float)) for n in _NUMBERS):
            rows.append(row)
    return rows


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
