"""``plan``: a plan of what each step recomputes, by rule or from a file, for another budget; shown and drawn."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..cache.calibrated import with_budget
from ..cache.costs import Costs, model_costs, sublayer_names
from ..cache.draw import draw_plan
from ..cache.plan import CachePlan, check_plan, read_plan, write_plan
from ..cache.rules import RULES, rule_plan
from ..sampling import evaluation_times
from ..units import macs_text
from . import options, text
from .files import check_ending, to_json, write_png

SUMMARY = "make, change and draw a plan of what each step recomputes (DiffSparse), by rule or from a file"
EXAMPLE = "sparsedit plan bundled:dense fora.json --rule fora --budget 50% --steps 20"


def arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, OUT, where the plan comes from, budget."""
    parser.add_argument("file", metavar="FILE", help=options.MODEL_HELP)
    parser.add_argument("out", metavar="OUT", type=Path, help="JSON file to write")
    parser.add_argument("--rule", choices=tuple(RULES), help="make a plan by rule")
    parser.add_argument("--plan", type=Path, metavar="PLAN", help="change this plan: a calibrated one takes any budget")
    parser.add_argument("--budget", type=options.budget, metavar="SHARE", help="share of the dense MACs (default 50%%)")
    parser.add_argument("--steps", type=options.positive, default=20, help="sampler steps of a rule (default 20)")
    parser.add_argument("--size", type=options.size, metavar="PX", help="picture size (default: the model's own)")
    parser.add_argument("--draw", type=Path, metavar="PNG", help="draw the plan: steps across, sub-layers down")
    options.add_facts(parser)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Make it, write it, say what it costs."""
    check_ending(args.out, ".json")
    if args.draw is not None:
        check_ending(args.draw, ".png")
    if (args.rule is None) == (args.plan is None):
        raise ValueError("say where the plan comes from: --rule NAME makes one, --plan FILE changes one")
    loaded = options.open_model(args.file, args, **options.facts(args))
    costs = model_costs(loaded, args.size)
    if args.rule is not None:
        times = evaluation_times(loaded.prediction, args.steps)
        plan = rule_plan(args.rule, costs, times, loaded.family, args.budget or 0.5)
    else:
        plan = read_plan(args.plan)
        check_plan(plan, loaded.family, sublayer_names(loaded.config))
        plan = plan if args.budget is None else with_budget(plan, costs, args.budget)
    write_plan(args.out, plan)
    if args.draw is not None:
        write_png(args.draw, draw_plan(plan, costs))
    print(to_json(report(plan, costs, args.out)) if args.json else words(plan, costs, args.out))


def report(plan: CachePlan, costs: Costs, out: Path) -> dict[str, object]:
    """Facts of a plan."""
    macs = plan.macs(costs.macs, costs.outside)
    return {
        "file": out.name,
        "hash": plan.hash,
        "family": plan.family,
        "steps": len(plan.times),
        "sublayers": len(plan.sublayers),
        "budget": plan.budget,
        "macs": macs,
        "flops": 2 * macs,
        "share_of_dense": plan.share(costs.macs, costs.outside),
        "selector": plan.selector,
        "made_by": plan.made_by,
    }


def words(plan: CachePlan, costs: Costs, out: Path) -> str:
    """The same for people."""
    macs, share = plan.macs(costs.macs, costs.outside), plan.share(costs.macs, costs.outside)
    pairs = [
        ("wrote", str(out)),
        ("plan", f"{plan.hash}, made by {plan.made_by}, selector {plan.selector}"),
        ("for", f"a {plan.family} of {len(plan.sublayers)} sub-layers, {len(plan.times)} steps"),
        ("one picture", f"{macs_text(macs)}, {100 * share:.1f} % of dense (budget {100 * plan.budget:.1f} %)"),
    ]
    return text.facts(pairs)
