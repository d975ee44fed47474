"""inspect and the memory of training of a PixArt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_models import Cli
from safetensors.torch import save_file
from tiny_pixart import config, inputs, random_model
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import sparsedit_core as sd
from sparsedit_core.cost import macs
from sparsedit_core.schedule import PruningSchedule
from sparsedit_core.tokens import sincos_table
from sparsedit_core.train.memory import kept_bytes, training_memory

LAYOUT = "1+1x[1,1,1,0]+1"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def original(path: Path, positions: bool = True) -> Path:
    """A file in the original layout."""
    model = random_model(config(micro_conditioning=True))
    state = dict(model.state_dict())
    if positions:
        state["pos_embed"] = sincos_table(24, (4, 4), base=(4, 4), scale=model.config.position_scale)
    save_file(state, path)
    return path


def test_inspect_tells_what_load_checkpoint_reads(cli: Cli, tmp_path: Path) -> None:
    path, schedule = tmp_path / "sparse.safetensors", PruningSchedule(0.9, 0.5)
    model = random_model(config(LAYOUT, qk_norm=True))
    sd.save_checkpoint(path, model, schedule=schedule)
    found = cli.works("inspect", path, "--json").json
    loaded = sd.load_checkpoint(path)
    assert sd.PixArtConfig.from_json(found["config"]) == loaded.config
    assert (found["family"], found["layout"], found["class_names"]) == ("pixart", LAYOUT, None)
    assert found["cost"] == json.loads(json.dumps(macs(loaded.config, (8, 8), factor=1, caption_tokens=5).to_json()))
    assert found["parameters"] == sum(value.numel() for value in model.state_dict().values())
    words = cli.works("inspect", path).out
    for expected in (
        "sparse PixArt", LAYOUT, "features of width 10, null caption of 5 tokens", "4x4 = 16",
        "interpolation 2", "rate 0.9 at noise to 0.5", "queries and keys normalised", "a caption of 5 tokens",
    ):  # fmt: skip
        assert expected in words
    assert "classes" not in words


def test_inspect_of_the_original_layout(cli: Cli, tmp_path: Path) -> None:
    path = original(tmp_path / "model.safetensors")
    assert "give --num-heads" in cli.refuses("inspect", path)
    text = cli.works("inspect", path, "--num-heads", 2).out
    assert "dense PixArt, file layout pixart" in text
    assert "picture size and aspect ratio" in text
    assert "no null caption" not in text
    assert "position table has 2" in cli.refuses("inspect", path, "--num-heads", 2, "--position-scale", 1)
    bare = original(tmp_path / "bare.safetensors", positions=False)
    words = ("inspect", bare, "--num-heads", 2, "--base-size", 4)
    assert "together" in cli.refuses(*words)
    assert cli.works(*words, "--position-scale", 0.5, "--json").json["config"]["position_scale"] == 0.5
    sd.save_checkpoint(tmp_path / "none.safetensors", random_model(config(caption_tokens=0)))
    assert "no null caption" in cli.works("inspect", tmp_path / "none.safetensors").out


def test_inspect_refuses_what_load_checkpoint_refuses(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    for damage in ("missing", "narrow", "compressed"):
        state = dict(random_model(config()).state_dict())
        if damage == "missing":
            del state["blocks.1.cross_attn.proj.bias"]
        elif damage == "narrow":
            state["t_block.1.bias"] = state["t_block.1.bias"][1:].clone()
        else:
            state["blocks.1.attn.sr.weight"] = torch.zeros(24, 1, 2, 2)
        save_file(state, path)
        with pytest.raises(sd.CheckpointError) as caught:
            sd.load_checkpoint(path, num_heads=2)
        assert str(caught.value) in cli.refuses("inspect", path, "--num-heads", 2)
    assert "num_classes" in cli.refuses("inspect", original(tmp_path / "ok.safetensors"), "--num-classes", 3)


@pytest.mark.parametrize("layout", [None, LAYOUT])
@pytest.mark.parametrize("tokens", [5, 9])
def test_memory_is_what_a_cpu_allocates(layout: str | None, tokens: int) -> None:
    """The bytes allocated in a forward pass and not freed after it, by torch's own account of its allocator."""
    wanted = config(layout, qk_norm=True)
    model = random_model(wanted)
    x, t, y, _, *_ = inputs(wanted, batch=4, tokens=tokens)
    mask = torch.ones(4, tokens, dtype=torch.bool)

    def loss() -> Tensor:
        return model(x, t, y, mask=mask).float().square().mean()

    del_me = loss()  # tables of the model's own, made at the first call
    del del_me
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = loss()
    allocated = sum(event.self_cpu_memory_usage for event in recorded.key_averages())
    found = training_memory(wanted, batch=4, caption_tokens=tokens).activations
    assert found == kept_bytes(model, loss)[0]
    assert found == allocated + x.nbytes + y.nbytes - result.nbytes  # kept, but not allocated here; the reverse


def test_cost_of_training(cli: Cli) -> None:
    words = ("cost", "PixArt-XL/2", "--size", 64, "--layout", "26+0", "--training", "--batch", 2)
    assert "28" in cli.refuses(*words)
    words = ("cost", "PixArt-XL/2", "--size", 64, "--side", 2, "--training", "--batch", 2, "--caption-tokens", 7)
    report = cli.works(*words, "--precision", "no", "--json").json["training"]
    wanted = replace(sd.MODELS["PixArt-XL/2"], input_size=(8, 8))
    assert report["dense"] == training_memory(wanted, batch=2, caption_tokens=7).to_json()
    assert report["sparse"]["activations"] < report["dense"]["activations"]
