"""The plan of a token cache: values, files, rows by time; its costs against torch's own count."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_pixart
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from sparsedit_core.backbones import new_model
from sparsedit_core.cache.costs import cache_bytes, fit_memory, sublayer_costs, sublayer_names, sublayer_tokens
from sparsedit_core.cache.plan import FULL, LEVELS, CachePlan, read_plan, rows_at
from sparsedit_core.cost import macs


@st.composite
def plans(draw: st.DrawFn) -> CachePlan:
    times = sorted(draw(st.sets(st.floats(0, 1), min_size=1, max_size=6)), reverse=True)
    names = tuple(f"{block}.{part}" for block in range(draw(st.integers(1, 3))) for part in ("self", "mlp"))
    row = st.tuples(*[st.integers(0, FULL)] * len(names))
    rows = [(FULL,) * len(names), *(draw(row) for _ in times[1:])]
    return CachePlan("dit", tuple(times), names, tuple(rows), seed=draw(st.integers(0, 99)), provenance={"a": [1, 2.5]})


PLAN = CachePlan("dit", (1.0, 0.5, 0.25), ("0.self", "0.mlp"), ((4, 4), (0, 2), (4, 1)), 0.5)


@given(plans())
def test_json_gives_the_plan_back(plan: CachePlan) -> None:
    again = CachePlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.hash == plan.hash
    assert again.provenance == {"a": [1, 2.5]}


def test_hash_tells_plans_apart_by_what_they_do() -> None:
    assert replace(PLAN, provenance={"by": "me"}).hash == PLAN.hash
    others = [replace(PLAN, seed=1), replace(PLAN, selector="change"), replace(PLAN, shared=False)]
    others += [replace(PLAN, table=((4, 4), (0, 2), (4, 2))), replace(PLAN, times=(1.0, 0.5, 0.2))]
    assert len({plan.hash for plan in [PLAN, *others]}) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": None}, "version None"),
        ({"version": True}, "version True"),
        ({"version": 2}, "reads up to 1"),
        ({"levels": [0, 1]}, "levels"),
        ({"steps": 3}, "unknown entries"),
        ({"family": ""}, "family"),
        ({"times": []}, "at least one"),
        ({"times": [0.5, 1.0, 0.2]}, "each below"),
        ({"times": [1.5, 1.0, 0.2]}, "from 1"),
        ({"times": "abc"}, "give a list"),
        ({"times": [1.0, "x", 0.1]}, "finite numbers"),
        ({"sublayers": ["0.self", "0.self"]}, "different names"),
        ({"sublayers": ["0.self", "0 mlp"]}, "different names"),
        ({"table": [[4, 4], [0, 2]]}, "expected 3 rows"),
        ({"table": [[4, 4], [0, 2], [1]]}, "expected 3 rows"),
        ({"table": [[4, 4], [0, 2], [1, 5]]}, "0.mlp in step 2"),
        ({"table": [[4, 4], [0, 2], [1, True]]}, "0.mlp in step 2"),
        ({"table": [[4, 4], [0, 2], [1, 0.5]]}, "0.mlp in step 2"),
        ({"table": [[4, 3], [0, 2], [1, 1]]}, "first step"),
        ({"budget": 0}, "above 0"),
        ({"budget": float("nan")}, "finite"),
        ({"selector": "best"}, "age, change"),
        ({"seed": -1}, "seed"),
        ({"shared": 1}, "true or false"),
        ({"provenance": {"x": object()}}, "JSON"),
        ({"provenance": [1]}, "plain values"),
    ],
)
def test_bad_values_are_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        CachePlan.from_json(PLAN.to_json() | change)
    assert "\n" not in str(caught.value)


def test_files_name_themselves(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(PLAN.to_json()), encoding="utf-8")
    assert read_plan(tmp_path / "plan.json") == PLAN
    for content in ("[1]", "{", "{}"):
        (tmp_path / "bad.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"bad\.json holds no cache plan"):
            read_plan(tmp_path / "bad.json")


@given(plans(), st.floats(-0.5, 1.5))
def test_a_row_is_that_of_the_nearest_time(plan: CachePlan, time: float) -> None:
    number = plan.row_number(time)
    distances = [abs(each - time) for each in plan.times]
    assert distances[number] == min(distances)
    assert number == distances.index(min(distances))  # the noisier of two
    assert plan.row(time) == plan.table[number]
    assert [plan.row_number(each) for each in plan.times] == list(range(len(plan.times)))


def test_levels_are_shares_rounded_up() -> None:
    for tokens in range(1, 40):
        for level, share in enumerate(LEVELS):
            rows = rows_at(level, tokens)
            assert share * tokens <= rows < share * tokens + 1


@settings(max_examples=25)
@given(tiny.LAYOUTS, tiny.GRIDS, st.sampled_from(["dit", "pixart"]), st.data())
def test_costs_are_what_torch_counts(layout: Any, dense: Any, family: str, data: st.DataObject) -> None:
    make: Any = tiny if family == "dit" else tiny_pixart
    config = make.config(layout)
    sparse = tuple(data.draw(st.integers(1, side)) for side in dense) if layout.modules else None
    size = tuple(2 * side for side in dense)
    model = new_model(config, device="meta")  # where attention is one operation that torch's counter knows
    x, t, y, *more = (value.to("meta") for value in make.inputs(config, batch=1, size=size))
    length = y.shape[1] if family == "pixart" else None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x, t, y, sparse_grid=sparse, **({"mask": more[0]} if more else {}))
    counts = {name: sum(kinds.values()) // 2 for name, kinds in counter.get_flop_counts().items()}
    costs = sublayer_costs(config, dense, sparse, length)
    assert costs.sublayers == sublayer_names(config)
    modules = {"self": "attn", "cross": "cross_attn", "mlp": "mlp"}
    for name, row in zip(costs.sublayers, costs.macs, strict=True):
        number, part = name.split(".")
        assert row[FULL] == counts[f"{type(model).__name__}.blocks.{number}.{modules[part]}"], name
        assert row[0] == 0
        assert list(row) == sorted(row)
    total = macs(config, size, sparse_grid=sparse, factor=1, caption_tokens=length).total
    assert costs.dense == counts["Global"] == total
    tokens = sublayer_tokens(config, dense, sparse)
    for part, module in (("mlp", "mlp"), ("cross", "cross_attn")):
        for level in range(1, FULL):  # rows of these two are independent: fewer rows are what is computed
            if f"0.{part}" not in costs.sublayers:
                continue
            rows = torch.randn(1, rows_at(level, tokens["0.mlp"]), config.hidden_size, device="meta")
            text = () if part == "mlp" else (torch.randn(1, length, config.hidden_size, device="meta"),)
            with torch.no_grad(), FlopCounterMode(display=False) as few:
                getattr(model.blocks[0], module)(rows, *text)
            assert costs.macs[costs.sublayers.index(f"0.{part}")][level] == few.get_total_flops() // 2


def test_share_of_a_plan_counts_every_step() -> None:
    config = tiny.config()
    costs = sublayer_costs(config, (4, 4))
    names = sublayer_names(config)
    full = CachePlan("dit", (1.0, 0.5), names, ((FULL,) * len(names),) * 2)
    reuse = replace(full, table=((FULL,) * len(names), (0,) * len(names)))
    assert full.share(costs.macs, costs.outside) == 1.0
    assert full.macs(costs.macs, costs.outside) == 2 * costs.dense
    assert reuse.macs(costs.macs, costs.outside) == costs.dense + costs.outside


def test_memory_is_that_of_what_is_reused_and_a_limit_takes_whole_sublayers() -> None:
    config = tiny.config()
    costs = sublayer_costs(config, (4, 4))
    names = sublayer_names(config)
    table = ((FULL,) * len(names), (FULL, *[0] * (len(names) - 1)))
    plan = CachePlan("dit", (1.0, 0.5), names, table)
    assert plan.reused() == names[1:]
    sizes = cache_bytes(config, (4, 4), 3, 2, names=plan.reused())
    one = 16 * config.hidden_size * 3 * 2
    assert set(sizes.values()) == {one}
    assert fit_memory(plan, costs, sizes, 5 * one) is plan
    for kept in range(1, 5):
        fitted = fit_memory(plan, costs, sizes, (kept + 1) * one - 1)
        assert len(fitted.reused()) == kept
        left = {costs.macs[names.index(name)][FULL] for name in fitted.reused()}
        gone = {costs.macs[names.index(name)][FULL] for name in set(plan.reused()) - set(fitted.reused())}
        assert min(left) >= max(gone)
    with pytest.raises(ValueError, match="one sub-layer alone takes"):
        fit_memory(plan, costs, sizes, one - 1)
