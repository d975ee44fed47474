"""Muon for the matrices of the blocks: whose weights, what a step does to them, and that a run goes on with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from train_runs import MemorySource, options, same, tiny_model, tiny_run, train

from sparsedit_core.train.optim import MuonAdamW, optimizer_of

RATE = 1e-2
MUON = options(optimizer="muon", decay=0.0, learning_rate=RATE, weight_decay=0.0)


def muon_groups() -> tuple[torch.nn.Module, MuonAdamW]:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip(f"torch {torch.__version__} has no Muon")
    model = tiny_model()
    optimizer = optimizer_of(model, MUON)
    assert isinstance(optimizer, MuonAdamW)
    return model, optimizer


def test_every_trained_weight_is_moved_by_one_of_the_two() -> None:
    model, optimizer = muon_groups()
    names = {id(value): name for name, value in model.named_parameters()}
    matrices, others = ({names[id(value)] for value in group["params"]} for group in optimizer.param_groups)
    assert not matrices & others
    assert matrices | others == {name for name, value in model.named_parameters() if value.requires_grad}
    assert {"blocks.0.mlp.fc1.weight", "blocks.3.attn.kv.weight", "blocks.3.merged_layer2.weight"} <= matrices
    assert {"blocks.0.mlp.fc1.bias", "x_embedder.proj.weight", "final_layer.linear.weight"} <= others
    assert all(name.startswith("blocks.") for name in matrices)


def test_the_first_step_of_a_matrix_is_nearly_orthogonal_and_of_adamws_size() -> None:
    """Singular values near 1 after the scale is taken off; AdamW's first step moves every value by the rate."""
    model, optimizer = muon_groups()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(3)
    for value in model.parameters():
        value.grad = torch.randn(value.shape, generator=generator)
    optimizer.step()
    weight = dict(model.named_parameters())["blocks.2.mlp.fc1.weight"]
    moved = (weight.detach() - before["blocks.2.mlp.fc1.weight"]) / RATE
    singular = torch.linalg.svdvals(moved) / (0.2 * math.sqrt(max(moved.shape)))
    assert 0.6 < float(singular.min()) <= float(singular.max()) < 1.3
    assert 0.1 < float(moved.square().mean().sqrt()) < 0.3  # AdamW's is 0.2 to 0.4 while it trains
    bias = dict(model.named_parameters())["blocks.2.mlp.fc1.bias"]
    torch.testing.assert_close((bias.detach() - before["blocks.2.mlp.fc1.bias"]).abs(), torch.full_like(bias, RATE))


def test_a_rate_of_the_run_reaches_both_before_and_after_loading() -> None:
    model, optimizer = muon_groups()
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert {"momentum_buffer", "exp_avg"} <= {name for entry in optimizer.state.values() for name in entry}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [value.detach().clone() for value in model.parameters()]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_run_with_muon_goes_on_bit_for_bit(tmp_path: Path) -> None:
    muon_groups()
    whole, parts, adamw = (tmp_path / f"{name}.safetensors" for name in ("whole", "parts", "adamw"))
    train(tiny_run(), whole, MemorySource(), MUON, cpu=True)
    train(tiny_run(), parts, MemorySource(), replace(MUON, pictures=16), cpu=True)
    train(tiny_run(), parts, MemorySource(), MUON, cpu=True, resume=True)
    train(tiny_run(), adamw, MemorySource(), replace(MUON, optimizer="adamw"), cpu=True)
    assert same(whole, parts)
    assert not same(whole, adamw)


def test_an_older_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match=r"optimizer=muon needs torch 2.9 or newer, this is .*; use adamw"):
        optimizer_of(tiny_model(), MUON)
    with pytest.raises(ValueError, match="optimizer='sgd' is unknown; choose adamw, muon"):
        options(optimizer="sgd")
