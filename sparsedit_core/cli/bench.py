"""``bench``: seconds per evaluation of dense and sparse models of real size, with random weights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..bench import (
    BenchCase,
    ComfyUI,
    Measurement,
    Mode,
    comfyui_folders,
    load_comfyui,
    measure_schedules,
    profile_case,
    why_not_core,
)
from ..bench.measure import every_grid
from ..config import PixArtConfig
from ..convert import default_layout
from ..cost import MODELS
from ..layout import SegmentLayout
from ..schedule import PRESETS, PruningSchedule
from . import bench_cache, bench_cache_real, bench_training, options
from .bench_text import caption, operations_json, profile_text, report_text
from .cost import LAYOUTS_HELP
from .files import check_ending, to_json, versions, write_json

SUMMARY = "measure dense and sparse seconds per step side by side, with random weights"
EXAMPLE = "sparsedit bench --models DiT-XL/2@512 --device cuda --batch 1 8 --modes eager compiled --json"

CPU_MODELS, GPU_MODELS = ("DiT-B/2@512", "DiT-XL/2@256"), ("DiT-XL/2@256", "DiT-XL/2@512")
MODES: tuple[Mode, ...] = ("eager", "compiled", "cuda-graphs")
EVERY_PRESET = 1024  # pixels from which every preset is measured
Group = tuple[BenchCase, list[PruningSchedule]]


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
        "--steps", type=options.positive, nargs="+", help="evaluations that weigh the grids (default 250)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="DiT-S/2@256 with 3 repeats and eager, to see that it works"
    )
    parser.add_argument(
        "--caption-tokens", type=options.positive, metavar="N", help="text tokens of a PixArt (default 120 or 300)"
    )
    parser.add_argument(
        "--comfyui",
        type=Path,
        metavar="FOLDER",
        help='the ComfyUI whose own dense PixArt runs beside ours (default: one that is found); "none" leaves it out',
    )
    parser.add_argument("--profile", action="store_true", help="print the slowest operations instead")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the numbers of every repetition")
    bench_training.add_training(parser)
    bench_cache.add_cache(parser)
    options.add_threads(parser)
    options.add_schedule(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Measure or profile every case and print."""
    if args.cache:
        bench_cache.run_cache(args)
        return
    if len(args.steps or []) > 1:
        raise ValueError(f"--steps {' '.join(map(str, args.steps))}: several are about --cache; give one number")
    if args.out is not None:
        check_ending(args.out, ".json")
    if args.cache_real:
        bench_cache_real.run_real(args)
        return
    options.set_threads(args)
    if args.training:
        run_training(args)
        return
    if args.stretch is not None:
        raise ValueError("--stretch is about the training loop; add --training")
    groups = [group for device in devices(args.device) for group in device_cases(args, device)]
    cases = [case for case, _ in groups]
    comfyui, without = core_comfyui(args, cases)
    report: dict[str, Any] = {"machine": machine(cases), "without_core": without, "cases": []}
    if args.profile:
        profiles = [(case, profile_case(case, comfyui=beside(case, comfyui))) for case in cases]
        report["cases"] = [{"case": caption(case), "operations": operations_json(found)} for case, found in profiles]
    else:
        measurements = measure(groups, 3 if args.quick else args.repeats, comfyui)
        report["cases"] = [measurement.to_json() for measurement in measurements]
    if args.json:
        print(to_json(report))
    else:
        print("\n".join(profile_text(*one) for one in profiles) if args.profile else report_text(measurements))
        if without is not None:
            print(f"Core ComfyUI's PixArt was not run: {without}.")
    if args.out is not None:
        write_json(args.out, report)


def core_comfyui(args: argparse.Namespace, cases: list[BenchCase]) -> tuple[ComfyUI | None, str | None]:
    """The ComfyUI to measure beside PixArt, if any, and why not beside all of them (``None``: beside all).

    A folder that was asked for must work, at every size that was (``ValueError``); one that is only found may not.
    """
    pixarts = [case for case in cases if isinstance(case.dense_config, PixArtConfig)]
    if not pixarts:
        return None, None
    if args.comfyui is not None and str(args.comfyui) == "none":
        return None, "it was left out"
    reasons = {asked_name(case): why_not_core(case.dense_config) for case in pixarts}
    refused = {size: reason for size, reason in reasons.items() if reason is not None}
    if args.comfyui is not None:
        for size, reason in refused.items():
            raise ValueError(f"--comfyui cannot be measured with {size}: {reason}, or give --comfyui none")
        return load_comfyui(args.comfyui), None
    without = "; ".join(f"{size}: {reason}" for size, reason in refused.items()) or None
    if len(refused) == len(reasons):
        return None, without
    found = comfyui_folders()
    if not found:
        return None, "no ComfyUI was found, give its folder with --comfyui"
    try:
        return load_comfyui(found[0]), without
    except ValueError as error:
        return None, str(error)


def asked_name(case: BenchCase) -> str:
    """As the model is named in --models."""
    return f"{case.name}@{case.size}"


def beside(case: BenchCase, comfyui: ComfyUI | None) -> ComfyUI | None:
    """The ComfyUI, where core's PixArt can run beside this case."""
    return comfyui if why_not_core(case.dense_config) is None else None


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


def device_cases(args: argparse.Namespace, device: str) -> Iterator[Group]:
    """Models x batches x modes on one device, each with the schedules that are measured together."""
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
            yield from ((replace(plain, mode=mode), schedules(args, plain)) for mode in modes)


def schedules(args: argparse.Namespace, case: BenchCase) -> list[PruningSchedule]:
    """The case's own; from 1024 pixels on, where the paper has no row, every preset unless one was asked for."""
    if case.size < EVERY_PRESET or any((args.preset, args.schedule, args.rate_noise, args.rate_clean)):
        return [case.schedule]
    every = [options.schedule_from(args, preset) for preset in PRESETS.values()]
    return [one for i, one in enumerate(every) if one is not None and one not in every[:i]]  # two are the same rates


def model_case(name: str, args: argparse.Namespace) -> BenchCase:
    """The case of "DiT-XL/2@256": layout and schedule as given, else those of the paper."""
    model, _, size = name.partition("@")
    if model not in MODELS or not size.isdecimal() or not 8 <= int(size) <= 4096:
        raise ValueError(
            f"cannot read {name!r} in --models; write MODEL@PIXELS like DiT-XL/2@256, MODEL one of {', '.join(MODELS)}"
        )
    layout = SegmentLayout.parse(args.layout) if args.layout else default_layout(MODELS[model])
    schedule = options.schedule_from(args, default_schedule(int(size)))
    assert schedule is not None  # there is a default
    case = BenchCase(model, int(size), layout, schedule, (args.steps or [250])[0])
    return replace(case, caption_tokens=args.caption_tokens if case.captions else None)


def default_schedule(size: int) -> PruningSchedule:
    """The paper's fast row for the picture size."""
    return PRESETS["512 fast" if size >= 512 else "256 fast"]


def measure(groups: list[Group], repeats: int, comfyui: ComfyUI | None) -> list[Measurement]:
    """Every case in turn under one progress bar."""
    total = sum((references(case, comfyui) + len(every_grid(case, wanted))) * (repeats + 1) for case, wanted in groups)
    with tqdm(total=total, unit=" timings", dynamic_ncols=True, leave=False) as bar:

        def progress(variant: str) -> None:
            bar.set_postfix_str(variant, refresh=False)
            bar.update()

        results = []
        for case, wanted in groups:
            bar.set_description(caption(case, schedule=False))
            results += measure_schedules(case, wanted, repeats, progress, beside(case, comfyui))
        return results


def references(case: BenchCase, comfyui: ComfyUI | None) -> int:
    """Dense models that are timed: ours, and two stacks of a DiT or core's PixArt."""
    return 1 + (beside(case, comfyui) is not None) if isinstance(case.dense_config, PixArtConfig) else 3


def machine(cases: list[BenchCase]) -> dict[str, Any]:
    """What the numbers were measured with."""
    names = {case.device for case in cases if torch.device(case.device).type == "cuda"}
    return versions() | {
        "cpu_threads": torch.get_num_threads(),
        "devices": {name: torch.cuda.get_device_name(name) for name in sorted(names)},
    }
