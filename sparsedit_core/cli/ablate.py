"""``ablate``: variants of one dense model, fine-tuned alike and judged alike, in one table."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..analysis.analysis import analyze
from ..analysis.moments import DEFAULT_TIMES
from ..analysis.suggest import check_affordable, check_budget
from ..backbone import Backbone
from ..backbones import new_model
from ..checkpoint import Loaded, load_checkpoint
from ..checkpoint.infer import OFFICIAL_SIDE
from ..config import BackboneConfig, check_side
from ..convert import convert_config
from ..layout import SegmentLayout
from ..sampling import SAMPLERS
from ..schedule import PruningSchedule
from ..train.ablation import SMALLEST, Variant, paper_plan, plan_from_json, plan_to_json, reference_layout
from ..train.checks import check_run, weights_hash
from ..train.data import PROCEDURAL
from ..train.source import Source
from ..train.state import remove_states, state_folder
from . import options
from .ablate_record import PAGE, RECORD, open_record, save, settings_of
from .ablate_text import report_text
from .ablating import Judge, for_training, row_of, share_of_dense
from .analyze import DEFAULT_SCHEDULE, samples
from .asking import add_text_encoder
from .convert import add_start
from .files import check_folder, to_json
from .jury import add_jury
from .progress import bar
from .training import add_training, source_from, teacher_from, training_options

SUMMARY = "fine-tune variants of a dense model alike (the paper's ablation, or a plan) and compare them in one table"
EXAMPLE = "sparsedit ablate dense.safetensors ablation --pictures 40000 --batch 32 --samples 1000 --seeds 0 1"

LOOKED_AT = 8  # samples at each time that a layout is suggested from, as many as analyze takes


def arguments(parser: argparse.ArgumentParser) -> None:
    """DENSE, OUTDIR, plan, training, schedule, judging."""
    parser.add_argument("dense", metavar="DENSE", help=f"the model all variants start from: {options.MODEL_HELP}")
    parser.add_argument("out", metavar="OUTDIR", type=Path, help=f"folder of the models, {RECORD} and {PAGE}")
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="JSON",
        help='{"version": 1, "variants": [{"name": ..., "layout": TEXT, "suggested" or null for dense, "schedule": '
        '"moving", "fixed" or an object}]}; default: the paper\'s ablation for the depth of the model',
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="F",
        help="share of the dense model's MACs of a suggested layout (default: that of 2 Poolingformers and most SDTMs)",
    )
    add_start(parser)
    add_training(parser)
    options.add_schedule(parser)
    options.add_facts(parser)
    group = parser.add_argument_group("judging")
    group.add_argument("--samples", type=options.positive, default=1000, help="pictures of every seed (default 1000)")
    group.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the noise (default 0)")
    group.add_argument("--steps", type=options.positive, default=20, help="sampler steps (default 20)")
    group.add_argument(
        "--sampler",
        choices=[name for names in SAMPLERS.values() for name in names],
        help="ddim, ddpm: noise-predicting models; euler, heun: flow models",
    )
    group.add_argument("--cfg", type=float, default=1.0, metavar="S", help="guidance scale, 1 is none (default 1)")
    group.add_argument(
        "--by-time", type=options.positive, default=500, metavar="N", help="real pictures of the error (default 500)"
    )
    group.add_argument(
        "--sample-batch", type=options.positive, default=100, metavar="N", help="samples at a time (default 100)"
    )
    group.add_argument("--vae", type=Path, metavar="FILE", help="autoencoder of models that draw latents")
    group.add_argument("--device", default="cpu", help='where finished models are judged, e.g. "cuda" (default cpu)')
    add_jury(parser)
    add_text_encoder(parser)
    options.add_threads(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Check everything, then train and judge what is missing, then print."""
    check_folder(args.out)
    if args.samples < 2 or (args.references or 2) < 2 or args.by_time < 2:
        raise ValueError("a Frechet distance needs at least 2 samples and 2 references, an error by time 2 pictures")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("ablate runs in one process; launch it without torchrun or accelerate launch")
    options.set_threads(args)
    loaded = load_checkpoint(
        options.model_path(args.dense), dtype=torch.float32, **(options.facts(args) | {"sparse_side": None})
    )
    if loaded.layout is not None:
        raise ValueError(
            f"{args.dense} is a SparseDiT already (layout {loaded.layout}); the variants are made from a dense model: "
            "give the one that it came from"
        )
    source = source_from(args, loaded.family)
    moving = options.schedule_from(args, DEFAULT_SCHEDULE) or DEFAULT_SCHEDULE
    plan = plan_of(args, loaded.config, moving)
    teacher = teacher_from(args, loaded, source)
    for variant in plan:
        check_variant(variant, loaded, args, source, teacher)
    settings = settings_of(args, loaded, plan, source) | {"teacher": None if teacher is None else weights_hash(teacher)}
    report = open_record(args, settings)
    judge = Judge(args, loaded)
    if report["plan"] is None:
        judge.rehearse()
        report |= {"floor": judge.floor(), "references": len(judge.real.reference)}
        resolve(report, plan, loaded, args)
        save(report, args.out)
    variants = plan_from_json(report["plan"], loaded.config.depth, moving, loaded.config.grid)
    done = {row["name"] for row in report["rows"]}
    if len(done) < len(variants):
        judge.check_floor(report["floor"])
    for number, variant in enumerate(variants, 1):
        if variant.name in done:
            continue
        said = f"{variant.name} ({variant.layout or 'dense'})"
        print(f"sparsedit ablate: {number} of {len(variants)}, {said}", file=sys.stderr)
        row = row_of(variant, loaded, args, source, judge)
        report["rows"].append(row)
        save(report, args.out)
        if row["failure"] is None:
            forget_states(args.out / row["file"])
    print(to_json(report) if args.json else report_text(report))


def plan_of(args: argparse.Namespace, config: BackboneConfig, moving: PruningSchedule) -> tuple[Variant, ...]:
    """That of ``--plan``, or the shape of the paper's; ``ValueError`` for what is none."""
    if args.budget is not None:
        check_budget(args.budget)
    if args.plan is None:
        return paper_plan(config.depth, moving, config.grid)
    try:
        return plan_from_json(json.loads(args.plan.read_text(encoding="utf-8")), config.depth, moving, config.grid)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{args.plan} holds no plan for this model: {error}") from error


def check_variant(
    variant: Variant, loaded: Loaded, args: argparse.Namespace, source: Source, teacher: Backbone | None
) -> None:
    """``ValueError`` for what could not be trained, before anything is."""
    config, schedule = loaded.config, variant.schedule
    if schedule is not None:
        if isinstance(variant.layout, SegmentLayout):
            layout = variant.layout
        else:
            check_affordable(config, schedule, budget_of(args, config, schedule))
            layout = SegmentLayout(0, ((1, 0, 1, 0),), config.depth - 2)  # any one: the right one is not found yet
        side = OFFICIAL_SIDE if args.sparse_side is None else check_side(args.sparse_side, config.grid)
        config = convert_config(config, layout, sparse_side=side, reinject_positions=args.reinject_positions)
    with torch.device("meta"):
        model = new_model(config)
    own = for_training(args, variant)
    planned = replace(loaded, model=model, config=config, schedule=schedule)
    check_run(planned, own.out, source, training_options(own), teacher)


def resolve(report: dict[str, Any], plan: tuple[Variant, ...], loaded: Loaded, args: argparse.Namespace) -> None:
    """Put the plan with the layouts that analysis suggests into the record; one that is there already has one row."""
    found: list[Variant] = [variant for variant in plan if variant.layout != "suggested"]
    for variant in plan:
        if variant.layout != "suggested":
            continue
        assert variant.schedule is not None
        budget = budget_of(args, loaded.config, variant.schedule)
        data = None if args.data == PROCEDURAL else args.data
        looking = argparse.Namespace(**vars(args) | {"data": data, "samples": LOOKED_AT, "times": list(DEFAULT_TIMES)})
        _, moments = samples(loaded, looking, None)
        suggestion = analyze(loaded, moments, variant.schedule, budget, stage=bar).suggestion
        assert suggestion is not None
        chosen = replace(variant, layout=suggestion.layout)
        same = next((row for row in found if (row.layout, row.schedule) == (chosen.layout, chosen.schedule)), None)
        found += [chosen] if same is None else []
        facts = {"name": variant.name, "row": (same or chosen).name, "layout": str(chosen.layout), "budget": budget}
        report["suggestions"].append(facts | {"candidates": suggestion.to_json()["candidates"]})
    report["plan"] = plan_to_json(found)


def budget_of(args: argparse.Namespace, config: BackboneConfig, schedule: PruningSchedule) -> float:
    """Share of the dense model's MACs of a suggested layout: as given, or what the paper's shape costs."""
    if args.budget is not None:
        return check_budget(args.budget)
    if config.depth < SMALLEST:
        raise ValueError(
            f"a suggested layout costs as much as the paper's shape, which needs {SMALLEST} blocks, and the model has "
            f"{config.depth}; give --budget"
        )
    return share_of_dense(config, Variant("reference", reference_layout(config.depth), schedule))


def forget_states(out: Path) -> None:
    """Remove the states of a finished run: nothing goes on from it, and they are four times its size each."""
    folder = state_folder(out)
    remove_states(folder)
    with suppress(OSError):  # missing, or with something else in it
        folder.rmdir()
