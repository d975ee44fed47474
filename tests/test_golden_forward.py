"""Forward passes of the original projects' fixtures, each through a file and load_checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import FORWARD_TOLERANCE, Golden, assert_close, golden
from safetensors.torch import save_file

from sparsedit_core.checkpoint import CheckpointError, Loaded, load_checkpoint

DENSE = ["dit_a_d64", "dit_b_patch4_nosigma", "dit_c_nodropout_table"]
SPARSE = [
    "sparsedit_a_g1311_p2n2",
    "sparsedit_b_g1311_p1n3",
    "sparsedit_c_g1211_2db_depth12",
    "sparsedit_convert_a_p2n2_depth10",
    "sparsedit_convert_b_xl256_topology_depth28",
    "sparsedit_d_g2211",
    "sparsedit_e_xl512_topology_depth28",
    "sparsedit_f_nondivisible_grid12to8",
    "sparsedit_g_two_recover",
    "sparsedit_h_trace",
    "sparsedit_m_low_variance",
]
DIFFUSERS = "diffusers_dit_a_pair"


def load(file: Golden, state: dict[str, torch.Tensor], folder: Path, suffix: str = ".pt", **keywords: Any) -> Loaded:
    """The fixture's state dict written to a file of that kind and loaded again."""
    path = folder / f"model{len(list(folder.iterdir()))}{suffix}"  # a loaded model is its file: never write there again
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    constructor = file.meta["constructor"]
    heads = constructor.get("num_heads") or constructor["num_attention_heads"]
    return load_checkpoint(path, num_heads=heads, sparse_side=constructor.get("semantic_size"), **keywords)


def run(loaded: Loaded, file: Golden, prefix: str = "") -> torch.Tensor:
    """The model's output for the fixture's inputs."""
    with torch.no_grad():
        return loaded.model(*(file.input[prefix + name] for name in ("x", "t", "y")))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", DENSE + SPARSE)
def test_forward(name: str, suffix: str, tmp_path: Path) -> None:
    file = golden(name)
    loaded = load(file, file.state, tmp_path, suffix, num_classes=file.meta["constructor"]["num_classes"])
    assert loaded.format == ("dit" if name in DENSE else "sparsedit")
    assert loaded.config.null_class == (file.meta["constructor"].get("class_dropout_prob", 0.1) > 0)
    assert_close(run(loaded, file), file.output["out"], FORWARD_TOLERANCE, name)


@pytest.mark.parametrize("name", [name for name in SPARSE if "convert" in name])
def test_forward_of_the_dense_model_behind_a_conversion(name: str, tmp_path: Path) -> None:
    file = golden(name)
    loaded = load(file, file.dense, tmp_path)
    assert loaded.layout is None
    assert_close(run(loaded, file), file.output["dense_out"], FORWARD_TOLERANCE, name)


@pytest.mark.parametrize("name", ["dit_a_d64", "sparsedit_a_g1311_p2n2"])
def test_guidance_on_three_channels(name: str, tmp_path: Path) -> None:
    file = golden(name)
    out = run(load(file, file.state, tmp_path), file, "cfg_")
    conditional, unconditional = out[:, :3].chunk(2)
    guided = unconditional + file.input["cfg_scale"] * (conditional - unconditional)
    out = torch.cat([torch.cat([guided, guided]), out[:, 3:]], dim=1)
    assert_close(out, file.output["cfg_out"], FORWARD_TOLERANCE, name)


def test_training_loss_model_output(tmp_path: Path) -> None:
    file = golden("sparsedit_l_training_loss")
    loaded = load(file, file.state, tmp_path)
    with torch.no_grad():
        out = loaded.model(file.output["sparsedit/x_t"], file.input["t"], file.input["y"])
    assert_close(out, file.output["model_out"], FORWARD_TOLERANCE)


@pytest.mark.parametrize("name", ["dit_d_sampling10", "sparsedit_k_sampling10"])
def test_sampling_fixtures_load(name: str, tmp_path: Path) -> None:
    file = golden(name)
    assert load(file, file.state, tmp_path).model.config.grid == (4, 4)


def test_trace_of_every_block(tmp_path: Path) -> None:
    file = golden("sparsedit_h_trace")
    model = load(file, file.state, tmp_path).model
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
    with torch.no_grad():
        model(*(file.input[name] for name in ("x", "t", "y")))
    ours = {official: f"blocks.{i}" for i, official in enumerate(file.meta["module_order"])}
    compared = 0
    for number, official in enumerate(file.meta["trace_order"]):
        if official == "down_sample" or "merged_layer" in official:
            continue  # no module of ours: matrices, and W1 before the upsampling that it commutes with
        reference = file.output[f"trace/{number:02d}.{official}"]
        assert_close(seen[ours.get(official, official)], reference, FORWARD_TOLERANCE, official)
        compared += 1
    assert compared == 12


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize(
    ("semantics", "reference"), [(None, "out_original_semantics"), ("diffusers", "out_diffusers_class")]
)
def test_diffusers(suffix: str, semantics: Any, reference: str, tmp_path: Path) -> None:
    file = golden(DIFFUSERS)
    loaded = load(file, file.state, tmp_path, suffix, semantics=semantics, base_size=8)
    assert loaded.format == "diffusers_dit"
    assert_close(run(loaded, file), file.output[reference], FORWARD_TOLERANCE)


def test_diffusers_and_original_weights_are_the_same_model(tmp_path: Path) -> None:
    file = golden(DIFFUSERS)
    ours = load(file, file.state, tmp_path, base_size=8).model.state_dict()
    original = load(file, file.original, tmp_path).model.state_dict()
    assert ours.keys() == original.keys()
    assert all(torch.equal(ours[key], original[key]) for key in ours)


@pytest.mark.parametrize(("name", "kind"), [("i_optional_relat", "relat"), ("j_optional_sin", "sin")])
def test_training_args_tell_of_relative_positions(name: str, kind: str, tmp_path: Path) -> None:
    content = {"ema": golden(f"sparsedit_{name}").state, "args": argparse.Namespace(num_heads=4, attn_relat_pos=kind)}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=f"attn_relat_pos='{kind}'"):
        load_checkpoint(tmp_path / "model.pt", sparse_side=4)


def test_relative_positions_are_refused(tmp_path: Path) -> None:
    file = golden("sparsedit_i_optional_relat")
    with pytest.raises(CheckpointError, match="attn_relat_pos='relat'"):
        load(file, file.state, tmp_path)
