"""PixArt's MACs: torch's own counter on meta tensors, the paper's printed row, reports of runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from cli_models import Cli
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GRIDS, LAYOUTS
from tiny_pixart import config, random_model
from torch.utils.flop_counter import FlopCounterMode

from sparsedit_core.checkpoint import Latent, Loaded, save_checkpoint
from sparsedit_core.conditions import Captions
from sparsedit_core.config import DiTConfig, PixArtConfig
from sparsedit_core.convert import default_layout
from sparsedit_core.cost import MODELS, caption_length, macs
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.pixart import PixArt
from sparsedit_core.run_record import RunRecord, measure
from sparsedit_core.sampling import SampleOptions, initial_noise, sample
from sparsedit_core.schedule import PRESETS
from sparsedit_core.schedule_cost import schedule_macs

PAPER = "2+4x[2,2,1,1]+2"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def counted(config: PixArtConfig, size: tuple[int, int], grid: Any, tokens: int, masked: bool = False) -> int:
    """MACs of one forward by torch's counter, without computing anything."""
    model = PixArt(config, device="meta")
    with torch.device("meta"):
        x, t = torch.empty(1, config.in_channels, *size), torch.empty(1)
        y, mask = torch.empty(1, tokens, config.caption_channels), torch.ones(1, tokens)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x, t, y, mask=mask if masked else None, sparse_grid=grid)
    return int(counter.get_total_flops()) // 2


@settings(max_examples=25)
@given(LAYOUTS, GRIDS, GRIDS, st.integers(1, 9), st.integers(0, 15), st.data())
def test_executed_equals_torchs_counter(
    layout: SegmentLayout, size: tuple[int, int], grid: tuple[int, int], tokens: int, switches: int, data: st.DataObject
) -> None:
    micro, norm, again, masked = (bool(switches >> bit & 1) for bit in range(4))
    wanted = config(
        layout if layout.modules or layout.bottom else None,
        patch_size=data.draw(st.sampled_from((1, 2))),
        hidden_size=24 * data.draw(st.integers(1, 2)),
        mlp_ratio=data.draw(st.sampled_from((2.0, 3.5))),
        caption_channels=data.draw(st.integers(1, 20)),
        micro_conditioning=micro,
        qk_norm=norm,
        reinject_positions=again,
    )
    pixels = size[0] * wanted.patch_size, size[1] * wanted.patch_size
    sparse = (min(grid[0], size[0]), min(grid[1], size[1])) if wanted.layout else None
    found = macs(wanted, pixels, sparse_grid=sparse, factor=1, caption_tokens=tokens)
    assert found.total == counted(wanted, pixels, sparse, tokens, masked)


@pytest.mark.parametrize("name", ["PixArt-XL/2-1024", "PixArt-Sigma-XL/2-256"])
@pytest.mark.parametrize("layout", [None, PAPER])
def test_executed_equals_torchs_counter_at_real_sizes(name: str, layout: str | None) -> None:
    wanted = replace(MODELS[name], layout=layout and SegmentLayout.parse(layout))
    assert isinstance(wanted, PixArtConfig)
    assert macs(name, layout=layout).total == counted(wanted, wanted.input_size, None, wanted.caption_tokens)


def test_the_papers_row() -> None:
    """Printed: 148.73 -> 91.62 G, of a layout and a caption length that the paper does not tell."""
    dense = macs("PixArt-XL/2", 256, convention="paper").total / 1e9
    sparse = [macs("PixArt-XL/2", 256, f"{n}+4x[2,2,1,1]+{4 - n}", 8, convention="paper").total / 1e9 for n in range(3)]
    assert dense == pytest.approx(148.73, rel=0.003)
    assert sparse[2] == pytest.approx(91.62, rel=0.003)
    assert sparse[0] > sparse[1] > 91.62 > sparse[2]  # one or two Poolingformers lie around it
    # what is left of the difference is smaller than the caption's own projection, which a count may leave out
    projection = 120 * 1152 * (4096 + 1152) / 1e9
    assert dense - projection < 148.73 < dense
    assert sparse[1] - projection < 91.62 < sparse[1]


def test_the_conventions_differ_as_for_dit() -> None:
    """PixArt is DiT's blocks and the reading of the text, which all conventions count alike."""
    dit, pixart = DiTConfig(layout=SegmentLayout.parse(PAPER)), PixArtConfig(layout=SegmentLayout.parse(PAPER))
    totals = {
        c: [macs(config, (32, 32), factor=1, convention=c) for config in (dit, pixart)]  # type: ignore[arg-type]
        for c in ("executed", "algorithm", "paper")
    }
    same = {
        c: pair[1].total - pair[0].total - pair[1].parts["modulation"] + pair[0].parts["modulation"]
        for c, pair in totals.items()
    }
    assert len(set(same.values())) == 1
    assert same["paper"] == totals["paper"][1].parts["text"]


def test_text_is_read_by_the_current_tokens() -> None:
    grid, L, C = (8, 8), 120, 1152
    cost = macs("PixArt-XL/2", 256, "0+1x[1,25,1,1]+0", sparse_grid=grid)
    sizes = [64] * 26 + [256] * 2  # generation and sparse, recovery and dense
    assert cost.parts["text"] == L * C * (4096 + C) + sum(2 * (n + L) * C * C + 2 * n * L * C for n in sizes)


def test_names() -> None:
    for name, wanted in MODELS.items():
        if not isinstance(wanted, PixArtConfig):
            continue
        assert wanted.caption_tokens == (300 if "Sigma" in name else 120)
        assert wanted.micro_conditioning == (name == "PixArt-XL/2-1024")
        assert str(default_layout(wanted)) == PAPER
    assert macs("PixArt-XL/2").dense_grid == (32, 32)
    assert macs("PixArt-XL/2-1024").dense_grid == (64, 64)
    scales = [MODELS[f"PixArt-Sigma-XL/2{size}"].position_scale for size in ("-256", "", "-1024", "-2K")]  # type: ignore[attr-defined]
    assert scales == [0.5, 1.0, 2.0, 4.0]


def test_caption_length() -> None:
    assert caption_length(config(), 7) == 7
    assert caption_length(config()) == 5
    assert caption_length(config(caption_tokens=0)) == 120
    assert caption_length(DiTConfig()) == 0
    with pytest.raises(ValueError, match="model of classes"):
        macs("DiT-XL/2", caption_tokens=5)
    with pytest.raises(ValueError, match="give 1 or more"):
        macs("PixArt-XL/2", caption_tokens=0)


def test_schedules_count_the_caption() -> None:
    keywords: dict[str, Any] = {"image_size": 512, "caption_tokens": 30}
    cost = schedule_macs("PixArt-XL/2", PRESETS["512 fast"], (1.0, 0.0), layout=PAPER, **keywords)
    assert cost.grids == ((6, 6), (10, 10))
    assert cost.macs == tuple(
        macs("PixArt-XL/2", layout=PAPER, sparse_grid=grid, **keywords).total for grid in cost.grids
    )
    assert cost.dense == macs("PixArt-XL/2", **keywords).total


def test_records_of_runs() -> None:
    sparse = config("1+1x[1,1,1,0]+1")
    short, long = (measure(sparse, 0.5, 500.0, (4, 4), (2, 2), 3, 3, 0.1, n) for n in (4, 9))
    for row, tokens in ((short, 4), (long, 9)):
        assert row.macs == 3 * macs(sparse, (8, 8), sparse_grid=(2, 2), factor=1, caption_tokens=tokens).total
        assert row.dense_macs == 3 * macs(replace(sparse, layout=None), (8, 8), factor=1, caption_tokens=tokens).total
    both = short.joined(long)
    assert (both.macs, both.caption_tokens) == (short.macs + long.macs, 9)
    assert measure(sparse, 0.5, 500.0, (4, 4), (2, 2), 3, 3, 0.1).caption_tokens == 5  # the null caption's
    data = json.loads(json.dumps(RunRecord("a file", sparse, None, (both,), 1.0).to_json()))
    assert data["evaluations"][0]["caption_tokens"] == 9


def test_sampling_counts_the_captions_that_were_read() -> None:
    wanted = config("1+1x[1,1,1,0]+1")
    loaded = Loaded(model=random_model(wanted), config=wanted, latent=Latent(4, 1.0, 8))
    captions = Captions(torch.randn(2, 9, 10), torch.ones(2, 9, dtype=torch.bool))
    noise = initial_noise(loaded, 2, seed=0)
    (row,) = sample(loaded, noise, captions, SampleOptions(steps=1, cfg=2.0)).evaluations
    assert (row.images, row.caption_tokens) == (4, 9)
    assert row.macs == 4 * macs(wanted, (8, 8), sparse_grid=(2, 2), factor=1, caption_tokens=9).total


def test_cost_command(cli: Cli, tmp_path: Any) -> None:
    words = ("cost", "PixArt-XL/2", "--size", 256)
    text = cli.works(*words).out
    for expected in ("149.12 GMACs", "91.48 GMACs", PAPER, "captions of 120 tokens"):
        assert expected in text
    report = cli.works(*words, "--preset", "256 fast", "--steps", 20, "--caption-tokens", 77, "--json").json
    assert report["caption_tokens"] == 77
    assert report["dense"]["executed"]["macs"] == macs("PixArt-XL/2", 256, caption_tokens=77).total
    expected = schedule_macs("PixArt-XL/2", PRESETS["256 fast"], 20, 256, PAPER, caption_tokens=77).macs
    assert report["sampling"]["executed"]["per_evaluation"][0]["macs"] == expected[0]
    assert report["sampling"]["executed"]["dense_macs"] == report["dense"]["executed"]["macs"]
    model = random_model(config("1+1x[1,1,1,0]+1"))
    save_checkpoint(tmp_path / "tiny.safetensors", model)
    found = cli.works("cost", tmp_path / "tiny.safetensors", "--json").json
    assert found["static"]["executed"]["macs"] == counted(model.config, (8, 8), None, 5)
    assert "of classes" in cli.refuses("cost", "DiT-XL/2", "--caption-tokens", 5)
