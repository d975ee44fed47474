"""fp16's gradient scaler, tried on the CPU, for which accelerate has none: what it skips, and that a state holds it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from train_runs import MemorySource, options, same, tiny_run, train

from sparsedit_core.train import engine
from sparsedit_core.train.run import Run


@contextmanager
def scaling(*_: Any) -> Iterator[Any]:
    """An Accelerator as it is for fp16 on a GPU, computing on the CPU."""
    accelerator = accelerate.Accelerator(mixed_precision="fp16", cpu=True)
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    try:
        yield accelerator
    finally:
        accelerate.state.AcceleratorState._reset_state()


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "accelerator_for", scaling)


def go(out: Path, *, resume: bool = False, watchers: Any = ()) -> Path:
    settings = options(precision="fp16")
    train(tiny_run(), out, MemorySource(), settings, resume=resume, cpu=True, watchers=watchers)
    return out


def facts(out: Path, step: int) -> dict[str, Any]:
    return json.loads((out.with_suffix(".state") / f"step-{step:08d}.json").read_text())["facts"]


class Norms:
    """Notes the norms of the gradients."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def resumed(self, step: int) -> None:
        """Nothing."""

    def step(self, progress: Any, averaged: object) -> None:
        """One norm."""
        self.seen.append(progress.grad_norm)

    def saved(self, progress: Any) -> None:
        """Nothing."""


def test_a_state_holds_the_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms, original = Norms(), Run._step
    whole = go(tmp_path / "whole.safetensors", watchers=[norms])
    assert facts(whole, 10)["scaler"]["scale"] == 2.0**13  # doubled after every three good steps
    assert all(0.1 < norm < 100 for norm in norms.seen)  # of the gradients themselves, the scale taken out

    def step(run: Run, number: int, *rest: Any) -> Any:
        if number == 7:
            raise RuntimeError("power cut")
        return original(run, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_step", step)
        with pytest.raises(RuntimeError, match="power cut"):
            go(tmp_path / "x.safetensors")
    assert same(go(tmp_path / "x.safetensors", resume=True), whole)
    assert facts(tmp_path / "x.safetensors", 10)["scaler"] == facts(whole, 10)["scaler"]


class Overflow(torch.autograd.Function):
    """Zero, with an infinite gradient."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return weight.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return torch.full_like(ctx.saved_tensors[0], float("inf"))


def test_an_overflowing_step_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, follow = Run._loss, Run._follow
    followed: list[int] = []
    count: list[int] = []

    def fifth_overflows(run: Run, batch: Any) -> Any:
        count.append(1)
        value = loss(run, batch)
        return value + Overflow.apply(run.weights[0]) if len(count) == 5 else value  # type: ignore[no-untyped-call]

    def noted(run: Run, step: int) -> None:
        followed.append(step)
        follow(run, step)

    monkeypatch.setattr(Run, "_loss", fifth_overflows)
    monkeypatch.setattr(Run, "_follow", noted)
    norms = Norms()
    out = go(tmp_path / "x.safetensors", watchers=[norms])
    assert followed == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert norms.seen[4] == float("inf")
    assert facts(out, 10)["scaler"]["scale"] == 2.0**11  # doubled, halved, doubled
