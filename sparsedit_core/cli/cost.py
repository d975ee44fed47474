"""``cost``: what a SparseDiT costs beside its dense model, in the paper's convention and as executed."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoint import read_checkpoint
from ..config import BackboneConfig
from ..convert import DEFAULT_LAYOUTS, usual_layout
from ..cost import MODELS, caption_length, macs, model_config, token_grid
from ..diffusion.model_time import Prediction
from ..sampling import evaluation_times
from ..schedule import PruningSchedule
from ..schedule_cost import schedule_macs
from ..tokens import Grid, clamp_grid, default_sparse_grid
from . import options, text
from .cost_training import add_memory, memory_report, memory_text
from .files import to_json

SUMMARY = "count the MACs of a model and of a pruning schedule, and the memory that training it takes"
EXAMPLE = "sparsedit cost DiT-XL/2 --size 512 --rate-noise .96 --rate-clean .90"

LAYOUTS_HELP = ", ".join(f"{text} for a {name} of {depth} blocks" for (name, depth), text in DEFAULT_LAYOUTS.items())


def arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, size, layout, schedule."""
    parser.add_argument("model", metavar="MODEL", help=f"{', '.join(MODELS)}; or a {options.MODEL_HELP}")
    parser.add_argument("--size", type=options.size, metavar="PX", help="picture size in pixels: 512 or WIDTHxHEIGHT")
    parser.add_argument(
        "--layout",
        metavar="TEXT",
        help=f"default: the file's own, or {LAYOUTS_HELP}",
    )
    parser.add_argument(
        "--side",
        type=options.positive,
        metavar="N",
        help="static sparse side (default: midway between the schedule's ends)",
    )
    parser.add_argument(
        "--steps",
        type=options.positive,
        default=250,
        help="evaluations of the sampling, ddim or euler (flow models), default 250",
    )
    parser.add_argument(
        "--caption-tokens",
        type=options.positive,
        metavar="N",
        help="text tokens that a PixArt reads (default: those of its null caption, or 120)",
    )
    add_memory(parser)
    options.add_schedule(parser)
    options.add_facts(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Count and print."""
    found = _model(args)
    if not args.training and (args.batch or args.precision or args.checkpointing or args.optimizer):
        raise ValueError(
            "--batch, --precision, --checkpointing and --optimizer are about the memory of training; add --training"
        )
    schedule = options.schedule_from(args, found.schedule)
    report = count(found, args, schedule)
    if args.training:
        grid = token_grid(found.config, args.size, factor=found.factor)
        report["training"] = memory_report(found.config, args, grid, training_grid(found.config, args, schedule, grid))
    if args.json:
        print(to_json(report))
    else:
        print(_text(report) + (f"\n\n{memory_text(report['training'])}" if args.training else ""))


@dataclass(frozen=True)
class Subject:
    """What is counted: a config with a layout if there is one; ``factor`` is pixels per latent position."""

    config: BackboneConfig
    factor: int | None = None
    schedule: PruningSchedule | None = None
    prediction: Prediction = "eps"


def _model(args: argparse.Namespace) -> Subject:
    facts = options.facts(args)
    if args.model in MODELS:
        if any(value is not None for value in facts.values()):
            raise ValueError(f"--num-heads and the other facts are about files; all is known of {args.model}")
        config = MODELS[args.model]
        return Subject(model_config(config, args.layout or usual_layout(config)))
    path = options.model_path(args.model)
    if not path.exists() and not args.model.startswith("bundled:") and not path.suffix:
        raise ValueError(f"{args.model!r} is neither a file nor a known model; known are {', '.join(MODELS)}")
    checkpoint = read_checkpoint(path, **facts)
    default = None if checkpoint.layout is not None else usual_layout(checkpoint.config)
    config = model_config(checkpoint.config, args.layout or default)
    return Subject(config, checkpoint.latent.factor, checkpoint.schedule, checkpoint.prediction)


def count(found: Subject, args: argparse.Namespace, schedule: PruningSchedule | None) -> dict[str, Any]:
    """The numbers as plain values."""
    config, factor = found.config, found.factor
    dense_grid = token_grid(config, args.size, factor=factor)
    dense = replace(config, layout=None)
    captions = caption_length(config, args.caption_tokens) or None
    keywords: dict[str, Any] = {"factor": factor, "caption_tokens": captions}
    report: dict[str, Any] = {
        "model": Path(args.model).name if args.model not in MODELS else args.model,
        "layout": None if config.layout is None else str(config.layout),
        "dense_grid": list(dense_grid),
        "caption_tokens": captions,
        "units": "1 MAC = 2 FLOPs; one picture, one evaluation; the paper prints MACs and calls them FLOPs",
        "dense": {c: macs(dense, args.size, convention=c, **keywords).to_json() for c in ("paper", "executed")},
    }
    if config.layout is None:
        if schedule is not None or args.side is not None:
            raise ValueError(f"a model of {config.depth} blocks has no layout of its own; give one with --layout")
        return report
    side, grid = static_grid(args.side, schedule, config, dense_grid)
    static = {}
    for convention in ("paper", "executed"):
        cost = macs(config, args.size, sparse_grid=grid, convention=convention, **keywords)
        static[convention] = cost.to_json() | {"ratio_to_dense": cost.total / report["dense"][convention]["macs"]}
    report["static"] = {"side": side, **static}
    if schedule is not None:
        times = evaluation_times(found.prediction, args.steps)
        report["schedule"] = schedule.to_json()
        report["sampling"] = {
            name: schedule_macs(config, schedule, times, args.size, convention=name, **keywords).to_json()
            for name in ("paper", "algorithm", "executed")
        }
    return report


def static_grid(
    side: int | None, schedule: PruningSchedule | None, config: BackboneConfig, dense: Grid
) -> tuple[int, Grid]:
    """Side and grid: those asked for, midway between both ends of a schedule (longer side), or the checkpoint's."""
    if side is not None:
        if side**2 > dense[0] * dense[1]:
            raise ValueError(f"--side {side} does not fit into the {dense[0]}x{dense[1]} token grid; give less")
        return side, default_sparse_grid(dense, side)
    if schedule is None:
        return config.sparse_side, default_sparse_grid(dense, config.sparse_side)
    sides, longer = schedule.sides(max(dense)), max(dense)
    side = (sides[0] + sides[-1] + 1) // 2
    return side, clamp_grid((round(dense[0] * side / longer), round(dense[1] * side / longer)), dense)


def training_grid(
    config: BackboneConfig, args: argparse.Namespace, schedule: PruningSchedule | None, dense: Grid
) -> Grid | None:
    """The sparse grid that takes the most memory in training: the schedule's densest; ``None`` of a dense model."""
    if config.layout is None:
        return None
    if schedule is None or args.side is not None:
        return static_grid(args.side, schedule, config, dense)[1]
    return max((grid for _, _, grid in schedule.buckets(dense)), key=lambda grid: grid[0] * grid[1])


def _text(report: dict[str, Any]) -> str:
    rows, columns = report["dense_grid"]
    captions = f"captions of {report['caption_tokens']} tokens, " if report["caption_tokens"] else ""
    size = f"{rows}x{columns} = {rows * columns} tokens"
    lines = [f"{report['model']}, {size}, {captions}layout {report['layout'] or 'dense'}", ""]
    table = [_row("dense", report["dense"], "macs")]
    if "static" in report:
        side = report["static"]["side"]
        table.append(_row(f"sparse, static side {side}", report["static"], "macs", report["dense"]))
    if "sampling" in report:
        count = report["sampling"]["executed"]["evaluations"]
        table.append(_row(f"sparse, schedule, mean of {count}", report["sampling"], "mean_macs", report["dense"]))
    header = ["one picture, one evaluation", "paper's convention", "of dense", "executed", "of dense"]
    lines += [text.table(header, table), ""]
    if "sampling" in report:
        lines.append(_sampling_text(report))
    lines.append("1 MAC = 2 FLOPs. The paper prints MACs under the name FLOPs and leaves the attention products of")
    lines.append("generation and recovery blocks out; executed is every product that this program computes.")
    return "\n".join(lines)


def _row(name: str, costs: dict[str, Any], key: str, dense: dict[str, Any] | None = None) -> list[str]:
    cells = [name]
    for convention in ("paper", "executed"):
        value = costs[convention][key]
        cells.append(text.macs_text(value))
        cells.append(f"{100 * value / dense[convention]['macs']:.1f} %" if dense else "100 %")
    return cells


def _sampling_text(report: dict[str, Any]) -> str:
    executed = report["sampling"]["executed"]
    grids = [tuple(e["sparse_grid"]) for e in executed["per_evaluation"]]
    runs = ", ".join(f"{h}x{w} ({grids.count((h, w))})" for h, w in dict.fromkeys(grids))
    total = text.macs_text(executed["macs"])
    every = f"all {executed['evaluations']} evaluations executed: {total}"
    return f"grids from noise to image (evaluations): {runs}\n{every}\n"
