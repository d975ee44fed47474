"""``calibrate``: dense runs of one's own prompts are measured, and the best plan within a budget is written."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..cache.calibrate import Calibrator
from ..cache.calibrated import WEIGHTINGS, Choices, calibrate
from ..cache.costs import model_costs
from ..cache.draw import draw_plan
from ..cache.plan import SELECTORS, CachePlan, write_plan
from ..conditions import Captions
from ..sampling import initial_noise
from . import options
from .asking import add_asking, asked_from
from .files import check_ending, command_line, to_json, write_png
from .plan import report, words
from .progress import sample_with_bar

SUMMARY = "measure what changes from step to step in dense runs, and solve for the best plan within a budget"
EXAMPLE = "sparsedit calibrate bundled:dense plan.json --classes all --budget 50% --steps 20"


def arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, OUT, budget, what to draw, sampling."""
    parser.add_argument("file", metavar="FILE", help=options.MODEL_HELP)
    parser.add_argument("out", metavar="OUT", type=Path, help="JSON file to write")
    parser.add_argument(
        "--budget", type=options.budget, default=0.5, metavar="SHARE", help="share of the dense MACs (default 50%%)"
    )
    parser.add_argument(
        "--trials",
        type=options.positive,
        default=len(WEIGHTINGS),
        metavar="N",
        help=f"runs under candidate plans, of which the best is kept (1 .. {len(WEIGHTINGS)}, 1 tries none)",
    )
    parser.add_argument("--selector", choices=SELECTORS, default="age", help="which tokens come first (default age)")
    parser.add_argument(
        "--partly",
        action="store_true",
        help="let all but self-attention recompute a part of their tokens (default: whole sub-layers or none)",
    )
    parser.add_argument("--draw", type=Path, metavar="PNG", help="draw the plan: steps across, sub-layers down")
    add_asking(parser, classes="all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument("--size", type=options.size, metavar="PX", help="picture size (default: the model's own)")
    options.add_sampling(parser, steps=20, cfg=1.0)
    options.add_schedule(parser)
    options.add_facts(parser)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Measure, solve, try, write."""
    check_ending(args.out, ".json")
    if args.draw is not None:
        check_ending(args.draw, ".png")
    options.set_threads(args)
    loaded = options.open_model(args.file, args, **options.facts(args))
    asked = asked_from(args, loaded)
    noise = initial_noise(loaded, len(asked.names), seed=args.seed, size=args.size)
    settings = options.sample_options(args, loaded, options.schedule_from(args, loaded.schedule))
    length = asked.conditions.mask.shape[1] if isinstance(asked.conditions, Captions) else None
    costs = model_costs(loaded, args.size, length)

    def drawn(cache: CachePlan | Calibrator) -> Tensor:
        label = "trying" if isinstance(cache, CachePlan) else "measuring"
        return sample_with_bar(loaded, noise, asked, replace(settings, cache=cache), label, seed=args.seed).images

    choices = Choices(("self",) if args.partly else ("all",), args.selector)
    calibrator = Calibrator(loaded.family, costs.sublayers, pictures=len(noise))
    plan = calibrate(calibrator, costs, args.budget, drawn, choices=choices, trials=args.trials)
    plan = replace(plan, provenance={**plan.provenance, "command": command_line(args.argv)})
    write_plan(args.out, plan)
    if args.draw is not None:
        write_png(args.draw, draw_plan(plan, costs))
    print(to_json(report(plan, costs, args.out)) if args.json else words(plan, costs, args.out))
