"""Sweeps: their schedules against ones made by hand, what is refused, and where the sheet shows what."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny import config

from sparsedit_core.picture_record import picture_record, with_record
from sparsedit_core.run_record import RunRecord, measure
from sparsedit_core.schedule import PRESETS, PruningSchedule
from sparsedit_core.sweep import MAX_CELLS, build_sweep, parse_rates, parse_values
from sparsedit_core.sweep_sheet import Result, draw_sweep, sweep_json, sweep_table

BASE = PruningSchedule(0.7, 0.3, hold_fraction=0.1, curve="cosine", levels=4, steps=3, start=0.05, end=0.9)


def test_rows_hold_the_axis_and_columns_the_rates() -> None:
    sweep = build_sweep(BASE, "0.9:0.2,\n512 fast", "hold_fraction", "0, 0.5")
    assert sweep.columns == ("0.9 to 0.2", "512 fast")
    assert sweep.rows == ("hold_fraction 0", "hold_fraction 0.5")
    keep = {"curve": "cosine", "levels": 4, "steps": 3, "start": 0.05, "end": 0.9}
    fast = PRESETS["512 fast"].rate_noise, PRESETS["512 fast"].rate_clean
    expected = [PruningSchedule(*rates, hold_fraction=h, **keep) for h in (0, 0.5) for rates in ((0.9, 0.2), fast)]
    assert [cell.schedule for cell in sweep.cells] == expected
    assert sweep.cells[1].name == "512 fast, hold_fraction 0"


def test_a_preset_of_ones_own_gives_all_but_what_the_rows_say() -> None:
    mine = PruningSchedule(0.8, 0.4, hold="clean", curve="custom", points=((0.5, 0.6),), end=0.8)
    own = {"Mine": mine, "slow, soft": replace(mine, curve="cosine", points=(), levels=None)}
    sweep = build_sweep(BASE, "0.9:0.2, Mine\n slow, soft \n512 fast", "hold_fraction", "0, 0.5", own)
    assert sweep.columns == ("0.9 to 0.2", "Mine", "slow, soft", "512 fast")
    assert [cell.schedule for cell in sweep.cells[1:3]] == [replace(own[name], hold_fraction=0) for name in own]
    assert sweep.cells[0].schedule == replace(BASE, rate_noise=0.9, rate_clean=0.2, hold_fraction=0)
    linear, custom = build_sweep(BASE, "Mine", "curve", "linear, custom", own).cells
    assert (linear.schedule, custom.schedule) == (replace(mine, curve="linear", points=()), mine)
    with pytest.raises(ValueError, match=r"the cell slow, soft, curve custom has .* the preset schedule has no points"):
        build_sweep(replace(mine, rate_noise=0.7), "slow, soft", "curve", "custom", own)
    with pytest.raises(ValueError, match=r"'Mime'; write pairs .* 512 fast, Mine, slow, soft"):
        parse_rates("Mime", own)
    with pytest.raises(ValueError, match="'Mine' twice"):
        parse_rates("Mine, Mine", own)


@pytest.mark.parametrize(
    ("axis", "text", "field", "values"),
    [
        ("hold", "noise, clean", "hold", ["noise", "clean"]),
        ("curve", "linear, steps", "curve", ["linear", "steps"]),
        ("levels", "0, 2, 6", "levels", [None, 2, 6]),
        ("end_percent", "0.5, 1", "end", [0.5, 1.0]),
    ],
)
def test_every_axis_sets_its_value(axis: str, text: str, field: str, values: list[object]) -> None:
    sweep = build_sweep(BASE, "0.5:0.5", axis, text)
    assert [getattr(cell.schedule, field) for cell in sweep.cells] == values


def test_points_stay_only_with_a_custom_curve() -> None:
    base = PruningSchedule(0.7, 0.3, curve="custom", points=((0.5, 0.4),))
    linear, custom = build_sweep(base, "0.7:0.3", "curve", "linear, custom").cells
    assert (linear.schedule.points, custom.schedule.points) == ((), ((0.5, 0.4),))
    with pytest.raises(ValueError, match=r"the cell 0\.9 to 0\.5, hold noise of the sweep cannot be: point \(0\.5"):
        build_sweep(base, "0.7:0.3, 0.9:0.5", "hold", "noise")
    with pytest.raises(ValueError, match="no points"):
        build_sweep(BASE, "0.7:0.3", "curve", "custom")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "x_values is empty"),
        (" ,\n", "x_values is empty"),
        ("0.5", "'0.5'; write pairs"),
        ("0.5:0.4:0.3", "write pairs"),
        ("512 slow", "names of presets"),
        ("0.4:0.5", r"'0.4:0.5': rate_noise 0.4 is below"),
        ("1.5:0.5", "'1.5:0.5': rate_noise is 1.5"),
        ("nan:0.5", "finite"),
        ("0.5:0.4, 0.50:0.40", "twice"),
    ],
)
def test_bad_rates_are_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_rates(text)


@pytest.mark.parametrize(
    ("axis", "text", "words"),
    [
        ("hold_fraction", "0, one", "'one', which cannot be hold_fraction"),
        ("hold_fraction", "1", "'1'"),
        ("hold", "left", "'left'"),
        ("curve", "round", "'round'"),
        ("levels", "1", "at least 2"),
        ("levels", "2.5", "'2.5'"),
        ("end_percent", "0", "'0'"),
        ("hold", "noise, noise", "twice"),
        ("start_percent", "0", "choose one of hold_fraction"),
        ("hold", "", "y_values is empty"),
    ],
)
def test_bad_values_are_named(axis: str, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_values(axis, text)


def test_the_number_of_cells_is_bounded() -> None:
    rates = ", ".join(f"0.{number}:0.1" for number in range(10, 10 + MAX_CELLS // 2))
    assert len(build_sweep(BASE, rates, "hold", "noise, clean").cells) == MAX_CELLS
    with pytest.raises(ValueError, match=f"at most {MAX_CELLS}"):
        build_sweep(BASE, rates + ", 0.9:0.1", "hold", "noise, clean")


def results(size: tuple[int, int], rates: str = "0.9:0.2, 0.5:0.5", rows: str = "noise, clean") -> tuple:
    """A sweep, the reference and the results of each cell, their pictures of one colour each."""
    sweep = build_sweep(BASE, rates, "hold", rows)
    wanted, colours = config("1+1x[1,1,1,1]+1"), random.Random(0)
    out = []
    for number, cell in enumerate([None, *sweep.cells]):
        evaluation = measure(wanted, 1.0, 999.0, (8, 8), (4 + number % 3, 4), 2, 2, 0.25)
        run = RunRecord("model", wanted, cell and cell.schedule, (evaluation, evaluation), 2.0)
        picture = Image.new("RGB", size, tuple(colours.randrange(30, 220) for _ in range(3)))
        out.append(Result(cell, picture, run, 10.0 + number if cell else math.inf))
    return sweep, out[0], out[1:]


@pytest.mark.parametrize("size", [(64, 64), (100, 20), (20, 300), (1024, 512), (384, 384)])
def test_the_sheet_shows_every_picture_once_in_its_place(size: tuple[int, int]) -> None:
    sweep, reference, cells = results(size)
    sheet = draw_sweep(sweep, reference, cells, title="Schedules", below="seed 1")
    boxes = []
    for result in (reference, *cells):
        mask = (np.asarray(sheet) == result.picture.getpixel((0, 0))).all(axis=2)
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        shown = box[2] - box[0], box[3] - box[1]
        assert mask.sum() == shown[0] * shown[1], "one whole rectangle"
        assert math.isclose(shown[0] / shown[1], size[0] / size[1], rel_tol=0.1)
        assert max(shown) <= 384
        boxes.append(box)
    first, second, third, fourth = boxes[1:]
    assert boxes[0][2] < first[0] < second[0]
    assert (first[1], second[1], first[0], second[0]) == (boxes[0][1], first[1], third[0], fourth[0])
    assert third[1] == fourth[1] > first[3]


def test_table_and_json_agree_with_the_runs() -> None:
    sweep, reference, cells = results((8, 8))
    lines = sweep_table(reference, cells).splitlines()
    assert len({len(line) for line in lines}) == 1, "columns stand under each other"
    assert [line.split("  ")[0].strip() for line in lines[1:]] == ["dense tokens", *(cell.name for cell in sweep.cells)]
    entries = sweep_json(reference, cells)["runs"]
    for entry, result in zip(entries, (reference, *cells), strict=True):
        assert {name: entry[name] for name in result.run.to_json()} == result.run.to_json()
        assert entry["model_seconds"] == 0.5
    assert [entry["psnr"] for entry in entries] == [None, 11.0, 12.0, 13.0, 14.0]
    assert (entries[2]["column"], entries[2]["row"]) == ("0.5 to 0.5", "hold noise")


def test_a_record_without_a_report_is_the_version_and_nothing_is_changed() -> None:
    record = picture_record(" \n")
    assert set(record) == {"version"}
    info = {"workflow": {"nodes": [], "extra": {"ds": 1}}, "x": 2}
    told = with_record(info, record)
    assert info == {"workflow": {"nodes": [], "extra": {"ds": 1}}, "x": 2}
    workflow = {"nodes": [], "extra": {"ds": 1, "sparsedit": record}}
    assert told == {"workflow": workflow, "x": 2, "sparsedit": record}
    assert with_record(None, record) == {"sparsedit": record}
