"""The benchmark runs on tiny shapes and counts what it says; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import config
from torch.utils.flop_counter import FlopCounterMode

from sparsedit_core.bench import BenchCase, build_models, measure_case, profile_case
from sparsedit_core.bench.stack import BareStack, PlainStack
from sparsedit_core.bench.timing import interleaved
from sparsedit_core.cli import main
from sparsedit_core.cost import macs
from sparsedit_core.dit import DiT
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.schedule import PruningSchedule

LAYOUT = SegmentLayout.parse("1+1x[1,1,1,0]+1")


def tiny_case(**changes: object) -> BenchCase:
    case = BenchCase(
        config(depth=LAYOUT.depth), 96, LAYOUT, PruningSchedule(rate_noise=0.86, rate_clean=0.61, levels=3), steps=10
    )
    return BenchCase(**{**case.__dict__, **changes})


def counted(model: torch.nn.Module, case: BenchCase) -> int:
    """MACs that torch counts on meta tensors."""
    wanted = case.dense_config
    x = torch.empty(case.samples, wanted.in_channels, *wanted.input_size, device="meta")
    t, y = torch.empty(case.samples, device="meta"), torch.empty(case.samples, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(x, t, y)
    return counter.get_total_flops() // 2


@settings(max_examples=5)
@given(st.integers(1, 3), st.booleans(), st.sampled_from([64, 96]))
def test_the_stacks_do_exactly_the_dense_models_macs(batch: int, guidance: bool, size: int) -> None:
    case = tiny_case(batch=batch, guidance=guidance, size=size)
    dense = DiT(case.dense_config, device="meta")
    expected = case.macs()
    assert expected == batch * (2 if guidance else 1) * macs(case.dense_config).total
    for model in (dense, BareStack(dense), PlainStack(dense)):
        assert counted(model, case) == expected


def test_the_plain_stack_is_the_dense_model() -> None:
    case = tiny_case(batch=2)
    models = build_models(case)
    p, (h, w) = case.dense_config.patch_size, case.dense_config.grid
    with torch.no_grad():
        tokens = PlainStack(models.dense)(*models.inputs)
        image = tokens.view(2, h, w, p, p, -1).permute(0, 5, 1, 3, 2, 4).reshape(2, -1, h * p, w * p)
        torch.testing.assert_close(image, models.dense(*models.inputs), rtol=1e-4, atol=1e-5)


def test_models_share_weights_and_grids_add_up() -> None:
    case = tiny_case()
    models = build_models(case)
    assert models.sparse.blocks[0].mlp.fc1.weight.data_ptr() == models.dense.blocks[0].mlp.fc1.weight.data_ptr()
    assert models.sparse.layout == LAYOUT
    assert sum(case.grids().values()) == pytest.approx(1)
    assert set(case.grids()) <= {(2, 2), (3, 3), (4, 4)}
    assert all(case.macs(grid) < case.macs() for grid in case.grids())


def test_a_case_is_measured() -> None:
    found = measure_case(tiny_case(batch=2, guidance=True), repeats=2)
    report = json.loads(json.dumps(found.to_json()))
    assert set(found.seconds) == {"bare", "plain", "dense", *(f"{h}x{w}" for h, w in found.grids)}
    assert all(len(values) == 2 and min(values) > 0 for values in found.seconds.values())
    assert report["speed_up"] == pytest.approx(report["dense_seconds"] / report["sparse_seconds"])
    assert report["speed_up_over_macs_ratio"] == pytest.approx(report["speed_up"] / report["macs_ratio"])


def test_repetitions_alternate() -> None:
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    seconds = interleaved(runs, 3, device=torch.device("cpu"), least_seconds=0.0)
    assert order == [*"ab", *"ab", *"ba", *"ab"]  # warm-ups, repetitions
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_profile_names_the_matrix_product() -> None:
    profiles = profile_case(tiny_case(), calls=1, top=50)
    assert len(profiles) == 2
    assert all(any("mm" in op.name for op in operations) for operations in profiles.values())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    words = ["bench", "--device", "cpu", "--models", "DiT-S/8@64", "--repeats", "1", "--levels", "2"]
    assert main([*words, "--json", "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(out.read_text())
    assert report["cases"][0]["model"] == "DiT-S/8"
    assert main(words) == 0
    assert "DiT-S/8 64 px, cpu float32, batch 1 x 2, eager" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--models", "DiT-XL/2"], "write MODEL@PIXELS"),
        (["--models", "DiT-L/2@256"], "no layout for a dit of 24 blocks"),
        (["--device", "cpu", "--modes", "cuda-graphs"], "needs a CUDA device"),
        (["--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["--models", "DiT-S/2@256", "--layout", "2+2"], "has 4 blocks but the model has 12"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
