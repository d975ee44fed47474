"""The record of an ablation: what decides its numbers, and the rows that are done, so that it can be resumed."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoint import Loaded
from ..train.ablation import Variant, plan_to_json
from ..train.checks import check_same, weights_hash
from ..train.source import Source
from .ablate_text import report_markdown
from .ablating import defaults
from .asking import add_text_encoder
from .files import command_line, versions, write_bytes, write_json
from .jury import add_jury
from .training import training_options

RECORD, PAGE = "ablation.json", "ablation.md"
_JUDGING = ("samples", "seeds", "steps", "sampler", "cfg", "by_time", "vae")
_UNDECISIVE = ("save_every", "keep", "checkpointing")


def settings_of(
    args: argparse.Namespace, loaded: Loaded, plan: tuple[Variant, ...], source: Source
) -> dict[str, Any]:
    """Everything that decides the numbers, as JSON values: a resumed ablation must have the same."""
    training = asdict(training_options(args))
    judging = {name: getattr(args, name) for name in (*_JUDGING, *defaults(add_jury))}
    text = {name: getattr(args, name) for name in defaults(add_text_encoder)}
    judging |= {name: value for name, value in text.items() if value is not None}  # older records know no text
    found = {
        "training": {name: value for name, value in training.items() if name not in _UNDECISIVE},
        "dense": weights_hash(loaded.model),
        "plan": plan_to_json(plan),
        "budget": args.budget,
        "sparse_side": args.sparse_side,
        "reinject_positions": args.reinject_positions,
        "data": source.fingerprint,
        "judging": {name: value.name if isinstance(value, Path) else value for name, value in judging.items()},
    }
    if args.fusion is not None:  # older records know none
        found["fusion"] = args.fusion
    parsed: dict[str, Any] = json.loads(json.dumps(found))
    return parsed


def open_record(args: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """The record of the ablation that goes on, or that of a new one; ``ValueError`` where the two do not fit."""
    path = args.out / RECORD
    if path.exists():
        try:
            report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            before, _, rows = report["settings"], report["plan"]["variants"], len(report["rows"])
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is no record of an ablation ({error}); remove it to begin anew") from error
        if args.resume:
            check_same(settings, before)
            return report
        if rows:
            raise ValueError(
                f"{path} holds {rows} rows of an ablation; go on with it by --resume, or give another folder"
            )
    judged = {name: getattr(args, name) for name in ("samples", "seeds", "steps", "cfg", "by_time")}
    return {
        "command": command_line(args.argv),
        "versions": versions(),
        "dense": Path(args.dense).name,
        **judged,
        "references": None,
        "real": "held-out procedural pictures" if args.real is None else args.real.name,
        "features": "the judge" if args.features is None else args.features.name,
        "settings": settings,
        "plan": None,
        "suggestions": [],
        "floor": None,
        "rows": [],
    }


def save(report: dict[str, Any], folder: Path) -> None:
    """Write the record and, for people, its page."""
    write_json(folder / RECORD, report)
    write_bytes(folder / PAGE, report_markdown(report).encode())
