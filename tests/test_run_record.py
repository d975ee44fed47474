"""The account of a sampling run: sums, words, JSON, picture."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny
import torch

from sparsedit_core.cost import macs
from sparsedit_core.device import wait
from sparsedit_core.run_record import RunRecord, measure, progress_words
from sparsedit_core.schedule import PruningSchedule
from sparsedit_core.units import amount, macs_text

SPARSE = tiny.config("1+1x[1,1,1,0]+1")
SCHEDULE = PruningSchedule(0.9, 0.5, levels=None)


def record(count: int = 4, seconds: float = 0.5) -> RunRecord:
    times = [1 - i / count for i in range(count)]
    grids = [SCHEDULE.grid(time, (4, 4)) for time in times]
    pairs = zip(times, grids, strict=True)
    rows = tuple(measure(SPARSE, time, 999 * time, (4, 4), grid, 6, 6, seconds) for time, grid in pairs)
    return RunRecord("a file", SPARSE, SCHEDULE, rows, seconds * count)


def test_macs_are_those_of_the_cost_model_times_the_images():
    (row, *_) = record().evaluations
    assert row.macs == 6 * macs(SPARSE, (8, 8), sparse_grid=row.sparse, factor=1).total
    assert row.dense_macs == 6 * macs(tiny.config(depth=5), (8, 8), factor=1).total


def test_totals_and_json():
    run = record()
    data = json.loads(json.dumps(run.to_json()))
    assert data["macs"] == run.macs == sum(row["macs"] for row in data["evaluations"])
    assert data["flops"] == 2 * data["macs"]
    assert data["ratio_to_dense"] == run.macs / run.dense_macs < 1
    assert PruningSchedule.from_json(data["schedule"]) == SCHEDULE
    assert len(data["evaluations"]) == 4


def test_halves_join():
    row = record().evaluations[0]
    both = row.joined(row)
    assert (both.images, both.macs, both.dense_macs) == (12, 2 * row.macs, 2 * row.dense_macs)
    assert (both.time, both.sparse, both.seconds) == (row.time, row.sparse, 1.0)


def test_words():
    text = record().text()
    assert text.count("\n") == 1 + 4 + 3
    assert "1x1 = 1" in text
    assert "% of dense" in text
    assert "no evaluation" in RunRecord("a file", SPARSE, None, (), 0.0).text()


def test_skipped_evaluations_cost_nothing():
    row = measure(SPARSE, 0.5, 500.0, (4, 4), (2, 2), 6, 0, 0.1)
    assert (row.macs, row.tokens, row.grid_name) == (0, 0, "-")
    run = RunRecord("a file", SPARSE, None, (*record(1).evaluations, row), 1.0)
    assert run.ratio == run.evaluations[0].macs / (2 * row.dense_macs)
    assert "skipped" in run.text()
    assert "every evaluation was skipped" in RunRecord("a file", SPARSE, None, (row,), 1.0).text()


@pytest.mark.parametrize(("count", "words"), [(0, "0"), (999, "999"), (1234, "1.23 k"), (5e15, "5000.00 T")])
def test_amounts(count, words):
    assert amount(count) == words


def test_both_names_and_units():
    assert macs_text(78.414e9) == "78.41 GMACs (156.83 GFLOPs)"
    assert macs_text(7) == "7 MACs (14 FLOPs)"
    text, row = record().text(), record().evaluations[0]
    assert " MACs " in text.splitlines()[1]
    assert " FLOPs " in text.splitlines()[1]
    assert amount(2 * row.macs) in text.splitlines()[2]


def test_one_line_for_logs_and_nodes():
    run = record(3)
    assert run.headline() == f"3 evaluations, {100 * run.ratio:.1f} % of dense MACs, 1.50 s"
    assert run.summary() == f"1x1 to 2x2 of 4x4 tokens, {run.headline()}"
    assert record(1).summary().startswith("1x1 of 4x4 tokens, 1 evaluation, ")
    skipped = replace(run.evaluations[2], macs=0)
    cached = replace(run, evaluations=(*run.evaluations[:2], skipped))
    assert "3 evaluations (1 skipped), " in cached.headline()
    assert replace(run, evaluations=()).summary() == "no evaluation of the model"


def test_progress_tells_grid_and_share_so_far():
    row = record().evaluations[0]
    told = "evaluation 7, time 1.00: 1x1 of 4x4 tokens (6%), 41.2 % of dense MACs so far"
    assert progress_words(7, row, 0.412) == told
    assert ": skipped, 41.2 %" in progress_words(8, replace(row, macs=0), 0.412)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_times_are_taken_when_the_device_is_done(kind, monkeypatch):
    waited = []
    monkeypatch.setattr(getattr(torch, kind), "synchronize", lambda *device: waited.append(device))
    wait(torch.device(kind))
    wait(torch.device("cpu"))
    assert len(waited) == 1
