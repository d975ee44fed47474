"""Ending a run in order: SIGINT and SIGTERM are noted, and the loop ends after the step it is in."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 3  # torchrun passes a Ctrl-C on that its workers have had from the terminal already


class Interrupted(Exception):
    """A run ended by a signal, its state saved if ``state`` names one; ``code`` is what a shell expects of it."""

    def __init__(self, number: int, step: int, steps: int, state: str | None) -> None:
        kept = f"saved as {state}; go on with --resume" if state else "its state could not be saved"
        super().__init__(f"interrupted by {signal.Signals(number).name} after step {step} of {steps}, {kept}")
        self.code = 128 + number
        self.state = state


class StopSignals:
    """While it lasts, the first signal is kept in ``received``; the third one ends the program at once.

    A signal that is ignored stays ignored. In a thread other than the main one nothing is caught.
    """

    def __init__(self) -> None:
        self.received = 0
        self._count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or number
        self._count += 1
        if self._count >= _PATIENCE:
            raise KeyboardInterrupt
