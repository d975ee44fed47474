"""SegmentLayout: text and back, roles, and what it says about bad text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LAYOUTS

from sparsedit_core.config import DiTConfig
from sparsedit_core.layout import ROLES, SegmentLayout


@settings(max_examples=40)
@given(LAYOUTS)
def test_text_and_back(layout: SegmentLayout) -> None:
    assert SegmentLayout.parse(str(layout)) == layout


@settings(max_examples=40)
@given(LAYOUTS)
def test_runs_cover_every_block_once_with_its_role(layout: SegmentLayout) -> None:
    roles = [role for role, start, end in layout.runs() for _ in range(start, end)]
    assert tuple(roles) == layout.roles
    assert len(roles) == layout.depth
    edges = [edge for _, start, end in layout.runs() for edge in (start, end)]
    assert edges == sorted(edges)
    assert set(roles) <= set(ROLES)


def test_published_layout() -> None:
    layout = SegmentLayout.parse(" 2 + 4 x [1, 3, 1, 1] + 2 ")
    assert layout == SegmentLayout(2, ((1, 3, 1, 1),) * 4, 2)
    assert str(layout) == "2+4x[1,3,1,1]+2"
    assert layout.depth == 28
    module = ("generation", "sparse", "sparse", "sparse", "recovery", "dense")
    assert layout.roles == ("pooled",) * 2 + module * 4 + ("dense",) * 2


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("2+[1,3,1,1]+[1,5,1,1]+2", ((1, 3, 1, 1), (1, 5, 1, 1))),
        ("2+[1,3,1,1]+2x[1,5,1,1]+2", ((1, 3, 1, 1), (1, 5, 1, 1), (1, 5, 1, 1))),
        ("0+1x[1,3,2,1]+0", ((1, 3, 2, 1),)),
        ("1*3", None),
        ("3+2", ()),
    ],
)
def test_unequal_modules(text: str, modules: tuple[tuple[int, ...], ...] | None) -> None:
    if modules is None:
        with pytest.raises(ValueError, match="cannot read layout"):
            SegmentLayout.parse(text)
    else:
        assert SegmentLayout.parse(text).modules == modules


@pytest.mark.parametrize(
    "text", ["", "2", "x", "2+4x[1,3,1]+2", "2+4x[1,3,1,1]", "4x[1,3,1,1]+2", "2+a+2", "2++2", "-1+2"]
)
def test_bad_text_names_itself_and_shows_how_to_write_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"2\+4x\[1,3,1,1\]\+2") as caught:
        SegmentLayout.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("module", [(0, 1, 1, 1), (1, 1, 0, 1), (1, -1, 1, 1)])
def test_a_module_needs_generation_and_recovery(module: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"module 1 is .*at least 1 generation and 1 recovery"):
        SegmentLayout(1, ((1, 1, 1, 1), module), 1)


def test_empty_and_negative_layouts_are_refused() -> None:
    with pytest.raises(ValueError, match="no block at all"):
        SegmentLayout.parse("0+0")
    with pytest.raises(ValueError, match="bottom=-1"):
        SegmentLayout(-1, (), 3)


def test_depth_must_fit_the_model() -> None:
    with pytest.raises(ValueError, match=r"has 28 blocks but the model has 12.*= 12"):
        DiTConfig(depth=12, layout=SegmentLayout.parse("2+4x[1,3,1,1]+2"))


@settings(max_examples=40)
@given(LAYOUTS, st.booleans())
def test_config_through_json(layout: SegmentLayout, again: bool) -> None:
    config = DiTConfig(depth=layout.depth, layout=layout, reinject_positions=again, input_size=(32, 48))
    assert DiTConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_heads": 7}, "cannot be split into 7 heads"),
        ({"hidden_size": 6, "num_heads": 2}, "no multiple of 4"),
        ({"input_size": (31, 32)}, "no multiple of the patch size 2"),
        ({"sparse_side": 0}, "sparse_side is 0"),
    ],
)
def test_config_refuses(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DiTConfig(**changes)  # type: ignore[arg-type]


def test_config_of_a_newer_program() -> None:
    with pytest.raises(ValueError, match=r"unknown entries \['rotary'\]"):
        DiTConfig.from_json({"rotary": True})
