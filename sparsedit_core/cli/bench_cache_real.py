"""``bench --cache-real``: token caches at real sizes: what the solvers take, and seconds of an evaluation by level."""

from __future__ import annotations

import argparse
from typing import Any

from ..bench.cache_real import OWN, ShapeCosts, measure_levels, own_subject
from ..cache.plan import NONE
from ..cache.solver_speed import RealCase, SolverSpeed, real_cases, solver_speed
from ..units import amount
from . import options, text
from .files import to_json, versions, write_json

BUDGET = 0.6
"""Of the plans that are solved: at 4 steps the first one, which is full, takes a quarter."""
QUARTER = 1
REPEATS = 5


def run_real(args: argparse.Namespace) -> None:
    """Solve, time, print."""
    if args.models or args.profile or args.modes or args.guidance is not None or args.layout is not None:
        raise ValueError(
            "--models, --profile, --modes, --guidance, --layout are about other measurements; leave them out with "
            "--cache-real"
        )
    options.set_threads(args)
    device = "cpu" if args.device == "all" else args.device
    solved = [(case, solver_speed(case.costs, case.steps, BUDGET)) for case in real_cases()]
    repeats = 2 if args.quick else REPEATS
    timed = [
        measure_levels(own_subject(name, 1 if args.quick else blocks if device == "cpu" else None, device), repeats)
        for name, (_, _, blocks) in OWN.items()
    ]
    if args.json:
        print(to_json(_report(solved, timed)))
    else:
        print(_solver_text(solved), *map(_levels_text, timed), sep="\n\n")
    if args.out is not None:
        write_json(args.out, _report(solved, timed))


def quarter(case: RealCase) -> float:
    """Share of the dense MACs of an evaluation that recomputes a quarter of the tokens everywhere."""
    return case.costs.at([QUARTER] * len(case.costs.sublayers)) / case.costs.dense


def _report(solved: list[tuple[RealCase, list[SolverSpeed]]], timed: list[ShapeCosts]) -> dict[str, Any]:
    solvers = [
        {"model": case.name, "steps": case.steps, "sublayers": len(case.costs.sublayers), "macs": case.costs.dense,
         "outside": case.costs.at([NONE] * len(case.costs.sublayers)), "quarter": quarter(case), "budget": BUDGET,
         "solvers": [vars(each) for each in found]}
        for case, found in solved
    ]  # fmt: skip
    return {"machine": versions(), "solvers": solvers, "levels": [each.to_json() for each in timed]}


def _solver_text(solved: list[tuple[RealCase, list[SolverSpeed]]]) -> str:
    rows = [
        [case.name, str(case.steps), f"{amount(case.costs.dense)}MACs", f"{quarter(case):.1%}", each.solver,
         f"{1000 * each.seconds:.0f} ms", "optimal" if each.exact else f"within {each.gap:.1e}", f"{each.share:.1%}"]
        for case, found in solved for each in found
    ]  # fmt: skip
    header = ["model", "steps", "a step", "1/4 of tokens", "solver", "time", "harm", "of dense"]
    note = f"Plans of random harm within {BUDGET:.0%} of the dense MACs; 1/4 of tokens: MACs of a step at that level."
    return f"{text.table(header, rows)}\n{note}"


def _levels_text(found: ShapeCosts) -> str:
    full = found.levels[0].median
    rows = [
        [each.name, f"{each.macs:.1%}", f"{each.median:.3g} s", f"{each.median / full:.1%}", f"{each.moving:.1%}"]
        for each in found.levels
    ]
    header = [f"{found.name}, {found.blocks}", "MACs", "seconds", "of full", "selecting, gathering"]
    return text.table(header, rows)
