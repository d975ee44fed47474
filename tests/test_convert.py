"""Dense to SparseDiT: the official initial state, and what a conversion leaves alone."""

from __future__ import annotations

import pytest
import torch
from golden_files import FORWARD_TOLERANCE, assert_close, golden
from golden_models import golden_config
from hypothesis import given, settings
from tiny import SPARSE_LAYOUTS, config, inputs, random_model

from sparsedit_core.checkpoint import sparsedit_to_flat
from sparsedit_core.config import DiTConfig, PixArtConfig
from sparsedit_core.convert import convert_dense, default_layout
from sparsedit_core.dit import DiT
from sparsedit_core.layout import SegmentLayout

CONVERSIONS = ["sparsedit_convert_a_p2n2_depth10", "sparsedit_convert_b_xl256_topology_depth28"]


@pytest.mark.parametrize("name", CONVERSIONS)
def test_official_conversion(name: str) -> None:
    file = golden(name)
    wanted = golden_config(file.meta["constructor"])
    layout = wanted.layout
    assert layout is not None
    dense_constructor = {key: value for key, value in file.meta["constructor"].items() if key != "num_dumbbell"}
    dense = DiT(golden_config(dense_constructor))
    dense.load_state_dict(file.dense)
    model = convert_dense(dense.eval(), layout, sparse_side=wanted.sparse_side)
    assert model.config == wanted
    expected = sparsedit_to_flat(file.state)
    found = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    with torch.no_grad():
        arguments = [file.input[key] for key in ("x", "t", "y")]
        assert_close(model(*arguments), file.output["out"], FORWARD_TOLERANCE)
        assert_close(dense(*arguments), file.output["dense_out"], FORWARD_TOLERANCE)


@settings(max_examples=10)
@given(SPARSE_LAYOUTS)
def test_conversion_copies_and_keeps_dtype(layout: SegmentLayout) -> None:
    dense = random_model(config(depth=layout.depth), dtype=torch.bfloat16)
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    sparse = convert_dense(dense, layout, sparse_side=3)
    assert sparse.config.sparse_side == 3
    assert {value.dtype for key, value in sparse.state_dict().items() if key != "pos_embed"} == {torch.bfloat16}
    with torch.no_grad():
        for parameter in sparse.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())


def test_conversion_runs_and_can_be_trained() -> None:
    dense = random_model(config(depth=5))
    sparse = convert_dense(dense.train(), "1+1x[1,1,1,0]+1")
    assert sparse.training
    assert not sparse.pos_embed.requires_grad
    sparse(*inputs(sparse.config)).sum().backward()
    assert sparse.blocks[3].merged_layer1.weight.grad.any()


def test_conversion_refuses() -> None:
    dense = random_model(config(depth=5))
    with pytest.raises(ValueError, match=r"has 6 blocks but the model has 5"):
        convert_dense(dense, "1+1x[1,1,1,1]+1")
    sparse = convert_dense(dense, "1+1x[1,1,1,0]+1")
    with pytest.raises(ValueError, match=r"SparseDiT already \(layout 1\+1x\[1,1,1,0\]\+1\)"):
        convert_dense(sparse, "1+1x[1,1,1,0]+1")
    with pytest.raises(ValueError, match="cannot read layout 'half'"):
        convert_dense(dense, "half")


def test_default_layouts() -> None:
    assert str(default_layout(DiTConfig())) == "2+4x[1,3,1,1]+2"
    assert str(default_layout(PixArtConfig())) == "2+4x[2,2,1,1]+2"
    assert default_layout(DiTConfig(depth=12, hidden_size=768, num_heads=12)).depth == 12
    with pytest.raises(ValueError, match="no layout for a pixart of 3 blocks"):
        default_layout(PixArtConfig(depth=3))
