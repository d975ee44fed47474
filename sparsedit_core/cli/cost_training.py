"""``cost --training``: the memory that training takes, as bytes and in a table."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, get_args

from ..config import BackboneConfig
from ..tokens import Grid
from ..train.memory import training_memory
from ..train.options import OptimizerName, Precision
from . import options, text

ROWS = {
    "parameters": "parameters, float32",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "average": "averaged weights",
    "activations": "kept activations",
    "recomputed": "the block computed again",
    "total": "total",
}


def add_memory(parser: argparse.ArgumentParser) -> None:
    """--training and what it depends on."""
    group = parser.add_argument_group("memory of training")
    group.add_argument("--training", action="store_true", help="count the bytes that training keeps on the device")
    group.add_argument("--batch", type=options.positive, metavar="N", help="samples of a micro-batch (default 32)")
    group.add_argument("--precision", choices=get_args(Precision), help="what blocks compute in (default bf16)")
    group.add_argument("--optimizer", choices=get_args(OptimizerName), help="of the training (default adamw)")
    group.add_argument(
        "--checkpointing", action="store_true", help="blocks keep their inputs and are computed again in the backward"
    )


def memory_report(config: BackboneConfig, args: argparse.Namespace, dense: Grid, sparse: Grid | None) -> dict[str, Any]:
    """Bytes of the dense model, and of the sparse one on its grid if there is a layout."""
    batch, precision = args.batch or 32, args.precision or "bf16"
    p = config.patch_size
    sized = replace(config, input_size=(dense[0] * p, dense[1] * p))
    settings: dict[str, Any] = {
        "batch": batch,
        "precision": precision,
        "checkpointing": args.checkpointing,
        "optimizer": args.optimizer or "adamw",
    }
    keywords = settings | {"caption_tokens": args.caption_tokens}
    units = "bytes of one process and one micro-batch"
    plain = training_memory(replace(sized, layout=None), **keywords).to_json()
    report: dict[str, Any] = {**settings, "units": units, "dense": plain}
    if sparse is not None:
        found = training_memory(sized, sparse_grid=sparse, **keywords).to_json()
        report |= {"sparse_grid": list(sparse), "sparse": found}
    return report


def memory_text(report: dict[str, Any]) -> str:
    """The account as a table in GiB."""
    columns = [name for name in ("dense", "sparse") if name in report]
    names = {"dense": "dense", "sparse": f"sparse, grid {'x'.join(map(str, report.get('sparse_grid', ())))}"}
    rows = [
        [title, *(f"{report[column][key] / 2**30:.2f} GiB" for column in columns)]
        for key, title in ROWS.items()
        if key != "recomputed" or report["checkpointing"]
    ]
    precision = {"no": "float32"}.get(report["precision"], report["precision"])
    how = f"micro-batch of {report['batch']}, {precision}" + ", checkpointing" * report["checkpointing"]
    how += f", {report['optimizer']}"
    table = text.table([f"training, {how}", *(names[column] for column in columns)], rows)
    return (
        f"{table}\nCounted on tensors without content. Temporary buffers, a teacher and the device's own are not in it."
    )
