"""``bench``: seconds per evaluation of dense and sparse models of real size, with random weights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..bench import BenchCase, Measurement, Mode, OpTime, measure_case, profile_case
from ..cost import MODELS
from ..layout import SegmentLayout
from ..schedule import PRESETS, PruningSchedule
from . import bench_training, options, text
from .cost import LAYOUTS_HELP, usual_layout
from .files import check_ending, to_json, versions, write_json

SUMMARY = "measure dense and sparse seconds per step side by side, with random weights"
EXAMPLE = "sparsedit bench --models DiT-XL/2@512 --device cuda --batch 1 8 --modes eager compiled --json"

CPU_MODELS, GPU_MODELS = ("DiT-B/2@512", "DiT-XL/2@256"), ("DiT-XL/2@256", "DiT-XL/2@512")
MODES: tuple[Mode, ...] = ("eager", "compiled", "cuda-graphs")
HEADER = (
    "case", "dense ms", "sparse ms", "speed-up", "dense work", "sparse work", "MAC ratio", "reached",
    "dense/plain", "dense/bare",
)  # fmt: skip
NOTES = """One evaluation of the whole batch, medians; sparse is the mean over the schedule's evaluations.
reached: speed-up over MAC ratio (1 MAC = 2 FLOPs; MACs as executed).
plain: the same dense model written out by hand. bare: its linear layers and attentions alone, nothing between."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Models, machine, batch, modes, schedule, output."""
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME@PX",
        help=f"default on a CPU {' '.join(CPU_MODELS)}, on a GPU {' '.join(GPU_MODELS)}",
    )
    parser.add_argument("--layout", metavar="TEXT", help=f"default {LAYOUTS_HELP}")
    parser.add_argument("--device", default="all", help='"cpu", "cuda", ..., or "all" there are (default)')
    parser.add_argument("--dtype", choices=options.DTYPES, help="default float32 on a CPU, bfloat16 elsewhere")
    parser.add_argument(
        "--batch", type=options.positive, nargs="+", metavar="N", help="pictures (default 1; on a GPU 1 8)"
    )
    parser.add_argument(
        "--guidance",
        action=argparse.BooleanOptionalAction,
        help="twice the samples, as classifier-free guidance computes them (default)",
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, help=f"default eager; on a GPU {' '.join(MODES)}")
    parser.add_argument("--repeats", type=options.positive, default=7, help="values per median (default 7)")
    parser.add_argument(
        "--steps", type=options.positive, help="evaluations that weigh the grids (default 250)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="DiT-S/2@256 with 3 repeats and eager, to see that it works"
    )
    parser.add_argument("--profile", action="store_true", help="print the slowest operations instead")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the numbers of every repetition")
    bench_training.add_training(parser)
    options.add_threads(parser)
    options.add_schedule(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Measure or profile every case and print."""
    if args.out is not None:
        check_ending(args.out, ".json")
    options.set_threads(args)
    if args.training:
        run_training(args)
        return
    if args.stretch is not None:
        raise ValueError("--stretch is about the training loop; add --training")
    cases = [case for device in devices(args.device) for case in device_cases(args, device)]
    report: dict[str, Any] = {"machine": machine(cases), "cases": []}
    if args.profile:
        for case in cases:
            profiles = profile_case(case)
            report["cases"].append({"case": caption(case), "operations": operations_json(profiles)})
            if not args.json:
                print(profile_text(case, profiles))
    else:
        measurements = measure(cases, 3 if args.quick else args.repeats)
        report["cases"] = [measurement.to_json() for measurement in measurements]
        if not args.json:
            print(text.table(HEADER, [row(measurement) for measurement in measurements]) + "\n\n" + NOTES)
    if args.json:
        print(to_json(report))
    if args.out is not None:
        write_json(args.out, report)


def run_training(args: argparse.Namespace) -> None:
    """Measure the training loop and print."""
    if args.profile or args.modes or args.steps is not None or args.guidance is not None:
        raise ValueError(
            "--profile, --modes, --steps and --guidance are about evaluations; leave them out with --training"
        )
    places = devices(args.device)
    cases = [case for device in places for case in bench_training.training_cases(args, device, model_case)]
    found = bench_training.measure(cases, 3 if args.quick else args.repeats)
    names = {device: torch.cuda.get_device_name(device) for device in places if torch.device(device).type == "cuda"}
    about = versions() | {"cpu_threads": torch.get_num_threads(), "devices": names}
    report = {"machine": about, "training": [entry.to_json() for entry in found]}
    print(to_json(report) if args.json else bench_training.training_text(found))
    if args.out is not None:
        write_json(args.out, report)


def devices(wanted: str) -> list[str]:
    """The devices to measure on; ``ValueError`` for one that is not there."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if wanted == "all":
        return ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {wanted!r} cannot be used ({str(error).splitlines()[0]}); use --device cpu"
        ) from error
    return [wanted]


def device_cases(args: argparse.Namespace, device: str) -> Iterator[BenchCase]:
    """Models x batches x modes on one device."""
    on_cpu = torch.device(device).type == "cpu"
    names = args.models or (["DiT-S/2@256"] if args.quick else CPU_MODELS if on_cpu else GPU_MODELS)
    modes: Sequence[Mode] = args.modes or (("eager",) if on_cpu or args.quick else MODES)
    if on_cpu and "cuda-graphs" in modes:
        raise ValueError('mode "cuda-graphs" needs a CUDA device; leave it out of --modes or give --device cuda')
    dtype = options.DTYPES[args.dtype or ("float32" if on_cpu else "bfloat16")]
    guidance = args.guidance is not False
    for name in names:
        for batch in args.batch or ([1] if on_cpu or args.quick else [1, 8]):
            plain = replace(model_case(name, args), batch=batch, guidance=guidance, device=device, dtype=dtype)
            yield from (replace(plain, mode=mode) for mode in modes)


def model_case(name: str, args: argparse.Namespace) -> BenchCase:
    """The case of "DiT-XL/2@256": layout and schedule as given, else those of the paper."""
    model, _, size = name.partition("@")
    if model not in MODELS or not size.isdecimal() or not 8 <= int(size) <= 4096:
        raise ValueError(
            f"cannot read {name!r} in --models; write MODEL@PIXELS like DiT-XL/2@256, MODEL one of {', '.join(MODELS)}"
        )
    wanted = args.layout or usual_layout(MODELS[model])
    if wanted is None:
        depth = MODELS[model].depth
        raise ValueError(f"{model} has {depth} blocks, for which there is no usual layout; give one with --layout")
    schedule = options.schedule_from(args, default_schedule(int(size)))
    assert schedule is not None  # there is a default
    return BenchCase(model, int(size), SegmentLayout.parse(wanted), schedule, args.steps or 250)


def default_schedule(size: int) -> PruningSchedule:
    """The paper's fast row for the picture size."""
    return PRESETS["512 fast" if size >= 512 else "256 fast"]


def measure(cases: list[BenchCase], repeats: int) -> list[Measurement]:
    """Every case in turn under one progress bar."""
    total = sum((3 + len(case.grids())) * (repeats + 1) for case in cases)
    with tqdm(total=total, unit=" timings", dynamic_ncols=True, leave=False) as bar:

        def progress(variant: str) -> None:
            bar.set_postfix_str(variant, refresh=False)
            bar.update()

        results = []
        for case in cases:
            bar.set_description(caption(case))
            results.append(measure_case(case, repeats, progress))
        return results


def caption(case: BenchCase) -> str:
    """One case in words."""
    samples = f"batch {case.batch}" + (" x 2" if case.guidance else "")
    dtype = str(case.dtype).removeprefix("torch.")
    return f"{case.name} {case.size} px, {case.device} {dtype}, {samples}, {case.mode}"


def row(found: Measurement) -> list[str]:
    """The table's cells for one measurement."""
    dense = found.median("dense")
    return [
        caption(found.case),
        f"{1000 * dense:.1f}",
        f"{1000 * found.sparse_seconds:.1f}",
        f"{found.speed_up:.2f}x",
        text.macs_text(found.dense_macs),
        text.macs_text(found.sparse_macs),
        f"{found.macs_ratio:.2f}x",
        f"{100 * found.reached:.0f} %",
        f"{dense / found.median('plain'):.3f}",
        f"{dense / found.median('bare'):.3f}",
    ]


def machine(cases: list[BenchCase]) -> dict[str, Any]:
    """What the numbers were measured with."""
    names = {case.device for case in cases if torch.device(case.device).type == "cuda"}
    return versions() | {
        "cpu_threads": torch.get_num_threads(),
        "devices": {name: torch.cuda.get_device_name(name) for name in sorted(names)},
    }


def operations_json(profiles: dict[str, list[OpTime]]) -> dict[str, Any]:
    """Plain values of a profile."""
    return {
        variant: [{"name": op.name, "calls": op.calls, "self_seconds": op.seconds} for op in operations]
        for variant, operations in profiles.items()
    }


def profile_text(case: BenchCase, profiles: dict[str, list[OpTime]]) -> str:
    """A table for each model of a profile."""
    parts = [caption(case)]
    for variant, operations in profiles.items():
        name = "dense" if variant == "dense" else f"sparse, grid {variant}"
        shown = sum(op.seconds for op in operations)
        rows = [
            [op.name[:60], f"{op.calls:g}", f"{1000 * op.seconds:.2f}", f"{100 * op.seconds / shown:.1f} %"]
            for op in operations
        ]
        parts.append(text.table((f"{name}: operation", "calls", "self ms", "share of these"), rows))
    return "\n\n".join(parts) + "\n"
