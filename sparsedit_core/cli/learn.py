"""``learn``: a token cache's plan trained through whole samplings against the dense model's pictures (DiffSparse)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import tqdm

from ..cache.learn import learn
from ..cache.learn_loss import NETS, lpips_distance, own_distance
from ..cache.learn_options import Iteration, LearnOptions, Mean, Optimizer
from ..cache.learn_start import calibrated_start
from ..cache.plan import CachePlan, read_plan
from ..cache.solver import KINDS
from ..checkpoint import Loaded
from ..conditions import Conditions
from ..config import DiTConfig
from ..train.pictures import attributes
from . import options
from .asking import add_text_encoder, check_text_flags, encoder
from .files import check_ending, command_line, to_json, versions, write_bytes, write_json
from .pictures import conditions_of, knows_pictures

SUMMARY = "learn a token cache's plan: what each step recomputes, trained against the dense model's pictures"
EXAMPLE = "sparsedit learn bundled:dense plan.json --budget 50% --steps 20"

CALIBRATION, NOTHING = "calibration", "none"
"""Starts that are no file."""
CAPTIONS = 256
"""Captions of the procedural pictures that a model which knows them is asked with."""
CHOICES = {"optimizer": get_args(Optimizer), "mean": get_args(Mean)}
HELP = {
    "budget": "share of the dense sampling's MACs that the plan may take",
    "steps": "steps of the sampling",
    "cfg": "guidance scale, 1 is none",
    "first": "iterations of the first stage, which finds the steps to compute in full; with a start it is left out "
    "unless given (default 100 without a start)",
    "second": "iterations of the second stage, on the table of all steps and sub-layers",
    "full_steps": "full steps beside the first in the first stage (default: as a third of the budget pays for)",
    "batch": "pictures of an iteration",
    "pictures": "different pictures to learn from",
    "held": "pictures that the plans are compared on, from other noise",
    "every": "iterations between two comparisons",
    "patience": "comparisons without a better plan after which the second stage goes back, with half the rate; 0 never",
    "tau": "temperature of the softmax over levels",
    "delta": "what full steps are preferred by when the stages are merged",
    "margin": "what a change of the start has to gain before it is made",
    "step_rate": "learning rate of the first stage's table of steps",
    "layer_rate": "learning rate of the first stage's table of sub-layers",
    "second_rate": "learning rate of the second stage",
    "optimizer": "table: Adam with one second moment for the whole table, which keeps what is worth more ahead; adam",
    "mean": "of the distances of several pictures; geometric: one that turned into another does not drown the rest",
    "decay": "let the learning rates fall to 0 over a stage",
    "seed": "seed of the plan's order of tokens and of the noise",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, OUT, start, what is asked, training."""
    parser.add_argument("file", metavar="FILE", help=options.MODEL_HELP)
    parser.add_argument("out", metavar="OUT", type=Path, help="the .json plan to write; OUT.log.jsonl lies beside it")
    parser.add_argument(
        "--start", default=CALIBRATION, metavar="PLAN",
        help=f"plan to begin from, {CALIBRATION} (of dense samplings of the same model, the default), or {NOTHING}",
    )
    parser.add_argument("--classes", nargs="+", metavar="C", help='of a DiT: numbers, ranges, names (default "all")')
    parser.add_argument("--captions", type=Path, metavar="FILE", help="of a PixArt: a text file, one caption a line")
    add_text_encoder(parser)
    parser.add_argument(
        "--lpips", metavar="NET", help=f"LPIPS as the distance: a TorchScript file, or {', '.join(NETS)} of the library"
        " lpips (default: a substitute, which the plan names)",
    )
    parser.add_argument(
        "--whole", nargs="*", choices=KINDS, default=["self"], metavar="KIND",
        help=f"kinds that recompute all tokens or none, of {', '.join(KINDS)} (default self)",
    )
    group = parser.add_argument_group("training")
    for item in fields(LearnOptions):
        if item.name == "whole":
            continue
        flag, default = "--" + item.name.replace("_", "-"), item.default
        words = HELP[item.name] + ("" if default is None else f" (default {default})")
        if isinstance(default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=HELP[item.name])
        elif isinstance(default, str):
            group.add_argument(flag, choices=CHOICES[item.name], default=default, help=words)
        else:
            kind = options.budget if item.name == "budget" else int if "int" in str(item.type) else float
            group.add_argument(flag, type=kind, default=default, metavar="N", help=words)
    options.add_facts(parser)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Start, learn, write."""
    check_ending(args.out, ".json")
    options.set_threads(args)
    named = {item.name: getattr(args, item.name) for item in fields(LearnOptions)}
    settings = LearnOptions(**named | {"whole": tuple(args.whole)})
    loaded = options.open_model(args.file, args, **options.facts(args))
    conditions = _asked(args, loaded)
    distance = own_distance(loaded) if args.lpips is None else lpips_distance(args.lpips, loaded)
    if not args.json:
        print(f"distance: {distance.name}", flush=True)
    with Log(args.out.with_suffix(".log.jsonl"), loaded, settings) as log:
        start = _start(args.start, loaded, conditions, settings)
        made = {"command": command_line(args.argv), "model": Path(args.file).name, "versions": versions()}

        def save(plan: CachePlan) -> None:  # at once: a run that is interrupted leaves the best that it had
            write_json(args.out, plan.to_json())

        plan = learn(
            loaded, conditions, distance, settings, start=start, progress=log.add, save=save, provenance=made
        ).plan
    print(to_json({"plan": args.out.name, **plan.provenance}) if args.json else _text(args.out, plan))


class Log:
    """A line of JSON for every iteration in a file, and a bar on stderr."""

    def __init__(self, path: Path, loaded: Loaded, settings: LearnOptions) -> None:
        self.path, self.loaded, self.settings = path, loaded, settings
        self.bar: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> Log:
        write_bytes(self.path, b"")
        self.bar = self._stack.enter_context(tqdm(unit=" iterations", dynamic_ncols=True, delay=0.5))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, row: Iteration) -> None:
        """Take in a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        if row.held_psnr is not None:
            self.bar.set_postfix_str(f"stage {row.stage}, held-out {row.held_psnr:.2f} dB", refresh=False)
        self.bar.update(row.number > 0)


def _start(wanted: str, loaded: Loaded, conditions: Conditions, settings: LearnOptions) -> CachePlan | None:
    if wanted == NOTHING:
        return None
    return calibrated_start(loaded, conditions, settings) if wanted == CALIBRATION else read_plan(wanted)


def _asked(args: argparse.Namespace, loaded: Loaded) -> Conditions:
    """What pictures are asked with, in turn."""
    check_text_flags(args, [loaded])
    if isinstance(loaded.config, DiTConfig):
        if args.captions is not None:
            raise ValueError("--captions is for a PixArt; this model draws classes")
        return torch.tensor(options.classes_from(args.classes or ["all"], loaded))
    if args.classes is not None:
        raise ValueError("--classes is for a DiT; this model is a PixArt, which is asked with --captions FILE")
    if args.captions is None:
        if not knows_pictures(loaded):
            raise ValueError("say what is to be drawn: --captions FILE, a text file with one caption a line")
        return conditions_of(loaded, attributes(0, CAPTIONS))
    return encoder(args, loaded)(_lines(args.captions))


def _lines(path: Path) -> Sequence[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise ValueError(f"{path} holds no caption; write one a line")
    return found


def _text(out: Path, plan: CachePlan) -> str:
    start, found = plan.provenance["start_held"], plan.provenance["found"]
    return (
        f"{out}: {plan.provenance['share']:.1%} of the dense MACs; on held-out noise {found['held_psnr']:.2f} dB to "
        f"the dense pictures, {start['psnr']:.2f} dB at the start"
    )
