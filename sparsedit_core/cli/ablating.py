"""One variant of an ablation: its training, its verdict, its row; how all of them are judged alike."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import replace
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

from ..analysis.search import layout_macs
from ..checkpoint import Loaded, load_checkpoint
from ..config import BackboneConfig
from ..cost import macs
from ..layout import SegmentLayout
from ..train.ablation import Variant
from ..train.source import Source
from . import options
from .asking import check_text_flags
from .convert import to_sparse
from .evaluate import Space, evaluate
from .evaluate_text import METRICS
from .jury import Reality, check_models, jury_from, picture_size, real_pictures, reality
from .progress import bar
from .training import owned, run_training


class Judge:
    """Who judges the variants and beside what; real pictures are seen once, and only if there is something to judge."""

    def __init__(self, args: argparse.Namespace, loaded: Loaded) -> None:
        # every variant is sampled under its own schedule: those flags are about training
        own: dict[str, Any] = {"batch": args.sample_batch, "cfg_channels": None, "dtype": "float32"}
        self.args = argparse.Namespace(**vars(args) | defaults(options.add_schedule) | own)
        self.jury = jury_from(self.args)
        check_models([(args.dense, loaded)], self.args)
        check_text_flags(self.args, [loaded])
        self.space = Space(self.args, [loaded])
        self.pictures = real_pictures(self.args, picture_size(loaded), [loaded])
        self._real: Reality | None = None

    @property
    def real(self) -> Reality:
        """The real pictures as the jury sees them."""
        if self._real is None:
            wanted, known = self.args.samples, self.pictures.count
            total = wanted + (self.args.references or wanted) if known is None else known
            with bar(total, "real pictures", "pictures") as progress:
                self._real = reality(self.pictures, self.jury, self.args, wanted, progress)
        return self._real

    def floor(self) -> dict[str, Any]:
        """What the jury says of real pictures beside others."""
        one, other = self.real.halves
        return one.against(other).to_json() | {"others": len(other)}

    def check_floor(self, before: dict[str, Any]) -> None:
        """``ValueError`` where rows that are there were judged beside other pictures, or by another jury."""
        now = self.floor()["frechet"]
        if not math.isclose(now, before["frechet"], rel_tol=1e-3):  # other threads round otherwise
            raise ValueError(
                f"the real pictures or who judges them changed: their own Frechet distance was {before['frechet']:.4f} "
                f"and is now {now:.4f}; give those of before, or begin anew in another folder"
            )

    def rehearse(self) -> None:
        """Judge the dense model on the fewest pictures: what cannot be judged is refused before any training."""
        few = argparse.Namespace(**vars(self.args) | {"samples": 2, "seeds": [0], "by_time": 2, "steps": 1})
        model = options.open_model(self.args.dense, few, **options.facts(few) | {"sparse_side": None})
        evaluate(self.args.dense, model, few, self.jury, self.real, self.space)

    def verdict(self, path: Path) -> dict[str, Any]:
        """Metrics and errors of a finished model."""
        model = options.open_model(str(path), self.args)
        found = evaluate(path.name, model, self.args, self.jury, self.real, self.space)
        errors = found["by_time"]["times"]
        row = {name: found[name] for name in (*METRICS, "seeds", "by_time")}
        return row | {"error": fmean(entry["error"] for entry in errors)}


def for_training(args: argparse.Namespace, variant: Variant) -> argparse.Namespace:
    """The arguments of ``finetune`` for one variant."""
    own: dict[str, Any] = {"out": args.out / f"{variant.stem}.safetensors"}
    if args.tensorboard is not None:
        own["tensorboard"] = args.tensorboard / variant.stem
    if variant.layout is None:
        own["distill_features"] = 0.0  # of the ends of segments, which it has none of
    return argparse.Namespace(**vars(args) | own)


def row_of(
    variant: Variant, loaded: Loaded, args: argparse.Namespace, source: Source, judge: Judge
) -> dict[str, Any]:
    """Train one variant and judge it. A loss or pictures that are no numbers are the row's ``failure``, no error."""
    own = for_training(args, variant)
    grids = [] if variant.schedule is None else variant.schedule.buckets(loaded.config.grid)
    row: dict[str, Any] = {
        **variant.to_json(),
        "grids": [list(grid) for _, _, grid in reversed(grids)],
        "macs_ratio": share_of_dense(loaded.config, variant),
        "file": own.out.name,
        "loss": None,
        "failure": None,
        "error": None,
        **dict.fromkeys((*METRICS, "by_time")),
        "seeds": [],
    }
    try:
        with redirect_stdout(StringIO()):  # stdout is the table's
            facts = {"init": {"name": Path(args.dense).name, "metadata": loaded.metadata}}
            run_training(start_of(variant, loaded, args), own, source, facts | {"ablation": variant.to_json()})
        row["loss"] = load_checkpoint(own.out).metadata["train"]["loss"]
        return row | judge.verdict(own.out)
    except ArithmeticError as error:
        return row | {"failure": " ".join(str(error).split())}


def start_of(variant: Variant, loaded: Loaded, args: argparse.Namespace) -> Loaded:
    """What a variant is trained from; the dense model itself is left alone."""
    if variant.layout is None:
        return replace(owned(replace(loaded, model=deepcopy(loaded.model))), schedule=None)
    made = to_sparse(loaded, as_layout(variant), args.sparse_side, args.fusion, args.reinject_positions)
    return replace(made, schedule=variant.schedule)


def as_layout(variant: Variant) -> SegmentLayout:
    """The layout of a sparse variant, which has been found by now."""
    assert isinstance(variant.layout, SegmentLayout), variant
    return variant.layout


def share_of_dense(config: BackboneConfig, variant: Variant) -> float:
    """Executed MACs of an evaluation, mean over diffusion time, relative to the dense model's."""
    if variant.schedule is None:
        return 1.0
    return layout_macs(config, as_layout(variant), variant.schedule) / macs(config, factor=1).total


def defaults(add: Callable[[argparse.ArgumentParser], None]) -> dict[str, Any]:
    """The flags that ``add`` gives a parser, and their defaults."""
    parser = argparse.ArgumentParser()
    add(parser)
    return vars(parser.parse_args([]))
