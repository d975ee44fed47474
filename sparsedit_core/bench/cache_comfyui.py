"""Core ComfyUI's EasyCache and LazyCache beside our ways: the same noise, through core's own nodes and sampler.

They run in ComfyUI's own Python (:mod:`.cache_worker`) and are compared with dense sampling in the same process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..conditions import Captions
from ..metrics import psnr
from ..train.evaluation import Jury, PictureSet
from .cache import DENSE, FEW, Part, Progress, Row, Tally, Way
from .cache_worker import PROGRESS
from .comfyui import own_pythons

PACK = Path(__file__).resolve().parents[2]
LIMIT = 40.0
"""dB that core's dense pictures must be near ours, at least."""
_TAIL = 3  # lines of an error that are told


@dataclass(frozen=True)
class CoreRuns:
    """What came back: ComfyUI's version, its rows, how near its dense pictures are to ours in dB, by steps."""

    version: str
    rows: list[Row]
    near: dict[int, float]


def core_runs(
    root: Path,
    model: tuple[str, Path],
    parts: Sequence[Part],
    tuning: Part,
    every: Sequence[int],
    budgets: Sequence[float],
    ours: dict[int, Tensor],
    jury: Jury,
    real: PictureSet,
    *,
    cpu: bool = True,
    progress: Progress = lambda _: None,
) -> CoreRuns:
    """Run both caches on a model (name, file) in the ComfyUI of ``root``, for all steps and budgets.

    ``ours`` are our dense pictures of the first part by steps. ``ValueError`` where ComfyUI or the pack cannot run, or
    draws something else.
    """
    if not (PACK / "nodes").is_dir() or not (PACK / "__init__.py").is_file():
        raise ValueError("the pack's nodes are not beside its core, so ComfyUI cannot load the model")
    name, path = model
    with tempfile.TemporaryDirectory(prefix="sparsedit-bench-") as scratch:
        folder = Path(scratch)
        request = {
            "model": str(path.resolve()), "cpu": cpu, "threads": torch.get_num_threads() if cpu else 0,
            "steps": list(every), "budgets": list(budgets), "parts": len(parts),
        }  # fmt: skip
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        named = {"tuning": Part(tuning.noise[:FEW], tuning.conditions[:FEW])}
        named |= {str(number): part for number, part in enumerate(parts)}
        save_file({key: value for each, part in named.items() for key, value in _tensors(each, part).items()},
                  folder / "tensors.safetensors")  # fmt: skip
        _run(root, folder, progress)
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        rows: list[Row] = []
        near: dict[int, float] = {}
        for steps in every:
            accounts = [account for account in result["runs"] if account["steps"] == steps]
            found, near[steps] = _rows(name, folder, accounts, parts, ours[steps], jury, real)
            rows += found
    return CoreRuns(result["version"], rows, near)


def _rows(
    name: str, folder: Path, accounts: Sequence[dict[str, Any]], parts: Sequence[Part], ours: Tensor, jury: Jury,
    real: PictureSet,
) -> tuple[list[Row], float]:
    """The rows of one number of steps, and how near the first part of core's dense pictures is to ours."""
    dense, steps = load_file(folder / accounts[0]["images"]), accounts[0]["steps"]
    near = float(psnr(dense["0"], ours).mean())
    if not near >= LIMIT:
        raise ValueError(
            f"ComfyUI's dense pictures of {name} are {near:.1f} dB from ours on the same noise, expected {LIMIT:g} at "
            "least; they cannot be compared"
        )
    tallies = []
    for account in accounts:
        images = load_file(folder / account["images"])
        tally = Tally(PictureSet(jury), seconds=account["seconds"], processor=account["processor"])
        for number, part in enumerate(parts):
            tally.macs.append(float(account["evaluated"][number] * len(part.noise)))
            tally.score(images[str(number)], dense[str(number)], part.shown)
        tallies.append(tally)
    assert accounts[0]["method"] == DENSE
    return [
        tally.row(name, steps, _way(account), tallies[0], real)
        for account, tally in zip(accounts[1:], tallies[1:], strict=True)
    ], near


def _way(account: dict[str, Any]) -> Way:
    return Way(account["method"], f"below {account['threshold']:.3g}", account["steps"], None, account["budget"])


def _tensors(name: str, part: Part) -> dict[str, Tensor]:
    """A part as the worker reads it."""
    tensors = {f"{name}.noise": part.noise}
    if isinstance(part.conditions, Captions):
        return tensors | {f"{name}.features": part.conditions.features, f"{name}.mask": part.conditions.mask}
    return tensors | {f"{name}.labels": part.conditions}


def _run(root: Path, folder: Path, progress: Progress) -> None:
    """Run the worker in ComfyUI's Python; ``ValueError`` with its last words where it fails."""
    own = own_pythons(root)
    command = [str(own[0]) if own else sys.executable, str(Path(__file__).with_name("cache_worker.py"))]
    with (folder / "errors.txt").open("w+", encoding="utf-8") as errors:
        worker = subprocess.Popen(
            [*command, str(root.resolve()), str(PACK), str(folder)],
            stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8", errors="replace", cwd=folder,
        )  # fmt: skip
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                if line.startswith(PROGRESS):
                    progress(f"ComfyUI: {line.removeprefix(PROGRESS).strip()}")
            code = worker.wait()
        finally:
            worker.kill()
            worker.wait()
        if code:
            errors.seek(0)
            words = " ".join(line.strip() for line in errors.read().splitlines()[-_TAIL:])
            raise ValueError(f"the ComfyUI in {root} could not run it ({words or f'exit status {code}'})")
