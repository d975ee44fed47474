"""``analyze`` on tiny models: numbers, pictures, the command it suggests, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import small_model
from cli_models import Cli, pixel_model, save_latents, save_original, save_pixels
from PIL import Image

from sparsedit_core import SegmentLayout, load_checkpoint, save_checkpoint
from sparsedit_core.checkpoint import Latent
from sparsedit_core.cli import build_parser
from sparsedit_core.cli.analyze import real_samples, samples
from sparsedit_core.train.pictures import pictures

FEW = ("--times", 0.75, 0.25, "--samples", 2)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_a_dense_model_of_the_procedural_pictures(tmp_path: Path, cli: Cli) -> None:
    file, out = save_pixels(tmp_path / "dense.safetensors"), tmp_path / "out"
    words = ("--budget", 0.9, "--out", out, "--against", "1+1x[1,1,1,0]+1", "--json")
    report = cli.works("analyze", file, *FEW, *words).json
    assert json.loads((out / "analysis.json").read_text()) == report
    assert report["inputs"] == "held-out pictures with noise"
    assert (report["times"], report["samples"], report["roles"]) == ([0.75, 0.25], 2, ["dense"] * 5)
    assert len(report["attention"]) == 2 * 5
    for maps in report["attention"]:
        assert 0 <= maps["departure"] < 1
        assert 0 <= maps["entropy"] <= 1 + 1e-6
        assert maps["reach"] > 0
        assert len(maps["entropy_by_head"]) == 2
    toy = report["toy"]
    assert [len(values) for values in (*toy["first_blocks_uniform"], *toy["one_block_uniform"])] == [6, 6, 5, 5]
    assert toy["first_blocks_uniform"][0][:2] == [0, toy["one_block_uniform"][0][0]]
    found = report["suggestion"]
    assert found["layout"] == found["candidates"][0]["layout"]
    changes = [one["measured_change"] for one in found["candidates"]]
    assert changes == sorted(changes)
    for one in found["candidates"]:
        layout = SegmentLayout.parse(one["layout"])
        assert layout.depth == 5
        assert layout.modules
        assert one["ratio_to_dense"] == pytest.approx(one["mean_macs"] / found["dense_macs"])
        assert one["ratio_to_dense"] <= 0.9
    assert [one["layout"] for one in found["against"]] == ["1+1x[1,1,1,0]+1"]
    for name in ("attention", "toy", "roles"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 50
    assert sorted(path.name for path in out.iterdir()) == ["analysis.json", "attention.png", "roles.png", "toy.png"]


def test_the_cost_of_a_candidate_is_that_of_the_cost_command(tmp_path: Path, cli: Cli) -> None:
    file = save_pixels(tmp_path / "dense.safetensors")
    rates = ("--rate-noise", 0.75, "--rate-clean", 0.75)
    report = cli.works("analyze", file, *FEW, "--budget", 0.9, *rates, "--json").json
    first = report["suggestion"]["candidates"][0]
    cost = cli.works("cost", file, "--layout", first["layout"], *rates, "--json").json
    assert first["mean_macs"] == pytest.approx(cost["sampling"]["executed"]["mean_macs"])
    assert report["suggestion"]["dense_macs"] == cost["dense"]["executed"]["macs"]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ([], {"rate_noise": 0.86, "rate_clean": 0.61}),
        (["--rate-noise", ".7", "--rate-clean", ".5", "--levels", "exact"], {"rate_noise": 0.7, "levels": 0}),
        (["--preset", "256 quality", "--hold", "clean"], {"preset": "256 quality", "hold": "clean"}),
        (["--rate-noise", ".9"], {"rate_noise": 0.9, "rate_clean": 0.61}),
    ],
)
def test_the_printed_command_is_one(tmp_path: Path, cli: Cli, words: list[str], kept: dict[str, object]) -> None:
    file = save_pixels(tmp_path / "a model.safetensors")
    text = cli.works("analyze", file, "--times", 0.5, "--samples", 1, "--budget", 0.9, *words).out
    lines = [line for line in text.splitlines() if line.startswith("sparsedit finetune ")]
    args = build_parser().parse_args(shlex.split(lines[0])[1:])
    assert (args.dense, str(args.out)) == (str(file), "sparse.safetensors")
    assert f"90 % of the dense model's MACs, rates {args.rate_noise or 0.61:g}" in text
    assert f": {args.layout}\n" in text
    assert {name: getattr(args, name) for name in kept} == kept
    assert "forward-only proxy" in text


def test_the_printed_command_names_the_data_and_what_the_file_does_not_say(tmp_path: Path, cli: Cli) -> None:
    file, data = save_original(tmp_path / "original.pt"), features(tmp_path / "few", 2)
    words = ("--num-heads", 4, "--semantics", "original", "--data", data, "--times", 0.5, "--samples", 1)
    report = cli.works("analyze", file, *words, "--budget", 1, "--json").json
    args = build_parser().parse_args(shlex.split(report["finetune"])[1:])
    assert (args.num_heads, args.semantics, args.data, args.sparse_side) == (4, "original", "few", None)


def test_nothing_is_sampled_for_a_question_without_an_answer(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsedit_core.cli.analyze.samples", lambda *_: pytest.fail("sampled"))
    file = save_latents(tmp_path / "sparse.safetensors", "1+1x[1,1,2,1]+1")
    assert "SparseDiT already" in cli.refuses("analyze", file, "--budget", 0.6)
    dense = save_latents(tmp_path / "dense.safetensors")
    assert "cheapest layout" in cli.refuses("analyze", dense, "--budget", 0.05)
    assert "but the model has" in cli.refuses("analyze", dense, "--against", "1+3")


def test_a_sparse_model_of_latents_on_its_own_sampling(tmp_path: Path, cli: Cli) -> None:
    file = save_latents(tmp_path / "sparse.safetensors", "1+1x[1,1,2,1]+1")
    result = cli.works("analyze", file, *FEW, "--steps", 4, "--out", tmp_path / "out", "--json")
    report = result.json
    assert report["inputs"] == "what the model meets in its own sampling of 4 steps"
    assert report["suggestion"] is None
    assert report["sparse_grids"] == [[4, 4], [4, 4]]
    roles = ["pooled", "generation", "sparse", "recovery", "recovery", "dense", "dense"]
    assert report["roles"] == roles
    keys = {maps["role"]: maps["keys"] for maps in report["attention"][:4]}
    assert keys == {"pooled": [8, 8], "generation": [8, 8], "sparse": [4, 4], "recovery": [4, 4]}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["analysis.json", "attention.png", "toy.png"]
    assert "dense models only" in cli.works("analyze", file, *FEW, "--steps", 4).out


def test_a_sparse_model_follows_its_schedule_or_the_one_given(tmp_path: Path, cli: Cli) -> None:
    file = save_pixels(tmp_path / "sparse.safetensors", "1+1x[1,1,1,0]+1")
    own = cli.works("analyze", file, *FEW, "--json").json
    other = cli.works("analyze", file, *FEW, "--rate-noise", 0.6, "--rate-clean", 0.2, "--hold", "clean", "--json").json
    assert own["schedule"]["rate_noise"] == 0.9
    assert own["sparse_grids"] != other["sparse_grids"]


def features(folder: Path, count: int, side: int = 16) -> Path:
    """A set of latents as fast-DiT's script writes it."""
    for name, content in (("features", np.ones((1, 4, side, side), np.float32)), ("labels", np.array([3]))):
        (folder / f"imagenet256_{name}").mkdir(parents=True)
        for number in range(count):
            np.save(folder / f"imagenet256_{name}" / f"{number}.npy", content)
    return folder


def test_real_latents_with_noise(tmp_path: Path, cli: Cli) -> None:
    file, few = save_latents(tmp_path / "latents.safetensors"), features(tmp_path / "few", 2)
    report = cli.works("analyze", file, *FEW, "--data", few, "--budget", 1, "--json").json
    assert report["inputs"] == "few with noise"
    own = cli.works("analyze", file, *FEW, "--steps", 2, "--budget", 1, "--json").json
    assert report["attention"][0]["entropy"] != own["attention"][0]["entropy"]
    assert "holds 2 samples, fewer than" in cli.refuses("analyze", file, "--samples", 3, "--data", few)
    larger = features(tmp_path / "larger", 2, side=32)
    assert "samples are (4, 32, 32) each" in cli.refuses("analyze", file, *FEW, "--data", larger)
    pixels = save_pixels(tmp_path / "pixels.safetensors")
    assert "encoded for this model" in cli.refuses("analyze", pixels, *FEW, "--data", few)


def test_data_come_in_the_scale_of_the_model(tmp_path: Path) -> None:
    """Procedural pictures are halved for training; a model of another scale gets its own."""
    args = Namespace(data="procedural", samples=3)
    for scale in (1.0, 0.25):
        file = tmp_path / f"{scale}.safetensors"
        save_checkpoint(file, pixel_model(), prediction="flow", latent=Latent(3, scale, 1, "pixel"))
        loaded = load_checkpoint(file)
        images, labels = real_samples(loaded, args)
        expected, classes = pictures(0, 3)
        torch.testing.assert_close(images, scale * expected)
        assert torch.equal(labels, classes)
        heldout = Namespace(data=None, samples=3, times=[0.0], seed=0)
        words, (moment,) = samples(loaded, heldout, None)
        torch.testing.assert_close(moment.x, scale * pictures(0, 3, split="heldout")[0])
        assert words == "held-out pictures with noise"


def test_an_original_file_with_what_it_does_not_say(tmp_path: Path, cli: Cli) -> None:
    file = save_original(tmp_path / "original.pt")
    report = cli.works(
        "analyze", file, "--num-heads", 4, "--times", 0.5, "--samples", 1, "--steps", 2, "--budget", 1, "--json"
    ).json
    assert len(report["attention"][0]["reach_by_head"]) == 4


def test_what_cannot_be_looked_at_is_refused_before_anything_is_written(tmp_path: Path, cli: Cli) -> None:
    dense = save_pixels(tmp_path / "dense.safetensors")
    sparse = save_pixels(tmp_path / "sparse.safetensors", "1+1x[1,1,1,0]+1")
    out = ("--out", tmp_path / "out")
    assert "1.5 is outside 0 (image) .. 1" in cli.refuses("analyze", dense, "--times", 1.5, *out)
    assert "budget is 1.5; give a share" in cli.refuses("analyze", dense, "--budget", 1.5, *out)
    refused = cli.refuses("analyze", dense, "--budget", 0.05, *out)
    assert re.search(r"budget is 0\.05 .* cheapest layout of 5 blocks, \d\S+\d, costs 0\.[1-9]\d+ ", refused)
    assert "SparseDiT already" in cli.refuses("analyze", sparse, *FEW, "--budget", 0.6, *out)
    assert "give a budget and a dense model" in cli.refuses("analyze", sparse, *FEW, "--against", "1+4", *out)
    assert "has 3 blocks but the model has 5" in cli.refuses("analyze", dense, *FEW, "--against", "1+2", *out)
    assert "there is no file" in cli.refuses("analyze", tmp_path / "none.safetensors", *out)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").touch()
    assert "is a file" in cli.refuses("analyze", dense, *out)


def test_a_model_that_predicts_nothing_is_told(tmp_path: Path, cli: Cli) -> None:
    model = small_model()
    model.final_layer.linear.weight.data.zero_()
    model.final_layer.linear.bias.data.zero_()
    save_checkpoint(tmp_path / "zero.safetensors", model)
    assert "energy 0" in cli.refuses("analyze", tmp_path / "zero.safetensors", *FEW, "--steps", 2)
