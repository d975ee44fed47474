"""What a run tells while it samples: text on the executing node, at most four times a second."""

from __future__ import annotations

import time

from comfy_execution.utils import get_executing_context

from ..sparsedit_core.run_record import Evaluation, RunRecord, progress_words
from .show import show_on

PAUSE = 0.25
"""Seconds between two texts: one costs about as much as a log line, and nobody reads faster."""


class Progress:
    """Text on the node that executes now; nothing where none does (scripts), or where the node tells by itself."""

    def __init__(self, *, told: bool) -> None:
        context = get_executing_context() if told else None
        self._node_id = context.node_id if context else None
        self._next = 0.0
        self._macs = self._dense_macs = 0

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """A call of the model within evaluation ``number`` has ended."""
        self._macs += evaluation.macs
        self._dense_macs += evaluation.dense_macs
        now = time.monotonic()
        if self._node_id is not None and now >= self._next:
            self._next = now + PAUSE
            show_on(self._node_id, progress_words(number, evaluation, self._macs / self._dense_macs))

    def ended(self, record: RunRecord | None) -> None:
        """The run is finished, or was cancelled or failed (``None``): then no text stays that looks like a run."""
        if self._node_id is not None:
            show_on(self._node_id, record.headline() if record else "")
