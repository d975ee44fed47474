"""``bench --training``: samples per second of the training loop beside bare steps of the same model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..backbones import new_model
from ..bench import BenchCase
from ..bench.training import RandomSource, Throughput, TrainCase, measure_training
from ..checkpoint import Loaded, load_checkpoint
from ..checkpoint.records import default_latent
from ..conditions import has_null
from ..train.options import Precision, TrainOptions
from ..train.source import ProceduralCaptions, ProceduralSource, Source
from . import options, text

PRECISIONS: dict[str, Precision] = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
BUNDLED = ("bundled:dense", "bundled:sparsedit")
HEADER = ("training", "loop samples/s", "bare samples/s", "loop/bare", "by CPU time")
NOTES = """Medians. bare: forward, backward and optimiser step alone, on batches that lie ready;
loop: what `train` does, its batches made beside it. Models of a size (NAME@PX) train on noise that lies ready.
by CPU time: the same by the processor's seconds, which other programs on the machine do not move."""


def add_training(parser: argparse.ArgumentParser) -> None:
    """--training and the length of a stretch."""
    group = parser.add_argument_group("the training loop instead of evaluations")
    group.add_argument(
        "--training",
        action="store_true",
        help=f"samples/s of the loop beside bare steps; --models also takes files (default {' '.join(BUNDLED)})",
    )
    group.add_argument(
        "--stretch", type=options.positive, metavar="N", help="steps that are timed together (default 20)"
    )


def training_cases(args: argparse.Namespace, device: str, size_case: Any) -> Iterator[TrainCase]:
    """Models x batches on one device; ``size_case`` reads "DiT-XL/2@256"."""
    on_cpu = torch.device(device).type == "cpu"
    dtype = args.dtype or ("float32" if on_cpu else "bfloat16")
    for name in args.models or BUNDLED:
        for batch in args.batch or ([16] if on_cpu else [32]):
            for label, loaded, source in models(name, args, batch, size_case):
                drop = 0.1 if has_null(loaded.config) else 0.0
                wanted = TrainOptions(batch=batch, precision=PRECISIONS[dtype], label_drop=drop)
                yield TrainCase(label, loaded, source, wanted, args.stretch or 20, device)


def models(name: str, args: argparse.Namespace, batch: int, size_case: Any) -> Iterator[tuple[str, Loaded, Source]]:
    """A file's model with data that fit it, or the dense and the sparse model of a size."""
    if "@" in name and not name.startswith("bundled:") and not Path(name).exists():
        case: BenchCase = size_case(name, args)
        for config in (case.dense_config, case.sparse_config):
            torch.manual_seed(0)
            model = new_model(config)
            model.initialize_weights()
            schedule = None if config.layout is None else case.schedule
            loaded = Loaded(model=model, config=config, schedule=schedule, latent=default_latent(config))
            kind = "dense" if config.layout is None else "sparse"
            yield f"{name} {kind}", loaded, RandomSource(config, loaded.latent, batch)
        return
    if args.layout is not None:
        raise ValueError(f"--layout is about models of a size like DiT-XL/2@256; {Path(name).name} has its own or none")
    loaded = load_checkpoint(options.model_path(name), dtype=torch.float32)
    loaded.model.load_state_dict({key: value.clone() for key, value in loaded.model.state_dict().items()}, assign=True)
    loaded = replace(loaded, schedule=None if loaded.layout is None else options.schedule_from(args, loaded.schedule))
    source: Source = ProceduralSource() if loaded.family == "dit" else ProceduralCaptions()
    same = (loaded.latent, loaded.config.input_size) == (source.latent, source.input_size)
    same &= getattr(loaded.config, "caption_channels", None) == source.caption_channels
    yield Path(name).name, loaded, source if same else RandomSource(loaded.config, loaded.latent, batch)


def measure(cases: list[TrainCase], repeats: int) -> list[Throughput]:
    """Every case in turn under one progress bar."""
    with tqdm(total=2 * repeats * len(cases), unit=" stretches", dynamic_ncols=True, leave=False) as bar:

        def progress(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        results = []
        for case in cases:
            bar.set_description(case.name)
            results.append(measure_training(case, repeats, progress))
        return results


def training_text(found: list[Throughput]) -> str:
    """A line for every case."""
    rows = []
    for entry in found:
        report = entry.to_json()
        (precision,) = (dtype for dtype, short in PRECISIONS.items() if short == report["precision"])
        rows.append(
            [
                f"{report['model']}, {report['device']} {precision}, batch {report['batch']}",
                f"{report['loop_samples_per_second']:.1f}",
                f"{report['bare_samples_per_second']:.1f}",
                f"{100 * entry.share:.1f} %",
                "-" if entry.cpu_share is None else f"{100 * entry.cpu_share:.1f} %",
            ]
        )
    return text.table(HEADER, rows) + "\n\n" + NOTES
