"""MACs: the paper's printed rows, and torch's own counter on meta tensors."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from sparsedit_core.config import DiTConfig
from sparsedit_core.cost import MODELS, Cost, macs
from sparsedit_core.dit import DiT
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.schedule import PRESETS, PruningSchedule
from sparsedit_core.schedule_cost import even_times, schedule_macs

XL, B = "2+4x[1,3,1,1]+2", "1+2x[1,2,1,1]+1"
TOLERANCE = 0.001  # of the dense rows


@pytest.mark.parametrize(
    ("model", "size", "layout", "side", "printed"),
    [
        ("DiT-B/2", 256, B, 8, "14.34"),
        ("DiT-XL/2", 256, XL, 12, "88.91"),
        ("DiT-XL/2", 256, XL, 8, "68.05"),
        ("DiT-XL/2", 512, XL, 16, "286"),
        ("DiT-XL/2", 512, XL, 8, "235"),
    ],
)
def test_sparse_rows_of_the_paper_to_the_printed_digits(
    model: str, size: int, layout: str, side: int, printed: str
) -> None:
    digits = len(printed.partition(".")[2])
    assert f"{macs(model, size, layout, side, convention='paper').total / 1e9:.{digits}f}" == printed


@pytest.mark.parametrize(
    ("model", "size", "layout", "side", "reproduced"),
    [
        ("DiT-XL/2", 256, None, 8, "118.69"),
        ("DiT-XL/2", 512, None, 8, "524.8"),
        ("DiT-B/2", 256, B, 8, "14.338"),
        ("DiT-XL/2", 256, XL, 12, "88.905"),
        ("DiT-XL/2", 256, XL, 8, "68.048"),
        ("DiT-XL/2", 512, XL, 16, "285.55"),
        ("DiT-XL/2", 512, XL, 8, "234.90"),
    ],
)
def test_the_convention_to_every_known_digit(
    model: str, size: int, layout: str | None, side: int, reproduced: str
) -> None:
    digits = len(reproduced.partition(".")[2])
    assert f"{macs(model, size, layout, side, convention='paper').total / 1e9:.{digits}f}" == reproduced


@pytest.mark.parametrize(
    ("model", "size", "printed"), [("DiT-XL/2", 256, 118.64), ("DiT-XL/2", 512, 525), ("DiT-B/2", 256, 23.01)]
)
def test_dense_rows_of_the_paper(model: str, size: int, printed: float) -> None:
    assert macs(model, size, convention="paper").total / 1e9 == pytest.approx(printed, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("preset", "size", "noise", "clean"),
    [
        ("256 fast", 256, 67.3, 71.5),
        ("256 quality", 256, 82.2, 85.1),
        ("512 quality", 512, 285.8, 304.4),
        ("512 fast", 512, 235.8, 240.3),
    ],
)
def test_mean_over_250_steps_of_the_published_algorithm(
    preset: str, size: int, noise: float, clean: float
) -> None:
    rates = PRESETS[preset].rate_noise, PRESETS[preset].rate_clean
    for hold, expected in (("noise", noise), ("clean", clean)):
        schedule = PruningSchedule(*rates, hold=hold, levels=None)  # type: ignore[arg-type]
        cost = schedule_macs("DiT-XL/2", schedule, 250, size, XL, "algorithm")
        assert cost.mean / 1e9 == pytest.approx(expected, abs=0.11)


def test_exact_savings_against_the_published_algorithm() -> None:
    algorithm = macs("DiT-XL/2", 512, XL, 8, convention="algorithm").total
    executed = macs("DiT-XL/2", 512, XL, 8).total
    assert 1 - executed / algorithm == pytest.approx(0.055, abs=0.0005)


@st.composite
def layouts(draw: st.DrawFn) -> SegmentLayout | None:
    if draw(st.integers(0, 4)) == 0:
        return None
    some, any_ = st.integers(1, 2), st.integers(0, 2)
    modules = draw(st.lists(st.tuples(some, any_, some, any_), max_size=2))
    return SegmentLayout(draw(any_), tuple(modules), draw(any_ if modules else some))


def counted(config: DiTConfig, size: tuple[int, int], grid: tuple[int, int] | None) -> int:
    """MACs of one forward by torch's counter, without computing anything."""
    model = DiT(config, device="meta")
    with torch.device("meta"):
        x, t, y = torch.empty(1, config.in_channels, *size), torch.empty(1), torch.empty(1, dtype=torch.long)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x, t, y, sparse_grid=grid)
    return int(counter.get_total_flops()) // 2


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_executed_equals_torchs_counter(data: st.DataObject) -> None:
    layout = data.draw(layouts())
    patch = data.draw(st.sampled_from((1, 2, 4)))
    config = DiTConfig(
        input_size=(4 * patch, 6 * patch),
        patch_size=patch,
        in_channels=data.draw(st.sampled_from((3, 4))),
        hidden_size=24 * data.draw(st.integers(1, 2)),
        depth=layout.depth if layout else 2,
        num_heads=data.draw(st.sampled_from((1, 2, 6))),
        mlp_ratio=data.draw(st.sampled_from((2.0, 3.5, 4.0))),
        num_classes=3,
        learn_sigma=data.draw(st.booleans()),
        layout=layout,
        sparse_side=data.draw(st.integers(1, 6)),
        reinject_positions=data.draw(st.booleans()),
    )
    sides = st.integers((patch + 1) // 2, 21)
    size = data.draw(st.tuples(sides, sides))
    rows, columns = -(-size[0] // patch), -(-size[1] // patch)
    grids = st.none() | st.tuples(st.integers(1, rows), st.integers(1, columns))
    grid = data.draw(grids) if layout else None
    assert macs(config, size, sparse_grid=grid, factor=1).total == counted(config, size, grid)


@pytest.mark.parametrize(
    ("name", "layout"), [("DiT-XL/2", XL), ("DiT-B/2", None), ("DiT-B/4", B), ("DiT-S/8", "0+1x[1,8,2,1]+0")]
)
def test_executed_equals_torchs_counter_at_real_sizes(name: str, layout: str | None) -> None:
    config = replace(MODELS[name], layout=layout and SegmentLayout.parse(layout))
    assert macs(name, (512, 384), layout).total == counted(config, (64, 48), None)


def test_cost_has_both_units_and_its_parts() -> None:
    cost = macs("DiT-XL/2", 256, XL)
    assert isinstance(cost, Cost)
    assert int(cost) == cost.total == sum(cost.parts.values()) == sum(cost.roles.values())
    data = json.loads(json.dumps(cost.to_json()))
    assert data["flops"] == 2 * data["macs"] == cost.flops
    assert data["sparse_grid"] == [8, 8]
    assert set(cost.roles) == {"outside", "pooled", "generation", "sparse", "recovery", "dense"}


def test_schedule_cost_lists_its_evaluations() -> None:
    cost = schedule_macs("DiT-XL/2", PRESETS["512 fast"], (1.0, 0.5, 0.0), 512, XL)
    assert cost.grids[0] == (6, 6)
    assert cost.grids[-1] == (10, 10)
    assert cost.macs[0] == macs("DiT-XL/2", 512, XL, sparse_grid=(6, 6)).total < cost.macs[-1]
    data = json.loads(json.dumps(cost.to_json()))
    assert data["macs"] == sum(row["macs"] for row in data["per_evaluation"]) == int(cost)
    assert data["flops"] == 2 * data["macs"]
    assert data["ratio_to_dense"] == cost.total / 3 / macs("DiT-XL/2", 512).total
    assert even_times(3) == (1.0, 0.5, 0.0)
    assert even_times(1) == (1.0,)


def test_image_size_is_in_pixels_of_the_picture() -> None:
    assert macs("DiT-XL/2", 512).dense_grid == (32, 32)
    assert macs("DiT-XL/2").dense_grid == (16, 16)
    pixels = DiTConfig(input_size=(32, 32), in_channels=3, hidden_size=128, depth=4, num_heads=4)
    assert macs(pixels, (32, 50)).dense_grid == (16, 25)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "DiT-G/2"}, "unknown model 'DiT-G/2'; choose one of DiT-XL/2"),
        ({"convention": "true"}, "executed, algorithm, paper"),
        ({"image_size": 4}, "give 8 pixels"),
        ({"layout": "1+1"}, "has 2 blocks but the model has 28"),
        ({"sparse_grid": (4, 4)}, "dense model"),
        ({"layout": XL, "sparse_grid": (17, 4)}, "not larger"),
        ({"layout": XL, "sparse_side": 17}, "17 does not fit into the 16x16 token grid"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        macs(**({"model": "DiT-XL/2"} | arguments))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give a layout"):
        schedule_macs("DiT-XL/2", PRESETS["256 fast"])
