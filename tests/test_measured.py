"""Measured seconds: against the right dense run only, and never with the warm-up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny

from sparsedit_core.config import BackboneConfig
from sparsedit_core.measured import grid_seconds, mean_seconds, speedup
from sparsedit_core.run_record import RunRecord, measure

SPARSE = tiny.config("1+1x[1,1,1,0]+1")
DENSE = tiny.config(depth=5)


def run_of(
    config: BackboneConfig, seconds: list[float], *, grid: int = 2, dense: int = 4, images: int = 2, setting: str = "a"
) -> RunRecord:
    """A run whose evaluations took ``seconds``; 0 is one that a cache answered."""
    sparse = (grid, grid) if config.layout else None
    rows = tuple(
        measure(config, 1.0, 999.0, (dense, dense), sparse, images, images if one else 0, one) for one in seconds
    )
    return RunRecord("a file", config, None, rows, sum(seconds), setting)


def test_the_first_evaluation_does_not_count():
    assert mean_seconds(run_of(DENSE, [100.0, 1.0, 3.0])) == 2.0
    assert mean_seconds(run_of(DENSE, [100.0])) is None
    assert mean_seconds(run_of(DENSE, [])) is None


def test_speedup_is_the_ratio_of_the_means():
    dense, sparse = run_of(DENSE, [9.0, 3.0, 3.0, 3.0]), run_of(SPARSE, [50.0, 1.0, 3.0])
    found = speedup(sparse, [dense, sparse])
    assert found is not None
    assert (found.factor, found.dense) == (1.5, dense)
    assert found.words == "measured 1.50x faster than the dense run"
    slower = speedup(run_of(SPARSE, [0.0, 6.0]), [dense])
    assert slower is not None
    assert slower.words == "measured 2.00x slower than the dense run"


def test_what_a_cache_skipped_is_time_saved():
    found = speedup(run_of(SPARSE, [1.0, 2.0, 0.0]), [run_of(DENSE, [1.0, 2.0])])
    assert found is not None
    assert found.factor == 2.0


def test_the_newest_dense_run_counts():
    first, last = run_of(DENSE, [1.0, 1.0]), run_of(DENSE, [1.0, 2.0])
    found = speedup(run_of(SPARSE, [1.0, 1.0]), [first, last])
    assert found is not None
    assert found.dense is last


@pytest.mark.parametrize(
    "other",
    [
        run_of(replace(DENSE, hidden_size=32), [1.0, 1.0]),
        run_of(DENSE, [1.0, 1.0], dense=8),
        run_of(DENSE, [1.0, 1.0], images=4),
        run_of(DENSE, [1.0, 1.0], setting="cuda"),
        run_of(DENSE, [1.0]),
        run_of(DENSE, [1.0, 0.0]),
        run_of(SPARSE, [1.0, 1.0]),
    ],
    ids=["width", "tokens", "batch", "setting", "one evaluation", "skipped", "sparse"],
)
def test_other_runs_are_no_measure(other):
    assert speedup(run_of(SPARSE, [1.0, 1.0]), [other]) is None


def test_no_figure_for_dense_runs_and_single_evaluations():
    dense = run_of(DENSE, [1.0, 1.0])
    assert speedup(dense, [dense]) is None
    assert speedup(run_of(SPARSE, [1.0]), [dense]) is None


def test_a_model_made_at_another_size_is_of_the_same_shape():
    dense = run_of(replace(DENSE, input_size=(16, 16)), [1.0, 1.0])
    assert speedup(run_of(replace(SPARSE, sparse_side=3), [1.0, 1.0]), [dense]) is not None


def test_seconds_by_grid():
    runs = [
        run_of(DENSE, [9.0, 4.0, 6.0]),
        run_of(SPARSE, [9.0, 1.0, 2.0], grid=1),
        run_of(SPARSE, [9.0, 3.0], grid=2),
        run_of(SPARSE, [9.0, 1.0, 0.0], grid=2),
        run_of(SPARSE, [9.0, 8.0], grid=3, images=4),
        run_of(SPARSE, [9.0, 8.0], grid=2, dense=8),
        run_of(replace(SPARSE, hidden_size=32), [9.0, 8.0]),
    ]
    assert grid_seconds(runs, SPARSE, (4, 4)) == {None: 2.5, (1, 1): 0.75, (2, 2): 1.0, (3, 3): 2.0}
    assert grid_seconds(runs, SPARSE, (4, 4), images=2) == {None: 2.5, (1, 1): 0.75, (2, 2): 1.0}
    newer = [*runs, run_of(SPARSE, [9.0, 6.0], grid=2, setting="cuda")]
    assert grid_seconds(newer, SPARSE, (4, 4)) == {(2, 2): 3.0}
    assert grid_seconds([], SPARSE, (4, 4)) == {}
