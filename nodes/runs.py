"""Finished sampling runs, kept for the report node: immutable records in a bounded registry.

Nothing here is consumed or written twice, so a MODEL from ComfyUI's execution cache reports as a fresh one does.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..sparsedit_core.config import BackboneConfig
from ..sparsedit_core.run_record import RunRecord
from ..sparsedit_core.schedule import PruningSchedule

Signature = tuple[str, BackboneConfig | None, PruningSchedule | None, str]
"""Source, config and schedule of a MODEL, and its token cache in words."""
KEPT_RUNS = 64


class Published(NamedTuple):
    """A record, the token of the MODEL that ran, the prompt and the node that sampled (empty outside a prompt).

    ``node`` is what that node was (:func:`node_text`): another workflow may have another node of this number.
    """

    token: str
    prompt_id: str
    node_id: str
    record: RunRecord
    node: str = ""


_runs: deque[Published] = deque(maxlen=KEPT_RUNS)
_lock = threading.Lock()


def publish(run: Published) -> None:
    """Keep ``run``; the oldest is dropped when there are more than ``KEPT_RUNS``."""
    with _lock:
        _runs.append(run)


def node_text(dynprompt: Any, node_id: str) -> str:
    """Kind and inputs of a node of a prompt; ComfyUI answers a node from its cache only while they are equal."""
    if not dynprompt.has_node(node_id):
        return ""
    node = dynprompt.get_node(node_id)
    return json.dumps([node["class_type"], node["inputs"]], sort_keys=True, default=str)


def find(token: str, like: Signature, nodes: Mapping[str, str] | None = None) -> list[RunRecord]:
    """The runs of a MODEL by the sampling nodes ``nodes`` (id and :func:`node_text`; ``None``: all), in their order.

    Of each node only the newest prompt counts: a node that ComfyUI answered from its cache keeps the run that made
    the cached result. Nodes made by expansion (``12.0.1``) count as the node they come from. A MODEL that ComfyUI
    dropped and made again has a new token; then those of ``nodes`` with an equal signature are its runs.
    """
    with _lock:
        runs = [run for run in _runs if nodes is None or _belongs(run, nodes)]
    own = [run for run in runs if run.token == token]
    if nodes is not None and not own:
        own = [run for run in runs if _signature(run.record) == like]
    newest = {run.node_id: run.prompt_id for run in own}
    return [run.record for run in own if newest[run.node_id] == run.prompt_id]


def finished() -> list[RunRecord]:
    """All runs that are kept, oldest first: what may be timed against each other."""
    with _lock:
        return [run.record for run in _runs]


def _signature(record: RunRecord) -> Signature:
    return record.source, record.config, record.schedule, record.cache.plan if record.cache else ""


def _belongs(run: Published, nodes: Mapping[str, str]) -> bool:
    if run.node_id in nodes:
        return run.node in ("", nodes[run.node_id])
    parts = run.node_id.split(".")
    return any(".".join(parts[:n]) in nodes for n in range(1, len(parts)))


def take(token: str) -> list[RunRecord]:
    """Remove and return the runs of a MODEL that only its caller knows, so that they push nobody else's out."""
    with _lock:
        own = [run for run in _runs if run.token == token]
        for run in own:
            _runs.remove(run)
    return [run.record for run in own]
