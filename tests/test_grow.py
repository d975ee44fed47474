"""Growing: the new model is the old one seen through boxes of pixels or with idle blocks; what cannot is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_models import LAYOUT, Cli, save_latents, save_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import config, inputs, random_model
from torch.nn.functional import avg_pool2d

import sparsedit_core as sd
from sparsedit_core.checkpoint import Latent, Loaded
from sparsedit_core.grow import grow_depth, grow_patches


def small(patch: int) -> Loaded:
    model = random_model(config(in_channels=3, learn_sigma=False, patch_size=patch))
    return Loaded(config=model.config, model=model, prediction="flow", latent=Latent(3, 1.0, 1, "pixel"))


@given(st.integers(2, 3), st.sampled_from([1, 2, 4]))
@settings(max_examples=6, deadline=None)
def test_the_grown_model_is_the_old_one_on_the_mean_of_every_box(factor: int, patch: int) -> None:
    old = small(patch)
    new = grow_patches(old, factor)
    assert new.config.grid == old.config.grid
    assert new.latent.scale == old.latent.scale / factor
    x, t, y = inputs(new.config)
    with torch.no_grad():
        expected = old.model(factor * avg_pool2d(x, factor), t, y) / factor
        found = new.model(x, t, y)
    expected = expected.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_old_model_is_left_alone() -> None:
    old = small(2)
    before = {key: value.clone() for key, value in old.model.state_dict().items()}
    for parameter in grow_patches(old).model.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[key]) for key, value in old.model.state_dict().items())
    assert not old.model.pos_embed.requires_grad


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cli, source, out = Cli(capsys), save_pixels(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    cli.works("convert", source, out, "--grow", 2)
    old, new = sd.load_checkpoint(source), sd.load_checkpoint(out)
    assert new.config.input_size == (128, 128)
    assert (new.latent.scale, new.class_names) == (old.latent.scale / 2, old.class_names)
    sparse = save_pixels(tmp_path / "sparse.safetensors", LAYOUT)
    assert "this one is sparse" in cli.refuses("convert", sparse, out, "--grow", 2)
    latents = save_latents(tmp_path / "latents.safetensors")
    assert "predicts eps" in cli.refuses("convert", latents, out, "--grow", 2)
    assert "at least 2" in cli.refuses("convert", source, out, "--grow", 1)


@given(st.integers(1, 4), st.integers(1, 9))
@settings(max_examples=8, deadline=None)
def test_new_blocks_change_nothing_and_can_learn(depth: int, more: int) -> None:
    model = random_model(config(depth=depth))
    old = Loaded(config=model.config, model=model)
    new = grow_depth(old, depth + more)
    assert (new.config.depth, len(new.model.blocks)) == (depth + more, depth + more)
    x, t, y = inputs(model.config)
    with torch.no_grad():
        torch.testing.assert_close(new.model(x, t, y), model(x, t, y), rtol=1e-5, atol=1e-5)
    new.model.train()(x, t, y).square().mean().backward()
    for block in new.model.blocks:
        gate = block.adaLN_modulation[1].weight.grad.chunk(6)[2]
        assert gate.any()


def test_depth_that_cannot_grow() -> None:
    sparse = random_model(config("0+1x[1,1,1,0]+0"))
    with pytest.raises(ValueError, match="asked for 9, the model is dit, 3 blocks, 0"):
        grow_depth(Loaded(config=sparse.config, model=sparse), 9)
    dense = random_model(config())
    with pytest.raises(ValueError, match="asked for 3, the model is dit, 3 blocks, dense"):
        grow_depth(Loaded(config=dense.config, model=dense), 3)


def test_deepen_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli, source, out = Cli(capsys), save_pixels(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    depth = sd.load_checkpoint(source).config.depth
    cli.works("convert", source, out, "--deepen", depth + 2)
    assert sd.load_checkpoint(out).config.depth == depth + 2
    assert f"asked for {depth}" in cli.refuses("convert", source, out, "--deepen", depth)
