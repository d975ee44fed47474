"""``finetune``: a dense model to a SparseDiT that is trained under a pruning schedule."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoint import load_checkpoint
from ..layout import SegmentLayout
from . import options
from .convert import add_start, to_sparse
from .files import check_ending
from .training import add_training, owned, run_training, source_from

SUMMARY = "convert a dense model to a SparseDiT and train it under a pruning schedule"
EXAMPLE = (
    "sparsedit finetune dense.safetensors sparse.safetensors"
    ' --layout "1+1x[1,3,1,1]+1" --rate-noise .86 --rate-clean .61'
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """DENSE, OUT, layout, schedule, training."""
    parser.add_argument("dense", metavar="DENSE", help=f"the model to start from: {options.MODEL_HELP}")
    parser.add_argument("out", metavar="OUT", type=Path, help="the .safetensors file to write")
    parser.add_argument(
        "--layout", metavar="TEXT", help='e.g. "1+1x[1,3,1,1]+1"; leave it out to go on with a SparseDiT'
    )
    add_start(parser)
    add_training(parser)
    options.add_schedule(parser)
    options.add_facts(parser)
    options.add_threads(parser)


def run(args: argparse.Namespace) -> None:
    """Convert, train, save."""
    check_ending(args.out, ".safetensors")
    options.set_threads(args)
    facts = options.facts(args) | {"sparse_side": None}  # here it is that of the conversion
    loaded = load_checkpoint(options.model_path(args.dense), dtype=torch.float32, **facts)
    source = source_from(args, loaded.family)
    before = {"name": Path(args.dense).name, "metadata": loaded.metadata}
    schedule = options.schedule_from(args, loaded.schedule)
    if args.layout is not None:
        loaded = to_sparse(
            loaded,
            SegmentLayout.parse(args.layout),
            args.sparse_side,
            args.fusion,
            args.reinject_positions,
        )
    elif args.sparse_side is not None and loaded.layout is not None:
        raise ValueError(f"{args.dense} is a SparseDiT with its own side; --sparse-side is for the conversion")
    elif args.fusion is not None and loaded.layout is not None:
        raise ValueError(f"{args.dense} is a SparseDiT already; --fusion is for the conversion of a dense model")
    elif args.reinject_positions and not loaded.config.reinject_positions:
        raise ValueError(f"{args.dense} is a SparseDiT without re-added positions; start from the dense model")
    elif loaded.layout is None:
        raise ValueError(f'{args.dense} is dense; say how it becomes sparse with --layout, e.g. "1+1x[1,3,1,1]+1"')
    if schedule is None:
        raise ValueError("fine-tuning needs a pruning schedule; give --rate-noise and --rate-clean, or a --preset")
    run_training(replace(owned(loaded), schedule=schedule), args, source, {"init": before})
