"""Key tables: round trips over random layouts, and the shapes they promise."""

from __future__ import annotations

import pytest
import torch
from checkpoint_files import same, small_model
from golden_files import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedit_core import DiT, DiTConfig, SegmentLayout
from sparsedit_core.checkpoint import (
    CheckpointError,
    diffusers_to_flat,
    flat_to_diffusers,
    flat_to_sparsedit,
    sparsedit_to_flat,
)
from sparsedit_core.checkpoint.detect import detect
from sparsedit_core.checkpoint.formats import flat_keys, sparsedit_prefixes
from sparsedit_core.checkpoint.layouts import flat_layout, sparsedit_layout
from sparsedit_core.checkpoint.shapes import flat_shapes, roles_of

COUNT = st.integers(0, 3)
MODULE = st.tuples(st.integers(1, 2), COUNT, st.integers(1, 2), COUNT)
LAYOUTS = st.builds(SegmentLayout, COUNT, st.lists(MODULE, max_size=3).map(tuple), COUNT.map(lambda n: n + 1))


def meta_state(config: DiTConfig) -> dict[str, torch.Tensor]:
    """The state dict of a model without data."""
    return DiT(config, device="meta").state_dict()


@settings(deadline=None, max_examples=40)
@given(LAYOUTS)
def test_official_names_round_trip(layout: SegmentLayout) -> None:
    config = DiTConfig(hidden_size=16, num_heads=2, depth=layout.depth, layout=layout)
    flat = meta_state(config)
    official = flat_to_sparsedit(flat, layout)
    assert not any(key.startswith("blocks.") for key in official)
    assert detect(official) == "sparsedit"
    assert sparsedit_layout(official) == layout
    back = sparsedit_to_flat(official)
    assert back.keys() == flat.keys()
    assert all(back[key].shape == flat[key].shape for key in flat)


@settings(deadline=None, max_examples=40)
@given(LAYOUTS)
def test_shapes_and_keys_are_the_models_own(layout: SegmentLayout) -> None:
    sizes = {"hidden_size": 24, "num_heads": 2, "mlp_ratio": 1.5, "num_classes": 7, "input_size": (8, 12)}
    for own in (layout, None):
        config = DiTConfig(**sizes, depth=layout.depth, layout=own)
        state = meta_state(config)
        assert flat_shapes(config) == {key: tuple(value.shape) for key, value in state.items()}
        assert set(flat_keys(roles_of(config))) == set(state)


@settings(deadline=None, max_examples=60)
@given(LAYOUTS)
def test_layout_read_off_flat_keys_runs_the_same_blocks(layout: SegmentLayout) -> None:
    found = flat_layout(flat_keys(layout.roles))
    if found is None:
        assert set(layout.roles) == {"dense"}
        return
    kinds = {"sparse": "self", "dense": "self"}
    assert [kinds.get(role, role) for role in found.roles] == [kinds.get(role, role) for role in layout.roles]
    assert [m[:3] for m in found.modules] == [m[:3] for m in layout.modules]


def test_official_block_order() -> None:
    for name in ("sparsedit_a_g1311_p2n2", "sparsedit_e_xl512_topology_depth28", "sparsedit_g_two_recover"):
        file = golden(name)
        assert list(sparsedit_prefixes(sparsedit_layout(file.state))) == file.meta["module_order"]


def test_official_fixture_round_trips_with_every_bit() -> None:
    file = golden("sparsedit_c_g1211_2db_depth12")
    flat = sparsedit_to_flat(file.state)
    assert same(flat_to_sparsedit(flat, sparsedit_layout(file.state)), file.state)


def test_diffusers_round_trip_with_every_bit() -> None:
    flat = {key: value for key, value in small_model().state_dict().items() if key != "pos_embed"}
    diffusers = flat_to_diffusers(flat)
    assert "transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight" in diffusers
    assert detect(diffusers) == "diffusers_dit"
    assert same(diffusers_to_flat(diffusers), flat)


def test_left_over_and_missing_keys_are_listed() -> None:
    layout = SegmentLayout.parse("1+1x[1,1,1,0]+1")
    official = flat_to_sparsedit(small_model(str(layout)).state_dict(), layout)
    del official["poolingformer_blocks.0.attn.v.bias"]
    official["surplus"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"missing keys: poolingformer_blocks\.0\.attn\.v\.bias.*surplus"):
        sparsedit_to_flat(official)


def test_impossible_layouts() -> None:
    with pytest.raises(CheckpointError, match="at least 1 generation and 1 recovery"):
        sparsedit_layout(["dumbbell_blocks.0.semantic_blocks.0.attn.qkv.weight"])
    with pytest.raises(CheckpointError, match="no sparse layout"):
        flat_layout(["blocks.0.attn.qkv.weight", "blocks.1.attn.v.weight"])
    with pytest.raises(CheckpointError, match="numbered up to 99999"):
        sparsedit_layout(["normal_blocks.99999.attn.qkv.weight"])


@pytest.mark.parametrize("name", ["latte_a_classcond_f4", "latte_b_uncond_f3", "diffusers_latte_a"])
def test_other_families_are_named(name: str) -> None:
    with pytest.raises(CheckpointError, match="this is a Latte"):
        detect(golden(name).state)


@pytest.mark.parametrize(
    ("key", "word"),
    [("unet.down.lora_up.weight", "LoRA"), ("input_blocks.0.0.weight", "U-Net"), ("double_blocks.0.a", "Flux"),
     ("encoder.conv_in.weight", "autoencoder"), ("something", "no known layout")],
)  # fmt: skip
def test_foreign_models_are_named(key: str, word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        detect([key])
