"""``bench --cache``: token caches beside fewer steps and step caches, by MACs, seconds and what is drawn."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..bench.cache import Part, Progress, Row, compare, drawn, ways_of
from ..bench.cache_comfyui import core_runs
from ..bench.cache_plot import draw_rows
from ..bench.cache_verdict import verdicts
from ..bench.comfyui import comfyui_folders
from ..bundled import bundled_plans
from ..cache.costs import model_costs, sublayer_names
from ..cache.plan import CachePlan, read_plan
from ..checkpoint import load_checkpoint
from ..sampling import evaluation_times, initial_noise
from ..train.evaluation import Jury, PictureSet, seen
from ..train.extractors import judge_features, judge_logits
from ..train.picture_captions import LONGEST
from ..train.real_pictures import HeldOutPictures, batches
from ..train.train_judge import load_judge
from . import options, text
from .files import check_ending, command_line, to_json, versions, write_png
from .jury import asker
from .pictures import check_fits

MODELS = ("bundled:dense", "bundled:pixart-dense")
STEPS, BUDGETS = (20, 8, 4), (0.7, 0.5, 0.4)
SAMPLES, REFERENCES, TUNING = 24, 1000, 8
MOST, LEAST_PARTS = 50, 4
"""Pictures of a part at most, and parts at least where there are pictures enough: medians are over the parts."""
TUNING_SEED = 500_000
"""Added to the seed for the pictures that plans are calibrated on."""
HEADER = ("MACs", "seconds", "quartiles", "CPU time", "PSNR dB", "SSIM", "Frechet", "accuracy")
NOTES = """MACs, seconds and CPU time are shares of dense sampling in as many steps; seconds and CPU time are medians
over the parts that the pictures come in, quartiles those of the seconds; other programs move CPU time least. PSNR
and SSIM are to the dense picture of the same noise, means. Frechet distance to real pictures and accuracy of the
classes are the project's judge's. Plans were calibrated, and thresholds found, on other noise. Step caches decide for
all pictures of a part together; first-block caches compute 1 block of 10 here, of 28 or more in models of real size."""


def add_cache(parser: argparse.ArgumentParser) -> None:
    """--cache and what is compared."""
    group = parser.add_argument_group("token caches beside fewer steps and step caches, instead of evaluations")
    group.add_argument(
        "--cache",
        action="store_true",
        help=f"a table of quality, MACs and seconds on models of the procedural pictures; --models takes files "
        f"(default {' '.join(MODELS)}), --steps several (default {' '.join(map(str, STEPS))}), --out a PNG",
    )
    group.add_argument(
        "--cache-real",
        action="store_true",
        help="of models of real size: what the plan's solvers take, and seconds of an evaluation by level",
    )
    group.add_argument(
        "--budgets", type=options.budget, nargs="+", metavar="SHARE", help="of the plans (default 70%% 50%% 40%%)"
    )
    group.add_argument(
        "--samples", type=options.positive, metavar="N", help=f"pictures that are judged (default {SAMPLES})"
    )
    group.add_argument("--seed", type=int, metavar="N", help="of the noise (default 0)")
    group.add_argument(
        "--plans",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="learned plans, for the models and steps that they fit (default: those that come with the package)",
    )


def run_cache(args: argparse.Namespace) -> None:
    """Sample, judge, print, draw."""
    if args.out is not None:
        check_ending(args.out, ".png")
    if args.profile or args.modes or args.guidance is not None or args.layout is not None:
        raise ValueError("--profile, --modes, --guidance, --layout are about evaluations; leave them out with --cache")
    options.set_threads(args)
    every = args.steps or list(STEPS)
    budgets = sorted(set(args.budgets or BUDGETS), reverse=True)
    if (args.samples or SAMPLES) < 2 or min(every) < 2:
        raise ValueError("a Frechet distance needs at least 2 samples, and a cache at least 2 steps")
    learned = [read_plan(path) for path in args.plans or bundled_plans().values()]
    comfyui, why_not = core_folder(args.comfyui)
    notes = [f"Core's EasyCache and LazyCache were not run: {why_not}."] if comfyui is None else []
    rows: list[Row] = []
    with running() as progress:
        judge, _ = load_judge(None)
        jury = Jury(judge_features(judge), judge_logits(judge))
        for name in args.models or MODELS:
            bench = Bench(name, args, jury, progress)
            for steps in every:
                rows += bench.rows(steps, budgets, learned)
            if comfyui is not None:
                rows, told = with_core(rows, bench, comfyui, every, budgets, args.comfyui is not None)
                notes.append(told)
    notes += verdicts(rows)
    if args.out is not None:
        write_png(args.out, draw_rows(rows))
    report = {
        "command": command_line(args.argv),
        "versions": versions() | {"cpu_threads": torch.get_num_threads()},
        "rows": [row.to_json() for row in rows],
        "notes": notes,
    }
    print(to_json(report) if args.json else cache_text(rows, notes))


@contextmanager
def running() -> Iterator[Progress]:
    """A line that tells what is running, for as long as the block lasts."""
    with tqdm(unit=" runs", dynamic_ncols=True, leave=False, bar_format="{n_fmt}{unit} in {elapsed}: {desc}") as bar:

        def progress(what: str) -> None:
            bar.set_description_str(what, refresh=False)
            bar.update()

        yield progress


def core_folder(wanted: Path | None) -> tuple[Path | None, str]:
    """The ComfyUI to run core's caches in, or why there is none."""
    if wanted is not None and str(wanted) == "none":
        return None, "they were left out"
    if wanted is not None:
        return wanted, ""
    found = comfyui_folders()
    return (found[0], "") if found else (None, "no ComfyUI was found, give its folder with --comfyui")


class Bench:
    """One model, the pictures that it is judged by, and those that plans are calibrated on."""

    def __init__(self, name: str, args: argparse.Namespace, jury: Jury, progress: Progress) -> None:
        self.path, self.name = options.model_path(name), name.removeprefix("bundled:")
        self.jury = jury
        self.progress: Progress = lambda what: progress(f"{self.name}, {what}")
        self.device = "cpu" if args.device == "all" else args.device
        self.loaded = load_checkpoint(self.path, dtype=torch.float32)
        check_fits(self.loaded, name)
        if self.loaded.layout is not None:
            raise ValueError(f"{name} is a sparse model; caches are compared on dense ones: give bundled:dense")
        self.loaded.model.to(self.device)
        self.costs = model_costs(self.loaded, None, LONGEST if self.loaded.family == "pixart" else None)
        samples, seed, size = args.samples or SAMPLES, args.seed or 0, (args.batch or [0])[0]
        size = size or max(1, min(MOST, -(-samples // LEAST_PARTS)))
        real = HeldOutPictures(captioned=self.loaded.family == "pixart")
        ask = asker(self.loaded, real, None)
        self.parts = []
        for first in range(0, samples, size):
            count = min(size, samples - first)
            shown, conditions = ask(seed, first, count)
            self.parts.append(Part(initial_noise(self.loaded, count, seed=seed, first=first), conditions, shown))
        other = seed + TUNING_SEED
        shown, conditions = ask(other, 0, TUNING)
        self.tuning = Part(initial_noise(self.loaded, TUNING, seed=other), conditions, shown)
        self.progress("real pictures")
        self.real: PictureSet = seen(jury, batches(real, 0, max(samples, REFERENCES), 100))
        self.first: dict[int, Tensor] = {}

    def rows(self, steps: int, budgets: Sequence[float], learned: Sequence[CachePlan]) -> list[Row]:
        """Every way of ours at one number of steps; ``learned`` are plans of which those that fit are taken."""
        times = evaluation_times(self.loaded.prediction, steps)
        family, names = self.loaded.family, sublayer_names(self.loaded.config)
        fitting = [
            plan for plan in learned
            if (plan.family, plan.sublayers) == (family, names) and len(plan.times) == steps
            and all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(plan.times, times, strict=True))
        ]  # fmt: skip
        ways = ways_of(self.loaded, self.costs, steps, budgets, fitting, self.tuning, self.progress)
        self.first[steps] = drawn(self.loaded, ways[0], self.parts[0], names).images
        return compare(
            self.name, self.loaded, self.costs, ways, self.parts, self.jury, self.real, self.progress
        )


def with_core(
    rows: list[Row], bench: Bench, comfyui: Path, every: Sequence[int], budgets: Sequence[float], asked: bool
) -> tuple[list[Row], str]:
    """The rows with those of core's caches behind each number of steps, and a line about them.

    A ComfyUI that was ``asked`` for must work (``ValueError``); one that was only found may not.
    """
    try:
        core = core_runs(
            comfyui, (bench.name, bench.path), bench.parts, bench.tuning, every, budgets, bench.first, bench.jury,
            bench.real, cpu=bench.device == "cpu", progress=bench.progress,
        )  # fmt: skip
    except ValueError as error:
        if asked:
            raise
        return rows, f"Core's EasyCache and LazyCache were not run on {bench.name}: {error}."
    order = {key: place for place, key in enumerate(dict.fromkeys((row.model, row.steps) for row in rows))}
    together = sorted([*rows, *core.rows], key=lambda row: order[row.model, row.steps])
    near = min(core.near.values())
    return together, (
        f"EasyCache and LazyCache are core ComfyUI {core.version}'s nodes on {bench.name}, their shares are of dense "
        f"sampling in the same process, whose pictures are at least {near:.0f} dB near ours."
    )


def cache_text(rows: Sequence[Row], notes: Sequence[str]) -> str:
    """A table for every model and number of steps, and what they say."""
    blocks = []
    for model, steps in dict.fromkeys((row.model, row.steps) for row in rows):
        some = [row for row in rows if (row.model, row.steps) == (model, steps)]
        title = f"{model}, {steps} Euler steps, {some[0].pictures} pictures"
        blocks.append(text.table((title, *HEADER), [cells(row) for row in some]))
    return "\n\n".join([*blocks, NOTES, "\n".join(notes)])


def cells(row: Row) -> list[str]:
    """A line of the table."""
    low, high = row.spread
    return [
        f"{row.method} ({row.setting})",
        f"{100 * row.macs:.1f} %",
        f"{100 * row.seconds:.1f} %",
        f"{100 * low:.0f} .. {100 * high:.0f}",
        "-" if row.processor is None else f"{100 * row.processor:.1f} %",
        "same" if math.isinf(row.psnr) else f"{row.psnr:.1f}",
        f"{row.ssim:.3f}",
        f"{row.frechet:.2f}",
        "-" if row.accuracy is None else f"{100 * row.accuracy:.1f} %",
    ]
