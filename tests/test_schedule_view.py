"""What the schedule editor shows, against the schedule, its cost and the registry of measured seconds."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedit_core.config import DiTConfig
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.said import SENTENCES, Said
from sparsedit_core.schedule import PruningSchedule
from sparsedit_core.schedule_cost import even_times, schedule_macs
from sparsedit_core.schedule_view import ViewedModel, measured_speed, outside_note, schedule_view

CONFIG = DiTConfig(
    input_size=(64, 64),
    patch_size=4,
    in_channels=3,
    hidden_size=96,
    depth=8,
    num_heads=3,
    layout=SegmentLayout.parse("1+1x[1,3,1,1]+1"),
)
rates = st.tuples(st.floats(0, 0.95), st.floats(0, 0.95)).map(lambda pair: tuple(sorted(pair, reverse=True)))


@settings(max_examples=40, deadline=None)
@given(
    rates,
    st.sampled_from(["linear", "cosine", "steps"]),
    st.sampled_from(["noise", "clean"]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 60),
)
def test_everything_shown_is_the_schedules_own(pair, curve, hold, dense, steps) -> None:  # type: ignore[no-untyped-def]
    schedule = PruningSchedule(*pair, curve=curve, hold=hold)
    view = schedule_view(schedule, dense, steps, model=ViewedModel("m", CONFIG))
    json.dumps(view, allow_nan=False)
    total = dense[0] * dense[1]
    assert [tuple(e["grid"]) for e in view["evaluations"]] == [schedule.grid(t, dense) for t in even_times(steps)]
    for time, density in view["curve"]:
        assert density == 1 - schedule.rate(time)
    assert [(b["from"], b["to"], tuple(b["grid"])) for b in view["buckets"]] == schedule.buckets(dense)
    assert all(b["density"] == b["grid"][0] * b["grid"][1] / total for b in view["buckets"])
    cost = schedule_macs(CONFIG, schedule, steps, (4 * dense[0], 4 * dense[1]), factor=1)
    assert view["cost"]["ratio"] == cost.ratio
    assert sum(view["cost"]["per_evaluation"]) / steps == pytest.approx(cost.ratio)
    assert view["limits"] == {"low": pair[1], "high": pair[0]}


def test_without_a_model_the_cost_is_of_one_that_is_named() -> None:
    schedule = PruningSchedule(0.86, 0.61)
    view = schedule_view(schedule, (16, 16), 250)
    assert view["cost"]["ratio"] == schedule_macs("DiT-XL/2", schedule, 250, 256, "2+4x[1,3,1,1]+2").ratio
    assert "DiT-XL/2" in view["cost"]["words"]
    assert "at most" in view["cost"]["words"]
    assert view["trained"] is None
    assert not view["warning"]


def test_a_dense_model_has_no_cost() -> None:
    model = ViewedModel("dense", replace(CONFIG, layout=None))
    assert schedule_view(PruningSchedule(0.8, 0.5), (16, 16), 5, model=model)["cost"] is None


def test_the_trained_range() -> None:
    trained = PruningSchedule(0.75, 0.5)
    view = schedule_view(PruningSchedule(0.9, 0.5), (16, 16), 5, model=ViewedModel("m", CONFIG, trained))
    assert view["trained"]["densities"] == [0.25, 0.5]
    assert [tuple(b["grid"]) for b in view["trained"]["buckets"]] == [g for _, _, g in trained.buckets((16, 16))]
    assert "0.50 to 0.75" in view["warning"]["words"]
    assert outside_note(trained, CONFIG, trained) == ""
    assert outside_note(PruningSchedule(0.75, 0.75), CONFIG, None) == ""  # side 8 of 16


def test_measured_speed_is_of_the_grids_that_would_run() -> None:
    cost = schedule_macs(CONFIG, PruningSchedule(0.75, 0.75, end=0.5), 4, 64, factor=1)
    assert cost.grids == ((8, 8), (8, 8), (16, 16), (16, 16))
    found = measured_speed(cost, {(8, 8): 1.0, (16, 16): 3.0, None: 4.0})
    assert found is not None
    assert found["factor"] == 2.0
    assert "the dense model" in found["words"]
    found = measured_speed(cost, {(8, 8): 1.0, (16, 16): 3.0})
    assert found is not None
    assert found["factor"] == 1.5
    assert "all tokens" in found["words"]
    assert measured_speed(cost, {(16, 16): 3.0, None: 4.0}) is None
    assert measured_speed(cost, {(8, 8): 1.0, (9, 9): 3.0}) is None


def test_every_sentence_is_said_with_all_its_figures() -> None:
    config, trained = replace(CONFIG, sparse_side=8), PruningSchedule(0.75, 0.5)
    cost = schedule_macs(CONFIG, trained, 4, 64, factor=1)
    some, flat = PruningSchedule(0.9, 0.5), PruningSchedule(0.9, 0.9)
    times = dict.fromkeys([None, *cost.grids], 1.0)
    views = [
        schedule_view(some, (16, 16), 5, model=ViewedModel("m", config, trained)),
        schedule_view(flat, (16, 16), 5, model=ViewedModel("m", config)),
        schedule_view(flat, (16, 16), 5),
    ]
    said = [view[name] for view in views for name in ("summary", "cost", "warning") if view[name]]
    said += [measured_speed(cost, times), measured_speed(cost, dict.fromkeys([*cost.grids, (16, 16)], 1.0))]
    assert {each["key"] for each in said} == set(SENTENCES)
    for each in said:
        assert each["words"] == Said(each["key"], each["figures"]).words
        assert set(each["figures"]) >= set(re.findall(r"\{(\w+)\}", SENTENCES[each["key"]]))
    words = {each["key"]: each["words"] for each in said}
    assert words["outside_range"].endswith("rates 0.50 to 0.75, this schedule has 0.50 to 0.90; expect worse pictures")
    assert "token grid of side 8, rate 0.75, this schedule has 0.90 to 0.90" in words["outside_grid"]
    assert words["cost_unknown"].endswith("(DiT-XL/2, as the model is not known)")
    assert words["grid"] == "5x5 of 16x16 tokens"


@pytest.mark.parametrize(("dense", "steps", "words"), [((0, 4), 5, "at least 1"), ((4, 4), 0, "empty")])
def test_bad_sizes_are_refused(dense: tuple[int, int], steps: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        schedule_view(PruningSchedule(0.8, 0.5), dense, steps)
