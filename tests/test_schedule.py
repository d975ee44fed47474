"""PruningSchedule: the paper's token sides, exact ends, monotone grids, buckets, JSON, refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedit_core.schedule import PRESETS, PruningSchedule

rates = st.floats(0.0, 0.99)
times = st.floats(0.0, 1.0)
CURVES = ("linear", "cosine", "steps", "custom")
grids = st.tuples(st.integers(1, 70), st.integers(1, 70))


@st.composite
def schedules(draw: st.DrawFn, curves: tuple[str, ...] = CURVES, window: bool = False) -> PruningSchedule:
    low, high = sorted((draw(rates), draw(rates)))
    curve = draw(st.sampled_from(curves))
    points: list[tuple[float, float]] = []
    if curve == "custom":
        where = draw(st.lists(st.floats(0.01, 0.99), max_size=4, unique=True))
        points = [(t, draw(st.floats(low, high))) for t in sorted(where)]
    start, end = sorted(draw(st.tuples(times, times))) if window else (0.0, 1.0)
    if start == end:
        start, end = 0.0, 1.0
    return PruningSchedule(
        rate_noise=high,
        rate_clean=low,
        hold_fraction=draw(st.floats(0.0, 0.95)),
        hold=draw(st.sampled_from(("noise", "clean"))),
        curve=curve,
        levels=draw(st.none() | st.integers(2, 9)),
        steps=draw(st.integers(2, 7)),
        points=tuple(points),
        start=start,
        end=end,
    )


@pytest.mark.parametrize(
    ("preset", "side", "noise", "clean"),
    [
        ("256 fast", 16, 6, 10),
        ("256 quality", 16, 10, 12),
        ("512 quality", 32, 12, 20),
        ("512 fast", 32, 6, 10),
    ],
)
@pytest.mark.parametrize("hold", ["noise", "clean"])
def test_sides_behind_the_papers_ranges(preset: str, side: int, noise: int, clean: int, hold: str) -> None:
    schedule = replace(PRESETS[preset], hold=hold)
    assert schedule.grid(1.0, (side, side)) == (noise, noise)
    assert schedule.grid(0.0, (side, side)) == (clean, clean)


def test_exact_levels_pass_through_every_side() -> None:
    exact = replace(PRESETS["512 quality"], levels=None)
    assert [grid[0] for _, _, grid in exact.buckets((32, 32))] == list(range(20, 11, -1))
    assert PRESETS["512 quality"].sides(32) == (12, 14, 15, 17, 18, 20)


def test_hold_names_the_quarter_that_stands_still() -> None:
    noise = PruningSchedule(0.86, 0.61)
    clean = PruningSchedule(0.86, 0.61, hold="clean")
    assert noise.rate(0.75) == noise.rate(1.0) == 0.86
    assert noise.rate(0.74) < 0.86
    assert clean.rate(0.25) == clean.rate(0.0) == 0.61
    assert clean.rate(0.26) > 0.61
    assert noise.rate(0.375) == pytest.approx(0.735)
    assert clean.rate(0.625) == pytest.approx(0.735)


@given(schedules())
def test_ends_are_exact(schedule: PruningSchedule) -> None:
    assert schedule.rate(0.0) == schedule.rate_clean
    assert schedule.rate(1.0) == schedule.rate_noise
    side = 40
    for time, rate in ((0.0, schedule.rate_clean), (1.0, schedule.rate_noise)):
        expected = max(1, math.floor(math.sqrt(1 - rate) * side + 0.5))
        assert schedule.grid(time, (side, side)) == (expected, expected)


@given(schedules(("linear", "cosine", "steps")), times, times, grids)
def test_more_noise_never_means_more_tokens(
    schedule: PruningSchedule, a: float, b: float, dense: tuple[int, int]
) -> None:
    a, b = sorted((a, b))
    assert schedule.rate_clean <= schedule.rate(a) <= schedule.rate(b) <= schedule.rate_noise
    first, second = schedule.grid(a, dense), schedule.grid(b, dense)
    assert first[0] >= second[0]
    assert first[1] >= second[1]


@given(schedules(window=True), times, grids)
def test_grid_is_python_ints_inside_the_dense_grid_at_its_aspect(
    schedule: PruningSchedule, time: float, dense: tuple[int, int]
) -> None:
    h, w = schedule.grid(time, dense)
    assert type(h) is int
    assert type(w) is int
    assert 1 <= h <= dense[0]
    assert 1 <= w <= dense[1]
    scale = max(h, w) / max(dense)
    assert abs(h - scale * dense[0]) < 1
    assert abs(w - scale * dense[1]) < 1


@given(schedules(), grids)
def test_grid_without_levels_has_the_rate_of_its_time(
    schedule: PruningSchedule, dense: tuple[int, int]
) -> None:
    exact = replace(schedule, levels=None)
    for i in range(11):
        scale = math.sqrt(1 - exact.rate(i / 10))
        assert all(
            abs(n - max(scale * N, 1)) <= 1.0 + 1e-9
            for n, N in zip(exact.grid(i / 10, dense), dense, strict=True)
        )


@given(schedules(), grids)
def test_levels_bound_the_grids_of_a_run(schedule: PruningSchedule, dense: tuple[int, int]) -> None:
    seen = {schedule.grid(i / 400, dense) for i in range(401)}
    assert schedule.levels is None or len(seen) <= schedule.levels
    assert {max(grid) for grid in seen} <= set(schedule.sides(max(dense)))


@settings(max_examples=60)
@given(schedules(window=True), grids, st.lists(times, max_size=20))
def test_buckets_cover_time_and_agree_with_grid(
    schedule: PruningSchedule, dense: tuple[int, int], when: list[float]
) -> None:
    buckets = schedule.buckets(dense)
    assert buckets[0][0] == 0.0
    assert buckets[-1][1] == 1.0
    for (_, border, grid), (begin, _, following) in pairwise(buckets):
        assert border == begin
        assert grid != following
    inside = [(a + b) / 2 for a, b, _ in buckets if b - a > 1e-9]
    for time in [*when, *inside]:
        for a, b, grid in buckets:
            if a + 1e-9 < time < b - 1e-9:
                assert schedule.grid(time, dense) == grid


def test_outside_start_and_end_the_grid_is_dense() -> None:
    schedule = PruningSchedule(0.86, 0.61, start=0.2, end=0.6)
    assert schedule.grid(0.9, (16, 20)) == schedule.grid(0.1, (16, 20)) == (16, 20)
    assert schedule.rate(0.9) == 0.0
    assert not schedule.active(0.9)
    assert schedule.active(0.8)
    assert schedule.active(0.4)
    assert schedule.rate(0.8) == 0.86
    buckets = PruningSchedule(0.86, 0.86, start=0.2, end=0.6).buckets((16, 16))
    widths = {grid: round(b - a, 9) for a, b, grid in buckets}
    assert widths[(6, 6)] == 0.4


@given(schedules(window=True))
def test_json_round_trip(schedule: PruningSchedule) -> None:
    assert PruningSchedule.from_json(json.loads(json.dumps(schedule.to_json()))) == schedule
    assert schedule.to_json()["version"] == 1


def test_times_beyond_the_ends_count_as_the_ends() -> None:
    schedule = PRESETS["256 fast"]
    assert schedule.rate(1.2) == 0.86
    assert schedule.rate(-0.1) == 0.61
    with pytest.raises(ValueError, match="NaN"):
        schedule.rate(math.nan)


def test_custom_curve_follows_its_points_and_takes_the_ends_too() -> None:
    schedule = PruningSchedule(0.9, 0.5, curve="custom", points=((0.0, 0.5), (0.5, 0.8), (1.0, 0.9)))
    assert schedule.points == ((0.5, 0.8),)
    assert schedule.rate(0.25) == pytest.approx(0.65)
    assert schedule.rate(0.75) == pytest.approx(0.85)


def test_steps_have_equal_plateaus() -> None:
    schedule = PruningSchedule(0.8, 0.2, curve="steps", steps=3, hold_fraction=0.0, levels=None)
    assert [schedule.rate(t) for t in (0.1, 0.5, 0.9)] == pytest.approx([0.2, 0.5, 0.8])
    assert [round(b - a, 6) for a, b, _ in schedule.buckets((32, 32))] == pytest.approx([1 / 3] * 3, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate_noise": 1.0}, "rate_noise is 1; it must be at least 0 and below 1"),
        ({"rate_clean": -0.1}, "rate_clean is -0.1"),
        ({"rate_noise": 0.5}, "swap them: rate_noise=0.61, rate_clean=0.5"),
        ({"rate_noise": math.nan}, "finite number"),
        ({"rate_noise": "high"}, "finite number"),
        ({"hold_fraction": 1.0}, "hold_fraction"),
        ({"hold": "middle"}, "noise, clean"),
        ({"curve": "wave"}, "linear, cosine, steps, custom"),
        ({"levels": 1}, "at least 2"),
        ({"levels": 2.5}, "at least 2"),
        ({"steps": 1}, "at least 2 plateaus"),
        ({"start": 0.5, "end": 0.5}, "start < end"),
        ({"end": 1.5}, "start < end"),
        ({"points": ((0.5, 0.7),)}, 'only curve="custom"'),
        ({"curve": "custom", "points": ((0.5, 0.7), (0.4, 0.7))}, "ascend in time"),
        ({"curve": "custom", "points": ((0.5, 0.2),)}, "between rate_clean"),
        ({"curve": "custom", "points": ((1.5, 0.7),)}, r"lie in \[0, 1\]"),
        ({"curve": "custom", "points": ((1.0, 0.7),)}, "contradicts"),
        ({"curve": "custom", "points": (0.5,)}, "pair of numbers"),
        ({"curve": "custom", "points": ((0.5, 10**400),)}, "pair of numbers"),
        ({"curve": "custom", "points": 5}, "points are 5; give a list"),
        ({"points": None}, "points are None; give a list"),
        ({"points": {"0.5": 0.7}}, "give a list"),
    ],
)
def test_bad_values_are_refused_with_the_way_out(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PruningSchedule(**({"rate_noise": 0.86, "rate_clean": 0.61} | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 2, this program reads up to 1; update"),
        ({"version": None}, "version None"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_json_of_another_kind_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PruningSchedule.from_json(PRESETS["256 fast"].to_json() | change)
    with pytest.raises(ValueError, match="lacks"):
        PruningSchedule.from_json({"version": 1})


@pytest.mark.parametrize("dense", [(0, 16), (16,), (16.5, 16), "ab"])
def test_bad_dense_grids_are_refused(dense: object) -> None:
    with pytest.raises(ValueError, match="rows, columns"):
        PRESETS["256 fast"].grid(0.5, dense)  # type: ignore[arg-type]
