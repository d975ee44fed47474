"""Packagings, facts from keywords, args and config.json, and the error that lists keys."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import forward, same, save, small_model
from golden_files import golden
from safetensors.torch import save_file

from sparsedit_core import DiTConfig, SegmentLayout
from sparsedit_core.checkpoint import (
    CheckpointError,
    Latent,
    flat_to_diffusers,
    flat_to_sparsedit,
    load_checkpoint,
    read_checkpoint,
)
from sparsedit_core.checkpoint.shapes import flat_shapes

LAYOUT = "1+1x[1,2,1,1]+2"
HEADS = {"num_heads": 4}


def official(model: Any) -> dict[str, torch.Tensor]:
    """The model's official SparseDiT state dict."""
    return flat_to_sparsedit(model.state_dict(), model.layout)


def load_error(path: Path, **keywords: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, **keywords)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_ema_wins_and_args_are_read(legacy: bool, tmp_path: Path) -> None:
    raw, average = small_model(LAYOUT, seed=1), small_model(LAYOUT, seed=2)
    args = argparse.Namespace(
        model="DiT-XL/2", num_heads=4, semantic_size=2, num_classes=10, attn_relat_pos=None, depth=8
    )
    content = {"model": official(raw), "ema": official(average), "opt": {"state": {}}, "args": args}
    loaded = load_checkpoint(save(tmp_path / "model.pt", content, legacy=legacy))
    assert same(loaded.model.state_dict(), average.state_dict())
    assert (loaded.format, loaded.family, str(loaded.layout)) == ("sparsedit", "dit", LAYOUT)
    assert (loaded.config.sparse_side, loaded.config.num_heads) == (2, 4)
    assert (loaded.schedule, loaded.prediction, loaded.latent) == (None, "eps", Latent())
    assert not loaded.model.training
    assert not loaded.model.pos_embed.requires_grad


@pytest.mark.parametrize(
    ("entries", "wins"),
    [
        (("state_dict", "model", "state_dict_ema", "ema"), "ema"),
        (("state_dict", "model", "state_dict_ema"), "state_dict_ema"),
        (("state_dict", "model"), "model"),
        (("state_dict",), "state_dict"),
    ],
)
def test_which_entry_wins(entries: tuple[str, ...], wins: str, tmp_path: Path) -> None:
    models = {name: small_model(seed=i) for i, name in enumerate(entries)}
    content: dict[str, Any] = {name: model.state_dict() for name, model in models.items()}
    content |= {"epoch": 3} | ({} if "ema" in entries else {"ema": None})
    found = read_checkpoint(save(tmp_path / "model.pt", content), **HEADS)
    assert same(found.state, models[wins].state_dict())


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "model.diffusion_model.", "diffusion_model."]
)
def test_prefixes(prefix: str, tmp_path: Path) -> None:
    model = small_model()
    state = {prefix + key: value for key, value in model.state_dict().items()}
    if prefix.startswith("model."):
        state["first_stage_model.decoder.conv_in.weight"] = torch.zeros(1)
    assert same(read_checkpoint(save(tmp_path / "model.pt", state), **HEADS).state, model.state_dict())


def test_colliding_keys(tmp_path: Path) -> None:
    state = dict(small_model().state_dict())
    state["module.pos_embed"] = state["pos_embed"]
    assert "both called pos_embed" in load_error(save(tmp_path / "model.pt", state), **HEADS)


@pytest.mark.parametrize(("hidden", "heads"), [(1152, 16), (1024, 16), (768, 12), (384, 6)])
def test_heads_of_the_known_widths(hidden: int, heads: int, tmp_path: Path) -> None:
    config = DiTConfig(input_size=(4, 4), hidden_size=hidden, depth=1, num_heads=heads, mlp_ratio=0.25)
    state = {key: torch.zeros(shape, dtype=torch.float8_e4m3fn) for key, shape in flat_shapes(config).items()}
    found = read_checkpoint(save(tmp_path / "model.pt", state))
    assert found.config == config
    assert found.state["blocks.0.mlp.fc1.weight"].dtype == torch.float8_e4m3fn
    assert found.state["pos_embed"].dtype == torch.float32


def test_heads_of_other_widths_must_be_given(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", small_model().state_dict())
    assert "give num_heads=" in load_error(path)
    assert "does not divide" in load_error(path, num_heads=5)
    named = save(
        tmp_path / "named.pt", {"ema": small_model().state_dict(), "args": argparse.Namespace(model="DiT-XL/2")}
    )
    assert read_checkpoint(named).config.num_heads == 16


def test_sparse_side(tmp_path: Path) -> None:
    small, large = small_model(LAYOUT), small_model(LAYOUT, input_size=(32, 32))
    path = save(tmp_path / "large.pt", official(large))
    assert read_checkpoint(path, **HEADS).config.sparse_side == 8
    assert read_checkpoint(path, sparse_side=5, **HEADS).config.sparse_side == 5
    with_args = save(tmp_path / "args.pt", {"ema": official(large), "args": argparse.Namespace(semantic_size=4)})
    assert read_checkpoint(with_args, **HEADS).config.sparse_side == 4
    assert read_checkpoint(with_args, sparse_side=6, **HEADS).config.sparse_side == 6
    tiny = save(tmp_path / "tiny.pt", official(small_model(LAYOUT, input_size=(8, 8))))
    assert "give the side" in load_error(tiny, **HEADS)
    assert torch.equal(
        forward(load_checkpoint(save(tmp_path / "small.pt", official(small)), sparse_side=4, **HEADS).model),
        forward(small),
    )


@pytest.mark.parametrize(
    ("rows", "wanted", "expected"),
    [
        (11, None, (10, True)),
        (1000, None, (1000, False)),
        (1001, None, (1000, True)),
        (11, 11, (11, False)),
        (11, 10, (10, True)),
    ],
)
def test_null_row(rows: int, wanted: int | None, expected: tuple[int, bool], tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", small_model(num_classes=rows, null_class=False).state_dict())
    config = read_checkpoint(path, num_classes=wanted, **HEADS).config
    assert (config.num_classes, config.null_class) == expected


def test_number_of_classes_that_does_not_fit(tmp_path: Path) -> None:
    path = save(
        tmp_path / "model.pt", {"ema": small_model().state_dict(), "args": argparse.Namespace(num_classes=1000)}
    )
    assert "correct num_classes=" in load_error(path, **HEADS)
    assert read_checkpoint(path, num_classes=10, **HEADS).config.num_classes == 10


def test_depth_and_relative_positions_of_the_args(tmp_path: Path) -> None:
    state = official(small_model(LAYOUT))
    deep = save(tmp_path / "deep.pt", {"ema": state, "args": argparse.Namespace(depth=28)})
    assert "depth 28 but the file has 8 blocks" in load_error(deep, sparse_side=4, **HEADS)
    relative = save(tmp_path / "relative.pt", {"ema": state, "args": argparse.Namespace(attn_relat_pos="sin")})
    assert "attn_relat_pos='sin'" in load_error(relative, sparse_side=4, **HEADS)


def test_sizes_are_inferred(tmp_path: Path) -> None:
    changes = {"patch_size": 4, "in_channels": 3, "learn_sigma": False, "input_size": (24, 24), "mlp_ratio": 1.7}
    model = small_model(**changes)
    loaded = load_checkpoint(save(tmp_path / "model.pt", model.state_dict()), **HEADS)
    assert loaded.config.mlp_hidden == model.config.mlp_hidden
    for name in set(changes) - {"mlp_ratio"}:
        assert getattr(loaded.config, name) == changes[name]
    assert loaded.latent == Latent(3, 1.0, 1, "pixel")
    assert torch.equal(forward(loaded.model), forward(model))


def test_a_position_table_that_is_not_square(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", small_model(input_size=(8, 12)).state_dict())
    assert "give base_size=" in load_error(path, **HEADS)
    assert read_checkpoint(path, base_size=(4, 6), **HEADS).config.input_size == (8, 12)
    assert "give base_size=" in load_error(path, base_size=4, **HEADS)


def test_missing_unexpected_and_misshapen_keys_in_one_error(tmp_path: Path) -> None:
    model = small_model(LAYOUT)
    state: dict[str, Any] = official(model)
    for key in [key for key in state if key.startswith("dumbbell_blocks.0.semantic_blocks.0.")]:
        del state[key]
    state |= {"surplus": torch.zeros(1), "number": 3}
    state["normal_blocks.1.attn.qkv.weight"] = torch.zeros(2, 2)
    state["final_layer.linear.bias"] = torch.zeros(32, dtype=torch.int64)
    message = load_error(save(tmp_path / "model.pt", state), sparse_side=4, **HEADS)
    for words in (
        "10 missing: dumbbell_blocks.0.semantic_blocks.0.attn.qkv.weight",
        "2 unexpected: surplus, number",
        "2 misshapen",
        "normal_blocks.1.attn.qkv.weight is (2, 2), expected (96, 32)",
        "final_layer.linear.bias is (32,) of torch.int64",
    ):
        assert words in message


def test_only_ten_keys_are_listed(tmp_path: Path) -> None:
    state = {
        key: value for key, value in small_model().state_dict().items() if not key.startswith(("blocks.0", "t_emb"))
    }
    message = load_error(save(tmp_path / "model.pt", state), **HEADS)
    assert "14 missing" in message
    assert message.endswith("and 4 more")


@pytest.mark.parametrize("key", ["x_embedder.proj.weight", "y_embedder.embedding_table.weight", "pos_embed"])
def test_tensors_that_sizes_are_read_off(key: str, tmp_path: Path) -> None:
    state = dict(small_model().state_dict())
    path = save(tmp_path / "flat.pt", state | {key: torch.zeros(3)})
    assert key in load_error(path, **HEADS)
    del state[key]
    assert f"1 missing: {key}" in load_error(save(tmp_path / "model.pt", state), **HEADS)


def test_dtype_casts_all_but_the_position_table(tmp_path: Path) -> None:
    model = small_model()
    path = save(tmp_path / "model.pt", model.state_dict())
    state = read_checkpoint(path, dtype=torch.bfloat16, **HEADS).state
    assert {value.dtype for key, value in state.items() if key != "pos_embed"} == {torch.bfloat16}
    assert torch.equal(state["pos_embed"], model.pos_embed)
    assert "floating type" in load_error(path, dtype=torch.int8, **HEADS)


def test_position_scale_is_for_pixart(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", golden("dit_c_nodropout_table").state)
    assert "position_scale belongs to PixArt" in load_error(path, position_scale=2.0)


def write_diffusers(folder: Path, model: Any, **config: Any) -> Path:
    """A diffusers folder: weights and, if there are entries, a config.json."""
    flat = {key: value for key, value in model.state_dict().items() if key != "pos_embed"}
    save_file({key: value.clone() for key, value in flat_to_diffusers(flat).items()}, folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(
            json.dumps({"_class_name": "Transformer2DModel", **config}), encoding="utf-8"
        )
    return folder / "model.safetensors"


def test_diffusers_with_its_config(tmp_path: Path) -> None:
    model = small_model()
    facts = {"num_attention_heads": 4, "attention_head_dim": 8, "sample_size": 16, "patch_size": 2}
    loaded = load_checkpoint(write_diffusers(tmp_path, model, **facts, num_embeds_ada_norm=10))
    assert loaded.config == model.config.__class__(**{**vars(model.config), "sparse_side": 8})
    assert torch.equal(forward(loaded.model), forward(model))


def test_diffusers_without_its_config(tmp_path: Path) -> None:
    path = write_diffusers(tmp_path, small_model())
    assert "give num_heads=" in load_error(path)
    assert read_checkpoint(path, **HEADS).config.grid == (16, 16)
    assert read_checkpoint(path, base_size=8, **HEADS).config.grid == (8, 8)


def test_a_config_of_another_model(tmp_path: Path) -> None:
    path = write_diffusers(tmp_path, small_model(), num_attention_heads=16, attention_head_dim=72)
    assert "width 16 x 72" in load_error(path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert "repair or remove it" in load_error(path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}', encoding="utf-8")
    assert read_checkpoint(path, **HEADS).format == "diffusers_dit"


def test_diffusers_missing_projection(tmp_path: Path) -> None:
    flat = {key: value for key, value in small_model().state_dict().items() if key != "pos_embed"}
    state = flat_to_diffusers(flat)
    del state["transformer_blocks.1.attn1.to_k.weight"]
    state["transformer_blocks.0.attn1.to_q.weight"] = torch.zeros(2, 32)
    message = load_error(save(tmp_path / "model.bin", state), **HEADS)
    assert "1 missing: transformer_blocks.1.attn1.to_k.weight" in message
    assert "transformer_blocks.0.attn1.to_q.weight is (2, 32), expected (32, 32)" in message


def test_flat_sparse_keys_without_metadata(tmp_path: Path) -> None:
    model = small_model(LAYOUT)
    state = {f"diffusion_model.{key}": value for key, value in model.state_dict().items()}
    loaded = load_checkpoint(save(tmp_path / "model.pt", state), sparse_side=4, **HEADS)
    assert loaded.format == "sparsedit_core"
    assert loaded.layout == SegmentLayout.parse(LAYOUT)
    assert torch.equal(forward(loaded.model), forward(model))
