"""``ablate``: plans, rows that finetune and evaluate give too, runs that diverge or are interrupted, refusals."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import small_model
from cli_models import LAYOUT, PIXELS, Cli, keyboard, save_latents, save_pixels
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import SPARSE_LAYOUTS

import sparsedit_core as sd
from sparsedit_core.checkpoint import Latent
from sparsedit_core.cli import ablate, watching
from sparsedit_core.cli.ablate_text import report_text
from sparsedit_core.train.ablation import (
    POOLED,
    Variant,
    fixed_schedule,
    layout_of,
    paper_plan,
    plan_from_json,
    plan_to_json,
    reference_layout,
)
from sparsedit_core.train.pictures import CLASS_NAMES

MOVING = sd.PruningSchedule(rate_noise=0.86, rate_clean=0.61)
SHORT = ("--pictures", 12, "--batch", 4, "--warmup", 1, "--save-every", 4, "--cpu", "--sparse-side", 4)
JUDGED = ("--samples", 8, "--steps", 2, "--by-time", 4)
SCHEDULES = st.builds(
    lambda rates, **rest: sd.PruningSchedule(max(rates), min(rates), **rest),
    st.tuples(st.floats(0, 0.95), st.floats(0, 0.95)),
    hold_fraction=st.floats(0, 0.9),
    hold=st.sampled_from(["noise", "clean"]),
    curve=st.sampled_from(["linear", "cosine", "steps"]),
    levels=st.sampled_from([None, 2, 6]),
)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pixels(tmp_path_factory.mktemp("dense") / "dense.safetensors")


def plan(folder: Path, *variants: dict[str, Any]) -> tuple[str, Path]:
    """The words that give a plan to the command."""
    path = folder / "plan.json"
    path.write_text(json.dumps({"version": 1, "variants": list(variants)}))
    return "--plan", path


TWO = ({"name": "dense", "layout": None}, {"name": "Sparse!", "layout": LAYOUT})


def test_the_papers_layouts() -> None:
    assert str(reference_layout(28)) == "2+4x[1,3,1,1]+2"  # the released trainer's defaults
    assert str(layout_of(28, 1, 4)) == "1+4x[1,3,1,1]+3"  # the released log of the ablation
    fixed = fixed_schedule(MOVING, (16, 16))
    assert {grid for *_, grid in fixed.buckets((16, 16))} == {(8, 8)}  # PAPERS 1.6: fixed 8x8 against 6..10
    assert {grid for *_, grid in MOVING.buckets((16, 16))} == {(side, side) for side in range(6, 11)}


@given(st.integers(8, 60))
def test_the_plan_varies_one_thing_at_a_time(depth: int) -> None:
    variants = paper_plan(depth, MOVING, (16, 16))
    layouts = [one.layout for one in variants if isinstance(one.layout, sd.SegmentLayout)]
    most = min(4, (depth - 4) // 4)
    counted = [(layout.bottom, len(layout.modules)) for layout in layouts]
    assert sorted(counted) == sorted([*((k, most) for k in POOLED), *((2, m) for m in range(1, most)), (2, most)])
    for layout in layouts:
        assert (layout.depth, layout.bottom + layout.top) == (depth, 4)
        assert {(g, r, d) for g, _, r, d in layout.modules} == {(1, 1, 1)}
        sparse = [count for _, count, _, _ in layout.modules]
        assert min(sparse) >= 1
        assert max(sparse) - min(sparse) <= 1
    assert [one.name for one in variants if one.schedule not in (None, MOVING)] == [variants[-2].name]
    assert len({one.stem for one in variants}) == len(variants)
    assert (variants[0].layout, variants[-1].layout) == (None, "suggested")


@given(SCHEDULES, st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_a_fixed_grid_has_the_mean_rate(schedule: sd.PruningSchedule, grid: tuple[int, int]) -> None:
    times = (np.arange(500) + 0.5) / 500
    kept = np.mean([np.prod(schedule.grid(float(time), grid)) for time in times]) / (grid[0] * grid[1])
    fixed = fixed_schedule(schedule, grid)
    # each of the few borders between grids moves the mean by less than one sample
    assert fixed.rate(0.5) == pytest.approx(1 - kept, abs=len(schedule.buckets(grid)) / 500)
    assert fixed.rate_noise == fixed.rate_clean
    assert len(fixed.buckets(grid)) == 1


@given(SPARSE_LAYOUTS, SCHEDULES, st.sampled_from(["suggested", None, "own"]))
def test_plans_survive_json(layout: sd.SegmentLayout, schedule: sd.PruningSchedule, kind: str | None) -> None:
    chosen: Any = layout if kind == "own" else kind
    variants = (Variant("a", chosen, None if kind is None else schedule), Variant("b 2", layout, MOVING))
    data = json.loads(json.dumps(plan_to_json(variants)))
    assert plan_from_json(data, layout.depth, MOVING, (4, 4)) == variants


def test_rows_are_what_finetune_and_evaluate_give(cli: Cli, dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    variants = (*TWO, {"name": "fixed", "layout": LAYOUT, "schedule": "fixed"})
    report = cli.works("ablate", dense, out, *plan(tmp_path, *variants), *SHORT, *JUDGED, "--json").json
    assert json.loads((out / "ablation.json").read_text()) == report
    same, trained = tmp_path / "same.safetensors", tmp_path / "trained.safetensors"
    rates = ("--rate-noise", 0.86, "--rate-clean", 0.61)
    cli.works("finetune", dense, same, "--layout", LAYOUT, *rates, *SHORT)
    cli.works("train", trained, "--init", dense, *SHORT[:-2])
    for found, expected in (("dense", trained), ("sparse", same)):
        ours, theirs = load_file(out / f"{found}.safetensors"), load_file(expected)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    judged = cli.works("evaluate", trained, same, *JUDGED, "--seeds", 0, "--json").json
    for row, other in zip(report["rows"], judged["models"], strict=False):
        for name in ("accuracy", "frechet", "precision", "recall", "by_time"):
            assert row[name] == other[name]
        assert row["error"] == pytest.approx(np.mean([entry["error"] for entry in other["by_time"]["times"]]))
    assert report["floor"] == judged["floor"]
    whole, moving, fixed = report["rows"]
    assert (whole["macs_ratio"], whole["grids"], whole["layout"]) == (1.0, [], None)
    assert moving["grids"] == [[3, 3], [4, 4], [5, 5]]  # noise first; of 8 x 8 tokens
    assert moving["loss"] == sd.load_checkpoint(same).metadata["train"]["loss"]
    assert len(fixed["grids"]) == 1
    (side, _), config = fixed["grids"][0], sd.load_checkpoint(same).config
    one, every = (sd.macs(c, sparse_side=side).total for c in (config, sd.load_checkpoint(dense).config))
    assert fixed["macs_ratio"] == pytest.approx(one / every)
    assert sd.load_checkpoint(out / "fixed.safetensors").schedule == fixed_schedule(MOVING, (8, 8))
    page = (out / "ablation.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in page if line.startswith("|")][2:] == ["dense", "Sparse!", "fixed"]
    assert not list(out.glob("*.state"))


def test_the_default_plan_with_a_suggested_layout(cli: Cli, tmp_path: Path) -> None:
    model = small_model(None, 0, **(PIXELS | {"depth": 8}))
    dense = tmp_path / "eight.safetensors"
    sd.save_checkpoint(dense, model, prediction="flow", latent=Latent(3, 0.5, 1, "pixel"), class_names=CLASS_NAMES)
    result = cli.works("ablate", dense, tmp_path / "out", *SHORT, *JUDGED)
    report = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [row["name"] for row in report["rows"]] == [
        "dense", *(f"{k} pooled, 1 SDTM" for k in range(4)), "2 pooled, 1 SDTM, fixed grid", "suggested"
    ]  # fmt: skip
    (chosen,), rows = report["suggestions"], {row["name"]: row for row in report["rows"]}
    assert chosen["budget"] == rows["2 pooled, 1 SDTM"]["macs_ratio"]
    assert chosen["layout"] == rows[chosen["row"]]["layout"] == chosen["candidates"][0]["layout"]
    assert rows["suggested"]["macs_ratio"] <= chosen["budget"] + 1e-12
    assert result.out == report_text(report) + "\n"
    looked = cli.works("analyze", dense, "--budget", chosen["budget"], "--json").json
    assert looked["suggestion"]["layout"] == chosen["layout"]


def test_a_suggested_layout_that_has_a_row_is_not_trained_twice(cli: Cli, dense: Path, tmp_path: Path) -> None:
    budget = ("--budget", 0.9)
    layout = cli.works("analyze", dense, *budget, "--json").json["suggestion"]["layout"]
    found = plan(tmp_path, {"name": "mine", "layout": layout}, {"name": "theirs", "layout": "suggested"})
    report = cli.works("ablate", dense, tmp_path / "out", *found, *budget, *SHORT, *JUDGED, "--json").json
    assert [row["name"] for row in report["rows"]] == ["mine"]
    assert [(one["name"], one["row"]) for one in report["suggestions"]] == [("theirs", "mine")]


def test_a_run_that_diverges_is_a_row(cli: Cli, dense: Path, tmp_path: Path) -> None:
    words = (*plan(tmp_path, *TWO), *SHORT, *JUDGED, "--learning-rate", 1e30, "--clip", 0)
    result = cli.works("ablate", dense, tmp_path / "out", *words)
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]
    assert [row["loss"] for row in rows] == [None, None]
    assert all(row["failure"].startswith("the loss is nan") and row["frechet"] is None for row in rows)
    assert [line.split().count("diverged") for line in result.out.splitlines()[2:4]] == [1, 1]
    # the last step of a run is not followed by a loss that would show it: there it is the pictures
    words = (*plan(tmp_path, TWO[1]), *SHORT, *JUDGED, "--learning-rate", 1e30, "--clip", 0, "--pictures", 4)
    (row,) = cli.works("ablate", dense, tmp_path / "short", *words, "--json").json["rows"]
    assert row["loss"] > 0
    assert row["failure"].startswith("the model gave NaN")
    assert (tmp_path / "short" / "sparse.safetensors").is_file()


def test_an_interrupted_ablation_goes_on_to_the_same_table(
    cli: Cli, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*plan(tmp_path, *TWO), *SHORT, *JUDGED, "--json")
    whole = cli.works("ablate", dense, tmp_path / "whole", *words).json
    out, step = tmp_path / "out", watching.Bar.step

    def interrupted(self: watching.Bar, progress: Any, model: Any) -> None:
        step(self, progress, model)
        if progress.step == 1 and (out / "sparse.log.jsonl").exists():
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(watching.Bar, "step", interrupted)
    with keyboard(), pytest.raises(SystemExit) as end:
        cli("ablate", dense, out, *words)
    assert end.value.code == 130
    monkeypatch.undo()
    kept = json.loads((out / "ablation.json").read_text())
    assert [row["name"] for row in kept["rows"]] == ["dense"]
    assert "1 variants are still to come" in (out / "ablation.md").read_text()
    made, before = out / "dense.safetensors", (out / "dense.safetensors").stat().st_mtime_ns
    assert "--resume" in cli.refuses("ablate", dense, out, *words)
    assert "training was {'seed': 0}" in cli.refuses("ablate", dense, out, *words, "--resume", "--seed", 1)
    assert "judging was {'samples': 8}" in cli.refuses("ablate", dense, out, *words, "--resume", "--samples", 9)
    kept["floor"]["frechet"] *= 1.1
    (out / "ablation.json").write_text(json.dumps(kept))
    assert "the real pictures or who judges them changed" in cli.refuses("ablate", dense, out, *words, "--resume")
    kept["floor"]["frechet"] /= 1.1
    (out / "ablation.json").write_text(json.dumps(kept))
    report = cli.works("ablate", dense, out, *words, "--resume").json
    assert made.stat().st_mtime_ns == before
    for row in (*report["rows"], *whole["rows"]):
        for seed in row["seeds"]:
            del seed["seconds"]
    assert report["rows"] == whole["rows"]
    monkeypatch.setattr(ablate, "row_of", None)  # nothing is left to do
    assert cli.works("ablate", dense, out, *words, "--resume").json["rows"][1]["loss"] == whole["rows"][1]["loss"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "holds no plan"),
        ("[]", 'a plan is a JSON object of "version"'),
        ({"version": 2, "variants": [TWO[0]]}, 'a plan is a JSON object of "version": 1'),
        ({"version": 1, "variants": []}, "a list of one object or more"),
        ({"version": 1, "variants": [{"name": "x"}]}, 'variant 1 of the plan: it must be an object of "name"'),
        ({"version": 1, "variants": [{"name": "?", "layout": None}]}, "give a text with a letter"),
        ({"version": 1, "variants": [*TWO, {"name": "sparse", "layout": LAYOUT}]}, "variant 3 of the plan: its name"),
        ({"version": 1, "variants": [{"name": "x", "layout": "1+1x[1,1,1,1]+1"}]}, "has 6 blocks but the model has 5"),
        ({"version": 1, "variants": [{"name": "x", "layout": "one"}]}, "cannot read layout 'one'"),
        ({"version": 1, "variants": [{"name": "x", "layout": None, "schedule": "fixed"}]}, "it is dense (layout null)"),
        ({"version": 1, "variants": [{"name": "x", "layout": LAYOUT, "schedule": "f"}]}, "its schedule is 'f'"),
        ({"version": 1, "variants": [{"name": "x", "layout": LAYOUT, "schedule": {}}]}, "variant 1 of the plan: the"),
        ({"version": 1, "variants": [{"name": "x", "layout": "suggested"}]}, "needs 8 blocks, and the model has 5"),
    ],
)
def test_plans_that_are_refused(content: Any, words: str, cli: Cli, dense: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "plan.json", tmp_path / "out"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert words in cli.refuses("ablate", dense, out, "--plan", path, *SHORT, *JUDGED)
    assert not out.exists()


def test_what_is_refused_before_any_training(
    cli: Cli, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, usual = tmp_path / "out", (*plan(tmp_path, *TWO), *SHORT, *JUDGED)
    sparse = save_pixels(tmp_path / "sparse.safetensors", LAYOUT)
    assert "is a SparseDiT already" in cli.refuses("ablate", sparse, out, *usual)
    assert "needs 8 blocks or more and the model has 5" in cli.refuses("ablate", dense, out, *SHORT)
    latents = save_latents(tmp_path / "latents.safetensors")
    alone = plan(tmp_path, TWO[0])
    assert "do not fit" in cli.refuses("ablate", latents, out, *alone, *SHORT, *JUDGED)
    usual = (*plan(tmp_path, *TWO), *SHORT, *JUDGED)
    assert "needs a teacher" in cli.refuses("ablate", dense, out, *usual, "--distill-features", 0.1)
    assert "teacher is a SparseDiT" in cli.refuses("ablate", dense, out, *usual, "--teacher", sparse)
    noise = (*plan(tmp_path, *TWO), *SHORT, *JUDGED, "--teacher", latents)
    assert "the teacher predicts 'eps'" in cli.refuses("ablate", dense, out, *noise)
    assert "the budget is 2" in cli.refuses("ablate", dense, out, *usual, "--budget", 2)
    assert "ddim" in cli.refuses("ablate", dense, out, *usual, "--sampler", "ddim")
    assert "--sparse-side" in cli.refuses("ablate", dense, out, *usual, "--sparse-side", 9)
    assert "--features" in cli.refuses("ablate", dense, out, *usual, "--real", tmp_path)
    assert "at least 2 samples" in cli.refuses("ablate", dense, out, *usual, "--samples", 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in cli.refuses("ablate", dense, out, *usual)
    assert not out.exists()
    monkeypatch.undo()
    out.mkdir()
    (out / "ablation.json").write_text("{}")
    assert "is no record of an ablation" in cli.refuses("ablate", dense, out, *usual, "--resume")
