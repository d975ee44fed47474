"""Tiny models, a way to call the command line in this process, and a stand-in for the bundled models."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import small_model

from sparsedit_core import DiT, PruningSchedule, save_checkpoint
from sparsedit_core.checkpoint import Latent
from sparsedit_core.cli import main
from sparsedit_core.train.pictures import CLASS_NAMES

LAYOUT = "1+1x[1,1,1,0]+1"
SCHEDULE = PruningSchedule(rate_noise=0.9, rate_clean=0.5, levels=None)
PIXELS: dict[str, Any] = {
    "input_size": (64, 64),
    "patch_size": 8,
    "in_channels": 3,
    "hidden_size": 16,
    "num_heads": 2,
    "depth": 5,
    "learn_sigma": False,
}


@dataclass
class Result:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


class Cli:
    """Calls ``main`` and captures what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: Any) -> Result:
        self.capsys.readouterr()
        code = main([str(word) for word in words])
        found = self.capsys.readouterr()
        return Result(code, found.out, found.err)

    def works(self, *words: Any) -> Result:
        """A call that must succeed."""
        result = self(*words)
        assert result.code == 0, result.err
        return result

    def refuses(self, *words: Any) -> str:
        """A call that must end with code 2, no output and one sentence, which is given back."""
        result = self(*words)
        assert (result.code, result.out) == (2, ""), result
        lines = result.err.strip().splitlines()
        assert len(lines) == 1, result.err
        assert lines[0].startswith("sparsedit")
        assert "error: " in lines[0]
        assert "Traceback" not in result.err
        return lines[0]


@contextmanager
def keyboard() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background and inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def pixel_model(layout: str | None = None, seed: int = 0) -> DiT:
    """A model of the procedural pictures: 64 x 64, 8 x 8 tokens, five blocks."""
    return small_model(layout, seed, **PIXELS)


def save_pixels(path: Path, layout: str | None = None, seed: int = 0) -> Path:
    """Its file; a sparse one with its schedule."""
    schedule = None if layout is None else SCHEDULE
    latent = Latent(3, 0.5, 1, "pixel")
    model = pixel_model(layout, seed)
    save_checkpoint(path, model, schedule=schedule, prediction="flow", latent=latent, class_names=CLASS_NAMES)
    return path


def save_latents(path: Path, layout: str | None = None, seed: int = 0) -> Path:
    """A noise-predicting model of 4-channel latents with learned variance."""
    save_checkpoint(path, small_model(layout, seed))
    return path


def save_original(path: Path) -> Path:
    """The same as the original project's own file."""
    torch.save(small_model().state_dict(), path)
    return path
