"""PixArt, dense and sparse: against a plain second implementation, over layouts, sizes, captions and dtypes."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import relative_difference
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_pixart import PixArtOracle
from safetensors.torch import load_file, save_file
from tiny import MODULES, SPARSE_LAYOUTS, Ops
from tiny_pixart import config, inputs, random_model
from torch import nn

from sparsedit_core.backbones import is_table
from sparsedit_core.checkpoint import CheckpointError, load_checkpoint, read_checkpoint, save_checkpoint
from sparsedit_core.checkpoint.export import export_checkpoint
from sparsedit_core.convert import convert_dense
from sparsedit_core.layers import attend
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.pixart import PixArt
from sparsedit_core.tokens import sincos_table

few = settings(max_examples=20)
SIDE = st.integers(1, 4)


@few
@given(
    SPARSE_LAYOUTS,
    st.tuples(SIDE, SIDE),
    st.tuples(SIDE, SIDE),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_equals_the_plain_implementation(
    layout: SegmentLayout,
    grid: tuple[int, int],
    sparse: tuple[int, int],
    again: bool,
    micro: bool,
    norm: bool,
    masked: bool,
) -> None:
    wanted = config(layout, reinject_positions=again, micro_conditioning=micro, qk_norm=norm)
    model = random_model(wanted)
    sparse = min(sparse[0], grid[0]), min(sparse[1], grid[1])
    x, t, y, mask, size, aspect = inputs(wanted, size=(2 * grid[0], 2 * grid[1]))
    kept = mask if masked else None
    with torch.no_grad():
        found = model(x, t, y, mask=kept, size=size, aspect=aspect, sparse_grid=sparse)
        assert relative_difference(found, PixArtOracle(model)(x, t, y, kept, size, aspect, sparse)) < 2e-5


@few
@given(MODULES, st.integers(0, 2), st.tuples(SIDE, SIDE), st.booleans())
def test_identity_layout_is_the_dense_model(
    modules: tuple[tuple[int, int, int, int], ...], top: int, half: tuple[int, int], norm: bool
) -> None:
    modules = tuple((1, *counts) for _, *counts in modules)  # as for DiT: one generation block a module
    layout = SegmentLayout(0, modules, top + (not modules))
    wanted = config(depth=layout.depth, qk_norm=norm)
    dense = random_model(wanted).double()
    sparse = convert_dense(dense, layout, fusion="identity")
    x, t, y, mask, *_ = inputs(wanted, size=(2 * half[0], 2 * half[1]))
    with torch.no_grad():
        expected = dense(x.double(), t, y, mask=mask)
        found = sparse(x.double(), t, y, mask=mask, sparse_grid=half)
    assert relative_difference(found, expected) < 1e-13


@few
@given(SPARSE_LAYOUTS, st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(1, 12))
def test_any_size_and_caption_length_runs(layout: SegmentLayout, size: tuple[int, int], tokens: int) -> None:
    wanted = config(layout, micro_conditioning=True)
    model = random_model(wanted)
    x, t, y, mask, *_ = inputs(wanted, size=size, tokens=tokens)
    with torch.no_grad():
        out = model(x, t, y, mask=mask)
    assert out.shape == (2, wanted.out_channels, *size)
    assert out.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [None, "1+1x[1,2,1,1]+1", "1+1x[1,1,2,1]+0"])
def test_half_precision_is_finite_and_close(layout: str | None, dtype: torch.dtype) -> None:
    wanted = config(layout, micro_conditioning=True)
    full, half = random_model(wanted), random_model(wanted).to(dtype)
    for name, parameter in half.named_parameters():
        if is_table(name):
            parameter.data = parameter.data.float()
    x, t, y, mask, size, aspect = inputs(wanted, batch=6)
    with torch.no_grad():
        for scale in (1.0, 157.407):  # the largest input before a sampler scales it, of DiT's linear betas
            noisy = (scale * x).to(dtype)
            found = half(noisy, t, y, mask=mask, size=size, aspect=aspect)
            assert found.dtype == dtype
            assert found.isfinite().all()
            limit = 0.01 if dtype == torch.float16 else 0.08
            expected = full(noisy.float(), t, y, mask=mask, size=size, aspect=aspect)
            assert relative_difference(found, expected) < limit


def test_batch_is_independent_of_its_neighbours() -> None:
    model = random_model(config("1+2x[1,1,1,0]+1", micro_conditioning=True))
    x, t, y, mask, size, aspect = inputs(model.config, batch=3)
    with torch.no_grad():
        together = model(x, t, y, mask=mask, size=size, aspect=aspect, sparse_grid=(3, 2))
        for i in range(3):
            one = slice(i, i + 1)
            alone = model(
                x[one], t[one], y[one], mask=mask[one], size=size[one], aspect=aspect[one], sparse_grid=(3, 2)
            )
            assert relative_difference(alone, together[one]) < 1e-5


def test_conditions_of_fewer_rows_are_repeated() -> None:
    model = random_model(config("1+1x[1,1,1,1]+1", micro_conditioning=True))
    x, t, y, mask, size, aspect = inputs(model.config, batch=4)
    with torch.no_grad():
        found = model(x, t, y[:2], mask=mask[:2], size=size[:1], aspect=aspect[:1])
        twice = {"mask": mask[:2].repeat(2, 1), "size": size[:1].repeat(4, 1), "aspect": aspect[:1].repeat(4, 1)}
        assert relative_difference(found, model(x, t, y[:2].repeat(2, 1, 1), **twice)) < 1e-6
        assert torch.equal(model(x, t, y[:, None], mask=mask), model(x, t, y, mask=mask))


def test_the_pictures_own_size_is_the_default() -> None:
    model = random_model(config(micro_conditioning=True))
    x, t, y, *_ = inputs(model.config, size=(6, 8))
    with torch.no_grad():
        given = model(x, t, y, size=torch.tensor([[48, 64]] * 2), aspect=torch.tensor([[0.75]] * 2))
        assert relative_difference(model(x, t, y), given) < 1e-6
        assert relative_difference(model(x, t, y, size=torch.tensor([[64, 64]] * 2)), given) > 1e-3


def test_changing_sizes_and_grids_leaves_no_trace() -> None:
    model = random_model(config("1+1x[1,1,1,1]+1"))
    x, t, y, *_ = inputs(model.config)
    with torch.no_grad():
        first = model(x, t, y, sparse_grid=(2, 2))
        for side in range(1, 20):
            model(torch.zeros(2, 4, side, 3), t, y, sparse_grid=(1, 1))
        assert torch.equal(model(x, t, y, sparse_grid=(2, 2)), first)
        assert len(model._positions) <= 8


def test_wrong_captions() -> None:
    model = random_model(config())
    x, t, y, mask, *_ = inputs(model.config)
    with pytest.raises(ValueError, match=r"shape \(2, 6, 9\), expected features \(batch, tokens, 10\)"):
        model(x, t, y[..., :9])
    with pytest.raises(ValueError, match="mask is for 5 text tokens but the captions have 6"):
        model(x, t, y, mask=mask[:, :5])
    with pytest.raises(ValueError, match="there are 2 captions for 3 pictures"):
        model(x[:1].repeat(3, 1, 1, 1), t[:1].repeat(3), y)
    with pytest.raises(ValueError, match="given to a dense model"):
        model(x, t, y, sparse_grid=(2, 2))


@pytest.mark.parametrize("layout", [None, "1+1x[1,1,1,1]+1"])
def test_every_layer_comes_from_ops_and_every_attention_is_injected(layout: str | None) -> None:
    calls: list[int] = []

    def counted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, *mask: torch.Tensor) -> torch.Tensor:
        calls.append(heads)
        return attend(q, k, v, heads, *mask)

    ops, wanted = Ops(), config(layout, qk_norm=True, micro_conditioning=True)
    model = PixArt(wanted, ops=ops, attention=counted)
    layers = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.Embedding)
    assert ops.made == sum(isinstance(module, layers) for module in model.modules())
    x, t, y, mask, *_ = inputs(wanted)
    model(x, t, y, mask=mask)
    assert calls == [2] * sum(1 + (block.role != "pooled") for block in model.blocks)


def test_initial_state_and_gradients() -> None:
    model = PixArt(config("1+1x[2,1,2,1]+1", micro_conditioning=True, qk_norm=True))
    model.initialize_weights()
    x, t, y, mask, size, aspect = inputs(model.config)
    with torch.no_grad():
        assert torch.equal(model(x, t, y), torch.zeros(2, 8, 8, 8))  # a zero output layer: nothing comes out yet
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    model = random_model(model.config).train()
    model(x, t, y, mask=mask, size=size, aspect=aspect, sparse_grid=(3, 2)).square().mean().backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert "y_embedder.y_embedding" not in trained
    assert not [name for name, gradient in trained.items() if gradient is None or not gradient.any()]


# checkpoints


def saved(model: PixArt, path: Path, prefix: str = "", positions: bool = True) -> Path:
    """The model's weights in the original layout, with the position table of its constructor."""
    wanted = model.config
    state = {prefix + key: value.clone() for key, value in model.state_dict().items()}
    if positions:
        table = sincos_table(wanted.hidden_size, wanted.grid, base=wanted.grid, scale=wanted.position_scale)
        state[f"{prefix}pos_embed"] = table
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model.", "module."])
@pytest.mark.parametrize("layout", [None, "1+1x[1,2,1,1]+1"])
def test_prefixes_and_sparse_files_without_metadata(prefix: str, layout: str | None, tmp_path: Path) -> None:
    model = random_model(config(layout, qk_norm=True, micro_conditioning=True))
    path = saved(model, tmp_path / "model.safetensors", prefix)
    loaded = load_checkpoint(path, num_heads=2, sparse_side=2 if layout else None)
    assert loaded.config == (model.config if layout else replace(model.config, sparse_side=8))
    assert loaded.format == ("sparsedit_core" if layout else "pixart")
    x, t, y, *_ = inputs(model.config)
    with torch.no_grad():
        assert relative_difference(loaded.model(x, t, y), model(x, t, y)) < 1e-6  # mapped memory is aligned otherwise


def test_training_checkpoint_gives_the_averaged_weights(tmp_path: Path) -> None:
    plain, averaged = random_model(config(), seed=1), random_model(config(), seed=2)
    content = {"state_dict": plain.state_dict(), "state_dict_ema": averaged.state_dict(), "epoch": 3, "optimizer": {}}
    torch.save(content, tmp_path / "model.pth")
    loaded = load_checkpoint(tmp_path / "model.pth", num_heads=2, base_size=4, position_scale=2.0)
    assert torch.equal(loaded.model.t_block[1].weight, averaged.t_block[1].weight)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 4.0, 1.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scale_is_read_off_the_table(scale: float, dtype: torch.dtype, tmp_path: Path) -> None:
    model = random_model(config(position_scale=scale))
    state = load_file(saved(model, tmp_path / "model.safetensors"))
    state["pos_embed"] = state["pos_embed"].to(dtype)
    save_file(state, tmp_path / "model.safetensors")
    found = read_checkpoint(tmp_path / "model.safetensors", num_heads=2).config
    assert found.grid == (4, 4)
    assert found.position_scale == pytest.approx(scale, rel=1e-6 if scale != 1.5 else 0.02)


def test_files_without_positions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(random_model(config()), tmp_path / "model.safetensors", positions=False)
    with caplog.at_level(logging.INFO, "sparsedit"):
        found = read_checkpoint(path, num_heads=2).config
    assert (found.grid, found.position_scale) == ((32, 32), 1.0)
    assert "base_size=16" in caplog.text
    given_both = read_checkpoint(path, num_heads=2, base_size=16, position_scale=0.5).config
    assert (given_both.grid, given_both.position_scale) == ((16, 16), 0.5)
    with pytest.raises(CheckpointError, match="base_size= and position_scale= together"):
        read_checkpoint(path, num_heads=2, base_size=16)
    micro = saved(random_model(config(micro_conditioning=True)), tmp_path / "micro.safetensors", positions=False)
    found = read_checkpoint(micro, num_heads=2).config
    assert (found.grid, found.position_scale) == ((64, 64), 2.0)


def test_latent_space_of_alpha_and_sigma(tmp_path: Path) -> None:
    for tokens, micro, scale in ((120, False, 0.18215), (300, False, 0.13025), (0, True, 0.18215), (0, False, 0.13025)):
        model = random_model(config(caption_tokens=tokens, micro_conditioning=micro))
        loaded = load_checkpoint(saved(model, tmp_path / f"{tokens}{micro}.safetensors"), num_heads=2)
        assert loaded.latent.scale == scale
        assert loaded.config.caption_tokens == tokens


def change(state: dict[str, Any], what: str) -> None:
    if what == "compressed":
        state["blocks.1.attn.sr.weight"] = torch.zeros(24, 1, 2, 2)
    elif what == "missing":
        del state["blocks.1.cross_attn.kv_linear.weight"]
    elif what == "positions":
        state["pos_embed"] = torch.randn(state["pos_embed"].shape)
    elif what == "narrow":
        state["t_block.1.weight"] = state["t_block.1.weight"][:-1].clone()
    elif what == "extra":
        state["blocks.0.adaLN_modulation.1.weight"] = torch.zeros(2)
    elif what == "captions":
        del state["y_embedder.y_proj.fc1.weight"]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("compressed", "key-value token compression"),
        ("missing", "1 missing: blocks.1.cross_attn.kv_linear.weight"),
        ("positions", "no sin-cos table of PixArt"),
        ("narrow", r"1 misshapen: t_block.1.weight is \(143, 24\), expected \(144, 24\)"),
        ("extra", "1 unexpected: blocks.0.adaLN_modulation.1.weight"),
        ("captions", "y_embedder.y_proj.fc1.weight is absent"),
    ],
)
def test_damaged_files(what: str, words: str, tmp_path: Path) -> None:
    state = load_file(saved(random_model(config()), tmp_path / "model.safetensors"))
    change(state, what)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(tmp_path / "model.safetensors", num_heads=2)
    assert "\n" not in str(caught.value)


def test_keywords_of_the_other_family(tmp_path: Path) -> None:
    path = saved(random_model(config()), tmp_path / "model.safetensors")
    for keywords, name in (({"num_classes": 5}, "num_classes"), ({"semantics": "original"}, "semantics")):
        with pytest.raises(CheckpointError, match=f"{name} belongs to DiT"):
            load_checkpoint(path, num_heads=2, **keywords)
    with pytest.raises(CheckpointError, match="position_scale=1 was given but the stored position table has 2"):
        load_checkpoint(path, num_heads=2, position_scale=1.0)
    save_checkpoint(tmp_path / "ours.safetensors", load_checkpoint(path, num_heads=2))
    with pytest.raises(CheckpointError, match=r"position_scale=1\.0 was given but the file says 2\.0"):
        load_checkpoint(tmp_path / "ours.safetensors", position_scale=1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_tables_stay_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = random_model(config("1+1x[1,1,1,1]+1"))
    save_checkpoint(tmp_path / "model.safetensors", model, dtype=dtype)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert {key for key, value in checkpoint.state.items() if value.dtype == torch.float32} == {
        key for key in checkpoint.state if key.endswith(("scale_shift_table", "y_embedding"))
    }
    assert {value.dtype for key, value in checkpoint.state.items() if not is_table(key)} == {dtype}


@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_exported_and_loaded_again(layout: Any, tmp_path: Path) -> None:
    model = random_model(config(micro_conditioning=True, qk_norm=layout == "official"))
    loaded = load_checkpoint(saved(model, tmp_path / "model.safetensors"), num_heads=2)
    export_checkpoint(tmp_path / "out.safetensors", loaded, layout)
    facts = {"num_heads": 2} | ({"base_size": 4, "position_scale": 2.0} if layout == "diffusers" else {})
    again = load_checkpoint(tmp_path / "out.safetensors", **facts)
    assert again.format == ("diffusers_pixart" if layout == "diffusers" else "pixart")
    assert again.config == loaded.config
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value), key


def test_a_sparse_pixart_is_not_taken_for_a_dense_one_elsewhere(tmp_path: Path) -> None:
    """ComfyUI's own detection looks for this key, and would leave what a dense model has more of uninitialised."""
    model = random_model(config("1+1x[1,1,1,1]+1"))
    save_checkpoint(tmp_path / "sparse.safetensors", model)
    assert not [key for key in load_file(tmp_path / "sparse.safetensors") if not key.startswith("sparsedit.")]
    again = load_checkpoint(tmp_path / "sparse.safetensors").model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
    sparse = load_checkpoint(tmp_path / "sparse.safetensors")
    for layout in ("official", "diffusers"):
        with pytest.raises(CheckpointError, match="layout"):
            export_checkpoint(tmp_path / "out.safetensors", sparse, layout)


def test_a_scale_of_positions_is_above_zero(tmp_path: Path) -> None:
    path = saved(random_model(config()), tmp_path / "model.safetensors", positions=False)
    with pytest.raises(CheckpointError, match=r"position_scale is 0\.0; it must be above 0"):
        read_checkpoint(path, num_heads=2, base_size=4, position_scale=0.0)
