"""Finished sampling runs, kept for the report node: immutable records in a bounded registry.

Nothing here is consumed or written twice, so a MODEL from ComfyUI's execution cache reports as a fresh one does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from ..sparsedit_core.run_record import RunRecord

KEPT_RUNS = 64


class Published(NamedTuple):
    """A record, the token of the MODEL that ran, the prompt and the node that sampled (empty outside a prompt)."""

    token: str
    prompt_id: str
    node_id: str
    record: RunRecord


_runs: deque[Published] = deque(maxlen=KEPT_RUNS)
_lock = threading.Lock()


def publish(run: Published) -> None:
    """Keep ``run``; the oldest is dropped when there are more than ``KEPT_RUNS``."""
    with _lock:
        _runs.append(run)


def find(token: str, nodes: Collection[str] | None = None) -> list[RunRecord]:
    """The runs of a MODEL by the sampling nodes ``nodes`` (``None``: all), in their order.

    Of each node only the newest prompt counts: a node that ComfyUI answered from its cache keeps the run that made
    the cached result. Nodes made by expansion (``12.0.1``) count as the node they come from.
    """
    with _lock:
        runs = [run for run in _runs if run.token == token and (nodes is None or _belongs(run.node_id, nodes))]
    newest = {run.node_id: run.prompt_id for run in runs}
    return [run.record for run in runs if newest[run.node_id] == run.prompt_id]


def _belongs(node_id: str, nodes: Collection[str]) -> bool:
    parts = node_id.split(".")
    return any(".".join(parts[:n]) in nodes for n in range(1, len(parts) + 1))
