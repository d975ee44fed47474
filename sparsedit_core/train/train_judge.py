"""Training, saving and loading of the judge (`python -m sparsedit_core train --classifier`)."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..atomic import replacing
from .judge import Judge, accuracy, loss, noisy
from .pictures import CLASS_NAMES, pictures

BUNDLED_JUDGE = Path(__file__).resolve().parent.parent / "bundled" / "judge.safetensors"
FORMAT, VERSION = "sparsedit_core.judge", 1
RATE, WARMUP, AVERAGE_SPAN = 3e-3, 50, 100

Progress = Callable[[int, int, float], None]
"""Called after each step with (steps done, steps in all, loss)."""

log = logging.getLogger("sparsedit")


def train_classifier(
    out: str | os.PathLike[str] | None = None,
    *,
    steps: int = 700,
    batch: int = 128,
    seed: int = 0,
    heldout: int = 2000,
    progress: Progress | None = None,
) -> tuple[Judge, dict[str, Any]]:
    """Train the judge on steps * batch pictures of the training split and save it to `out` if given.

    Returns the judge in eval mode (the average of its last steps' weights) and a record: the settings and
    `heldout_accuracy`, `noisy_accuracy` (noise of deviation 0.1) over `heldout` held-out pictures.
    The same seed gives the same weights on the same machine and thread count.
    Raises ValueError for a count below 1.
    """
    if steps < 1 or batch < 1:
        raise ValueError(f"steps and batch must be at least 1, found {steps} and {batch}")
    average = _new_judge(seed)
    judge = _new_judge(seed)
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=RATE, weight_decay=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * _rate(step, steps)
        value = _train_step(judge, optimizer, step, batch, seed, generator)
        _follow(average, judge, step)
        if progress is not None:
            progress(step + 1, steps, value)
    average.eval()
    record = {"steps": steps, "batch": batch, "seed": seed, **heldout_scores(average, heldout)}
    log.info("judge trained: %s", record)
    if out is not None:
        save_judge(out, average, record)
    return average, record


def heldout_scores(judge: Judge, count: int = 2000) -> dict[str, float]:
    """Accuracy of the judge on held-out pictures, clean and with Gaussian noise of deviation 0.1."""
    images, labels = pictures(0, count, seed=0, split="heldout")
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return {
        "heldout_accuracy": accuracy(judge, images, labels),
        "noisy_accuracy": accuracy(judge, images + noise, labels),
    }


def save_judge(path: str | os.PathLike[str], judge: Judge, record: dict[str, Any] | None = None) -> None:
    """Write weights (float32 safetensors) and JSON metadata; the file appears complete or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "widths": [m.out_channels for m in judge.stages if isinstance(m, torch.nn.Conv2d)],
        "class_names": list(CLASS_NAMES),
        **(record or {}),
    }
    tensors = {name: value.detach().float().contiguous() for name, value in judge.state_dict().items()}
    with replacing(target) as temporary:
        save_file(tensors, temporary, metadata={"sparsedit": json.dumps(header)})


def load_judge(path: str | os.PathLike[str] | None = None) -> tuple[Judge, dict[str, Any]]:
    """The judge in eval mode and its metadata; without a path the one that comes with the package.

    Raises FileNotFoundError when there is no such file and ValueError when it is not a judge of ours.
    """
    source = Path(path) if path is not None else BUNDLED_JUDGE
    if not source.is_file():
        raise FileNotFoundError(f"no classifier at {source}; make one with: sparsedit train --classifier {source}")
    try:
        with safe_open(source, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("sparsedit", "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not a readable classifier file ({error}); train a new one") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
        found = header.get("format") if isinstance(header, dict) else header
        raise ValueError(f"{source} is {found!r}, expected {FORMAT!r} version {VERSION}; train a new classifier")
    try:
        judge = Judge(tuple(header["widths"]), len(header["class_names"]))
        judge.load_state_dict(state)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{source} does not hold the weights its header tells of ({reason}); train a new one"
        ) from error
    return judge.eval(), header


def _new_judge(seed: int) -> Judge:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Judge()


def _train_step(
    judge: Judge,
    optimizer: torch.optim.Optimizer,
    step: int,
    batch: int,
    seed: int,
    generator: torch.Generator,
) -> float:
    images, labels = pictures(step * batch, batch, seed=seed)
    value = loss(judge, noisy(images, generator), labels)
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(value.detach())


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _follow(average: Judge, judge: Judge, step: int) -> None:
    """Exponential moving average whose span grows with the steps done, so that short runs work too."""
    weight = max(1 / AVERAGE_SPAN, 1 / (1 + step / 4))
    for kept, new in zip(average.parameters(), judge.parameters(), strict=True):
        kept.lerp_(new, weight)
