"""``convert``: a dense DiT to the initial state of a SparseDiT, or any layout of file to ours."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ..checkpoint import Loaded, load_checkpoint, save_checkpoint
from ..checkpoint.export import export_checkpoint
from ..checkpoint.infer import OFFICIAL_SIDE
from ..config import check_side
from ..convert import convert_dense
from ..grow import grow_depth, grow_patches
from ..layout import SegmentLayout
from . import options
from .files import check_ending, command_line, versions

SUMMARY = "turn a dense DiT into a SparseDiT's initial state, as one .safetensors file"
EXAMPLE = (
    "sparsedit convert DiT-XL-2-256x256.pt xl-sparse.safetensors"
    ' --layout "2+4x[1,3,1,1]+2" --rate-noise .86 --rate-clean .61'
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Source, output, layout, schedule."""
    parser.add_argument("dense", metavar="DENSE", help=f"dense model: {options.MODEL_HELP}")
    parser.add_argument("out", metavar="OUT", type=Path, help="the .safetensors file to write")
    parser.add_argument(
        "--layout", metavar="TEXT", help='e.g. "2+4x[1,3,1,1]+2"; without it only the layout of the file changes'
    )
    add_start(parser)
    parser.add_argument(
        "--grow",
        type=options.positive,
        metavar="N",
        help="a pixel model of N times the side: patches N times as wide, the old pictures enlarged, to be trained on",
    )
    parser.add_argument(
        "--deepen",
        type=options.positive,
        metavar="N",
        help="a dense DiT of N blocks with the same output: new blocks do nothing until they are trained",
    )
    parser.add_argument(
        "--as",
        dest="layout_of",
        choices=("official", "diffusers"),
        help="write the keys of the original projects or of diffusers (weights alone) instead of our own layout",
    )
    parser.add_argument("--dtype", choices=options.DTYPES, help="cast the weights (default: as they are)")
    options.add_schedule(parser)
    options.add_facts(parser)


def run(args: argparse.Namespace) -> None:
    """Load, convert, save."""
    check_ending(args.out, ".safetensors")
    keywords = options.facts(args)
    if args.layout_of is not None:
        keywords["dtype"] = None if args.dtype is None else options.DTYPES[args.dtype]
    loaded = load_checkpoint(options.model_path(args.dense), **keywords)
    if args.grow is not None:
        loaded = grow_patches(loaded, args.grow)
    if args.deepen is not None:
        loaded = grow_depth(loaded, args.deepen)
    schedule = options.schedule_from(args, loaded.schedule)
    if args.layout is not None:
        loaded = to_sparse(
            loaded, SegmentLayout.parse(args.layout), args.sparse_side, args.fusion, args.reinject_positions
        )
    elif args.reinject_positions or args.fusion is not None:
        flag = "--reinject-positions" if args.reinject_positions else "--fusion"
        raise ValueError(f"{flag} is about building a SparseDiT; give its --layout too")
    elif args.sparse_side is not None and loaded.layout is None:
        raise ValueError("--sparse-side belongs to a SparseDiT, but no --layout was given and the model is dense")
    elif schedule is not None and loaded.layout is None:
        raise ValueError("a schedule belongs to a SparseDiT, but no --layout was given and the model is dense")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.layout_of is not None:
        export_checkpoint(args.out, loaded, args.layout_of)
        print(f"{args.out}: {loaded.layout or 'dense'}, {args.layout_of} layout, weights alone")
        return
    record = {"command": command_line(args.argv), "versions": versions()}
    dtype = None if args.dtype is None else options.DTYPES[args.dtype]
    save_checkpoint(args.out, loaded, schedule=schedule, dtype=dtype, metadata={"convert": record})
    print(f"{args.out}: {loaded.layout or 'dense, as it was'}")
    if args.layout is not None:
        print("This is an initial state: its pictures are poor until it is fine-tuned (sparsedit finetune --help).")


def add_start(parser: argparse.ArgumentParser) -> None:
    """How a dense model becomes sparse: --fusion, --reinject-positions."""
    parser.add_argument(
        "--fusion",
        choices=("official", "identity"),
        help="initial fusion: official W1=0, W2=I (the default), or identity W1=I, W2=0: without Poolingformers and "
        "with one generation block a module the dense model's output on the full grid",
    )
    parser.add_argument(
        "--reinject-positions",
        action="store_true",
        help="add positions to the sparse tokens and again after recovery, as the paper says and its code does not",
    )


def to_sparse(
    loaded: Loaded, layout: SegmentLayout, side: int | None, fusion: str | None = None, reinject_positions: bool = False
) -> Loaded:
    """The record of the converted model; the dense one is left alone. ``None`` are the published side 8 and fusion."""
    model = convert_dense(
        loaded.model,
        layout,
        sparse_side=OFFICIAL_SIDE if side is None else check_side(side, loaded.config.grid),
        fusion="identity" if fusion == "identity" else "official",
        reinject_positions=reinject_positions,
    )
    return replace(loaded, model=model, config=model.config)
