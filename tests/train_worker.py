"""A program that trains; started by tests, alone or in several processes, and killed by some of them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import torch  # noqa: E402
from train_runs import LAYOUT, MemorySource, options, tiny_run, train  # noqa: E402

from sparsedit_core.cli import main  # noqa: E402
from sparsedit_core.train.signals import Interrupted  # noqa: E402

PROCESSES = {"pictures": 80, "precision": "no", "learning_rate": 1e-2}
"""Twenty steps of four pictures."""

COMMAND = "train --hidden-size 16 --heads 2 --depth 2 --patch-size 8 --pictures 16 --batch 4 --warmup 1 --cpu"


class Slow:
    """A watcher that leaves time to be killed in, and tells how far the run is."""

    def resumed(self, step: int) -> None:
        """The first line."""
        print("resumed", step, flush=True)

    def step(self, progress: object, averaged: object) -> None:
        """A line for each step."""
        print("step", progress.step, flush=True)  # type: ignore[attr-defined]
        time.sleep(0.05)

    def saved(self, progress: object) -> None:
        """A line for each save."""
        print("saved", progress.step, flush=True)  # type: ignore[attr-defined]


def processes(folder: Path) -> None:
    """Three runs in float64: dense, sparse, and a sparse one that goes on from what another process began; then one of
    the command line."""
    for name, layout, resume in (("dense", None, False), ("sparse", LAYOUT, False), ("resumed", LAYOUT, True)):
        loaded = tiny_run(layout, dtype=torch.float64)
        train(loaded, folder / f"{name}.safetensors", MemorySource(), options(**PROCESSES), resume=resume, cpu=True)
    main([*COMMAND.split(), str(folder / "command.safetensors")])


def slow(out: Path, resume: bool) -> None:
    """One run of a bfloat16 SparseDiT in forty steps."""
    settings = options(pictures=160, precision="bf16", accumulate=2)
    try:
        train(tiny_run(), out, MemorySource(), settings, watchers=[Slow()], resume=resume, cpu=True)
    except Interrupted as end:
        print(end, flush=True)
        sys.exit(end.code)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "processes":
        processes(Path(sys.argv[2]))
    else:
        slow(Path(sys.argv[2]), "--resume" in sys.argv)
