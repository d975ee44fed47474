"""The benchmark of token caches: thresholds, the first-block cache by hand, shares, verdicts; no time is asserted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import config, random_model

from sparsedit_core.bench.cache import DENSE, FEWER, LEARNED, Row, Tally, Way, fewer_steps, least_budget
from sparsedit_core.bench.cache_plot import draw_rows
from sparsedit_core.bench.cache_verdict import SAME, beside_rivals, calibrated_beside_learned, rivals_of, verdicts
from sparsedit_core.bench.first_block import FirstBlockCache, threshold_for
from sparsedit_core.cache.costs import sublayer_costs, sublayer_names
from sparsedit_core.cache.plan import FULL, NONE
from sparsedit_core.cli import main
from sparsedit_core.train.evaluation import Jury, PictureSet


def row(method: str, psnr: float, seconds: float, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "model": "dense", "steps": 8, "method": method, "setting": "50 %", "budget": 0.5, "macs": seconds,
        "seconds": seconds, "spread": (seconds, seconds), "processor": None, "psnr": psnr, "ssim": 0.9,
        "frechet": 1.0, "accuracy": 1.0, "pictures": 4,
    }  # fmt: skip
    return Row(**(values | changes))


@given(st.lists(st.floats(0.01, 3.0), min_size=1, max_size=19), st.floats(0.05, 1.0))
def test_a_threshold_keeps_to_the_budget_or_saves_the_most(changes: list[float], budget: float) -> None:
    """A step cache that skips every step whose change is below the threshold: its share is a falling staircase."""
    steps = len(changes) + 1

    def share(threshold: float) -> float:
        return (1 + sum(change >= threshold for change in changes)) / steps

    threshold, reached = threshold_for(share, budget, 4.0, 1 / steps)
    assert reached == share(threshold)
    assert reached <= budget + 1e-9 or reached == share(4.0)


def test_a_first_block_cache_that_skips_nothing_is_the_model() -> None:
    model, x, t, y = inputs()
    cache = FirstBlockCache(sublayer_names(model.config), 0.0)
    for time in (1.0, 0.5):
        visit = cache.evaluation(time)
        assert torch.equal(model(x * time, t, y, cache=visit), model(x * time, t, y))
        assert set(visit.done.values()) == {FULL}


def test_a_first_block_cache_adds_what_the_later_blocks_added() -> None:
    """By hand: the tokens after the first block, plus what the others added to them the evaluation before."""
    model, x, t, y = inputs()
    seen: dict[str, torch.Tensor] = {}
    ends = [("entry", model.blocks[1]), ("exit", model.final_layer)]
    for name, module in ends:
        module.register_forward_pre_hook(lambda _, given, name=name: seen.__setitem__(name, given[0]))
    names = sublayer_names(model.config)
    cache = FirstBlockCache(names, 1e9)
    model(x, t, y)
    rest = seen["exit"] - seen["entry"]
    model(x, t, y, cache=cache.evaluation(1.0))
    other = 0.7 * x + 0.1
    model(other, t, y)
    entry = seen["entry"]
    visit = cache.evaluation(0.5)
    model(other, t, y, cache=visit)
    torch.testing.assert_close(seen["exit"], entry + rest, rtol=1e-4, atol=1e-5)
    assert [name for name, level in visit.done.items() if level == FULL] == [n for n in names if n.startswith("0.")]
    assert {level for name, level in visit.done.items() if not name.startswith("0.")} == {NONE}
    assert cache.peak_bytes == 2 * rest.numel() * 4
    cache.clear()
    again = cache.evaluation(0.5)
    model(other, t, y, cache=again)
    assert set(again.done.values()) == {FULL}, "nothing is reused after a clear"


def inputs() -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    model = random_model(config(None)).eval().requires_grad_(False)
    shape = 2, model.config.in_channels, *model.config.input_size
    return model, torch.randn(shape), torch.full((2,), 500.0), torch.tensor([0, 1])


def test_the_least_budget_is_that_of_a_plan_that_reuses_all() -> None:
    wanted = config(None)
    costs = sublayer_costs(wanted, wanted.grid)
    found = (costs.dense + 3 * costs.at([NONE] * len(costs.sublayers))) / (4 * costs.dense)
    assert least_budget(costs, 4) == pytest.approx(found)


def test_fewer_steps_reach_from_the_least_budget_to_past_the_highest() -> None:
    assert fewer_steps(20, [0.7, 0.5]) == [15, 14, 13, 12, 11, 10]
    assert fewer_steps(4, [0.7, 0.5]) == [3, 2]
    assert fewer_steps(2, [0.9, 0.4]) == [1]


def test_seconds_are_medians_of_shares_of_the_same_part() -> None:
    """A part in which everything took ten times as long does not move them."""
    seen = PictureSet(Jury(lambda images: images.mean(dim=(2, 3))))
    seen.add(torch.randn(4, 3, 16, 16))
    tallies = [
        Tally(seen, macs=[6.0, 6.0, 6.0], seconds=seconds, processor=[], psnr=[20.0], ssim=[0.5])
        for seconds in ([1.0, 10.0, 1.0], [0.5, 5.0, 0.4])
    ]
    found = tallies[1].row("dense", 8, Way(FEWER, "4 of 8", 4), tallies[0], seen)
    assert found.seconds == 0.5
    assert found.macs == 1.0
    assert found.frechet == pytest.approx(0.0, abs=1e-9)
    assert found.processor is None


def test_rivals_are_those_of_the_same_seconds() -> None:
    learned = row(LEARNED, 25.0, 0.5)
    near, slow = row(FEWER, 24.0, 0.5 + 0.9 * SAME), row("EasyCache", 30.0, 0.5 + 2 * SAME)
    rows = [row(DENSE, math.inf, 1.0), learned, row("calibrated", 40.0, 0.5), near, slow]
    assert rivals_of(learned, rows) == [near]
    assert "no worse than" in beside_rivals(learned, rows)
    assert "WORSE" in beside_rivals(row(LEARNED, 23.9, 0.5), rows)


def test_twenty_decibels_are_ten_times_the_error() -> None:
    (words,) = calibrated_beside_learned([row(LEARNED, 40.0, 0.5), row("calibrated", 20.0, 0.5)])
    assert "10.00 times" in words


def test_the_gain_at_few_steps_is_beside_fewer_steps_that_are_no_slower() -> None:
    rows = [row(LEARNED, 25.0, 0.5), row(FEWER, 22.0, 0.5), row(FEWER, 30.0, 0.8), row("EasyCache", 21.0, 0.6)]
    (words,) = [words for words in verdicts(rows) if "most gain" in words]
    assert "plans +3.0 dB" in words
    assert "step caches -1.0 dB" in words


def test_the_picture_has_a_row_for_every_number_of_steps() -> None:
    rows = [row(method, 20.0 + i, 0.5 + 0.1 * i) for i, method in enumerate((FEWER, LEARNED, "fora"))]
    one = draw_rows(rows)
    more = [row(FEWER, 12.0, 0.6, steps=4), row(DENSE, math.inf, 1.0)]
    two = draw_rows([*rows, *more])
    assert two.width == one.width
    assert two.height > one.height
    with pytest.raises(ValueError, match="nothing but dense"):
        draw_rows(more[1:])


def test_real_sizes_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "real.json"
    assert main(["bench", "--cache-real", "--quick", "--threads", "1", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    found = json.loads(out.read_text(encoding="utf-8"))
    for case in found["solvers"]:
        assert case["model"] in told
        assert all(each["share"] <= case["budget"] and 0 <= each["gap"] < 0.01 for each in case["solvers"])
    for shape in found["levels"]:
        assert shape["name"] in told
        levels = {each["level"]: each for each in shape["levels"]}
        assert levels["full"]["macs"] == 1
        assert levels[".5 of tokens"]["moving"] > levels["full"]["moving"], "tokens are selected there"
        assert levels[".5 of MACs, whole"]["macs"] <= levels[".5 of tokens"]["macs"]
    assert main(["bench", "--cache-real", "--models", "x"]) == 2
