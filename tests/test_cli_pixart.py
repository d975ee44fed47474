"""The commands on a tiny PixArt of the procedural pictures: from training to evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_models import LAYOUT, PIXELS, SCHEDULE, Cli, save_pixels
from PIL import Image
from tiny_pixart import random_model
from tiny_t5 import WIDTH, save_t5

from sparsedit_core import load_checkpoint, save_checkpoint
from sparsedit_core.checkpoint import Latent
from sparsedit_core.config import PixArtConfig
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.pixart import PixArt
from sparsedit_core.train.picture_captions import LONGEST, WORDS

CAPTIONS = ("a red striped star", "ring checkered blue")
RUN = ("--pictures", 8, "--batch", 4, "--warmup", 1, "--cpu", "--threads", 1)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def pixart(layout: str | None = None) -> PixArt:
    """16 x 8-pixel patches, five blocks, the words of the pictures' captions."""
    parsed = None if layout is None else SegmentLayout.parse(layout)
    words: dict[str, Any] = {"caption_channels": len(WORDS), "caption_tokens": LONGEST}
    return random_model(PixArtConfig(**PIXELS, **words, layout=parsed, sparse_side=4))


def save(path: Path, layout: str | None = None) -> Path:
    schedule = SCHEDULE if layout else None
    latent = Latent(3, 0.5, 1, "pixel")
    save_checkpoint(path, pixart(layout), schedule=schedule, prediction="flow", latent=latent, words=WORDS)
    return path


def test_train_then_finetune_then_compare(cli: Cli, tmp_path: Path) -> None:
    dense, sparse = tmp_path / "dense.safetensors", tmp_path / "sparse.safetensors"
    shape = ("--hidden-size", 16, "--heads", 2, "--depth", 5, "--patch-size", 8)
    cli.works("train", dense, "--family", "pixart", *shape, "--sheet-every", 2, *RUN)
    found = load_checkpoint(dense)
    assert (found.family, found.words, found.latent.kind, found.prediction) == ("pixart", WORDS, "pixel", "flow")
    assert found.metadata["train"]["seen"] == 8
    assert (tmp_path / "dense.sheets" / "step-00000002.png").is_file()
    rates = ("--rate-noise", 0.9, "--rate-clean", 0.5)
    cli.works("finetune", dense, sparse, "--layout", LAYOUT, *rates, "--teacher", dense, "--distill", 0.5, *RUN)
    trained = load_checkpoint(sparse)
    assert (str(trained.layout), trained.words) == (LAYOUT, WORDS)
    sheet = tmp_path / "x.png"
    words = ("compare", sparse, "--dense", dense, "--caption", *CAPTIONS, "--steps", 2, "--out", sheet, "--json")
    report = cli.works(*words, "--cfg", 2, "--negative", "blue").json
    assert [run["name"] for run in report["runs"]] == ["dense", "sparse"]
    assert report["runs"][1]["macs"] < report["runs"][0]["macs"]
    assert Image.open(sheet).size[0] > 200
    other = save_pixels(tmp_path / "dit.safetensors")
    assert "their family is pixart and dit" in cli.refuses("compare", sparse, "--dense", other, "--caption", "a")


def test_train_from_a_dit(cli: Cli, tmp_path: Path) -> None:
    dit, out = save_pixels(tmp_path / "dit.safetensors"), tmp_path / "model.safetensors"
    cli.works("train", out, "--from-dit", dit, *RUN)
    found = load_checkpoint(out)
    assert (found.family, found.words, found.class_names, found.metadata["init"]["name"]) == (
        "pixart", WORDS, None, "dit.safetensors",
    )  # fmt: skip
    command = ("train", tmp_path / "y.safetensors", *RUN)
    assert "--from-dit brings the model's shape" in cli.refuses(*command, "--from-dit", dit, "--depth", 3)
    assert "exclude each other" in cli.refuses(*command, "--from-dit", dit, "--init", dit)
    assert "needs a model of classes" in cli.refuses(*command, "--from-dit", out)


def test_a_run_goes_on_to_the_same_weights(cli: Cli, tmp_path: Path) -> None:
    dit = save_pixels(tmp_path / "dit.safetensors")
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    common = ("--from-dit", dit, "--batch", 4, "--decay", 0, "--save-every", 4, "--warmup", 1, "--cpu")
    cli.works("train", whole, *common, "--pictures", 12)
    cli.works("train", parts, *common, "--pictures", 8)
    cli.works("train", parts, *common, "--pictures", 12, "--resume")
    a, b = (load_checkpoint(path).model.state_dict() for path in (whole, parts))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    trained = load_checkpoint(dit).model.state_dict()
    assert not torch.equal(a["blocks.1.attn.qkv.weight"], trained["blocks.1.attn.qkv.weight"])


def test_sample_draws_captions(cli: Cli, tmp_path: Path) -> None:
    file, out = save(tmp_path / "model.safetensors"), tmp_path / "x.png"
    words = ("sample", file, "--steps", 2, "--cfg", 2, "--out", out)
    report = cli.works(*words, "--caption", *CAPTIONS, "--each", 3, "--json").json
    assert report["pictures"] == 6
    plain = out.read_bytes()
    cli.works(*words, "--caption", *CAPTIONS, "--each", 3)
    assert out.read_bytes() == plain
    cli.works(*words, "--caption", *CAPTIONS, "--each", 3, "--negative", "striped")
    assert out.read_bytes() != plain
    assert "'cat' in 'a cat' is no word of this model; it knows a, in, red" in cli.refuses(*words, "--caption", "a cat")
    assert "say what is to be drawn: --caption TEXT of the words a, in" in cli.refuses(*words)
    assert "is asked with --caption TEXT" in cli.refuses(*words, "--classes", 3)
    for flag, value in (("--text-encoder", tmp_path), ("--text-tokens", 5)):
        assert f"leave {flag} out" in cli.refuses(*words, "--caption", "a star", flag, value)
    last = ("sample", file, "--caption", "a star", "--cfg", 1, "--negative", "red")
    assert "acts through guidance" in cli.refuses(*last)
    dit = save_pixels(tmp_path / "dit.safetensors")
    assert "are for a PixArt; this model draws classes" in cli.refuses("sample", dit, "--caption", "a star")
    assert "leave --text-tokens out" in cli.refuses("sample", dit, "--text-tokens", 5)
    for flag, value in (("--text-encoder", tmp_path), ("--text-tokens", 5)):
        assert f"leave {flag} out" in cli.refuses("evaluate", dit, file, "--samples", 2, flag, value)


def test_latents_are_decoded_by_the_vae_of_their_scale(cli: Cli, tmp_path: Path) -> None:
    """PixArt-Sigma's latents are SDXL's; Stable Diffusion 1's colours would be wrong for them."""
    config = PixArtConfig(**PIXELS | {"in_channels": 4, "input_size": (8, 8)}, caption_channels=len(WORDS))
    for scale, name in ((0.18215, "SD 1 VAE"), (0.13025, "SDXL VAE"), (0.5, "4-channel latents, scaled by 0.5")):
        file, out = tmp_path / f"{scale}.safetensors", tmp_path / f"{scale}.png"
        save_checkpoint(file, random_model(config), prediction="flow", latent=Latent(4, scale), words=WORDS)
        said = cli.works("sample", file, "--caption", "a star", "--cfg", 1, "--steps", 1, "--out", out).out
        assert name in said
        red, green, blue = Image.open(out).convert("RGB").split()
        assert (red.tobytes() == green.tobytes() == blue.tobytes()) == (scale != 0.18215)


def test_evaluate_counts_the_attributes_of_captions(cli: Cli, tmp_path: Path) -> None:
    dense, sparse = save(tmp_path / "dense.safetensors"), save(tmp_path / "sparse.safetensors", LAYOUT)
    words = ("evaluate", dense, sparse, "--samples", 12, "--steps", 1, "--seeds", 0, 1, "--batch", 5, "--by-time", 4)
    report = cli.works(*words, "--json").json
    for row in report["models"]:
        for name in ("shape", "texture", "colour", "caption"):
            values = [seed[name] for seed in row["seeds"]]
            assert all(0 <= value <= 1 and 12 * value == pytest.approx(round(12 * value)) for value in values)
            assert row[name]["mean"] == pytest.approx(sum(values) / 2)
        assert len(row["by_time"]["times"]) == 9
    assert (report["floor"]["colour"], report["models"][1]["macs_ratio"] < 1) == (1.0, True)
    text = cli.works(*words).out
    assert "colour of the caption" in text
    dit = save_pixels(tmp_path / "dit.safetensors")
    alone = cli.works("evaluate", dit, "--samples", 4, "--steps", 1, "--seeds", 0).out
    assert "caption" not in alone


def test_analyze_and_convert_take_a_pixart(cli: Cli, tmp_path: Path) -> None:
    file = save(tmp_path / "model.safetensors")
    found = cli.works("analyze", file, "--samples", 2, "--times", 0.5, "--budget", 0.9, "--json").json
    assert found["inputs"] == "held-out pictures with noise"
    assert len(found["attention"]) == 5
    assert SegmentLayout.parse(found["suggestion"]["layout"]).depth == 5
    out = tmp_path / "sparse.safetensors"
    cli.works("convert", file, out, "--layout", LAYOUT, "--rate-noise", 0.9, "--rate-clean", 0.5, "--sparse-side", 4)
    assert load_checkpoint(out).words == WORDS
    assert cli.works("analyze", out, "--samples", 2, "--times", 0.5, "--json").json["suggestion"] is None


def test_ablate_takes_a_pixart(cli: Cli, tmp_path: Path) -> None:
    file, plan = save(tmp_path / "model.safetensors"), tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "variants": [{"name": "one", "layout": LAYOUT, "schedule": "moving"}]}))
    judged = ("--samples", 4, "--steps", 1, "--by-time", 2)
    report = cli.works("ablate", file, tmp_path / "out", "--plan", plan, *judged, *RUN, "--json").json
    (row,) = report["rows"]
    assert (row["name"], row["layout"]) == ("one", LAYOUT)
    assert load_checkpoint(tmp_path / "out" / "one.safetensors").words == WORDS


def test_growing_is_for_a_dit(cli: Cli, tmp_path: Path) -> None:
    file, out = save(tmp_path / "model.safetensors"), tmp_path / "out.safetensors"
    assert "this is a pixart" in cli.refuses("convert", file, out, "--grow", 2)
    assert "the model is pixart" in cli.refuses("convert", file, out, "--deepen", 9)
    assert not out.exists()


def test_a_folder_with_captions_is_drawn_again(cli: Cli, tmp_path: Path) -> None:
    """Samples for a model of a text encoder are asked with the texts beside the real pictures."""
    t5, folder, file = save_t5(tmp_path / "t5"), tmp_path / "real", tmp_path / "model.safetensors"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (64, 64), (30 * number, 0, 90)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a red star")
    config = PixArtConfig(**PIXELS, caption_channels=WIDTH, caption_tokens=4)
    save_checkpoint(file, random_model(config), prediction="flow", latent=Latent(3, 0.5, 1, "pixel"))
    scripted = tmp_path / "features.pt"
    torch.jit.trace(torch.nn.Sequential(torch.nn.AvgPool2d(32), torch.nn.Flatten()), torch.zeros(1, 3, 64, 64)).save(
        str(scripted)
    )
    words = ("evaluate", file, "--real", folder, "--features", scripted, "--samples", 4, "--steps", 1, "--seeds", 0)
    words = (*words, "--neighbours", 1, "--by-time", 2, "--json")
    (row,) = cli.works(*words, "--text-encoder", t5).json["models"]
    assert (row["caption"], row["accuracy"], row["by_time"]["told"]) == (None, None, "captions")
    assert row["frechet"]["mean"] > 0
    null_less = tmp_path / "null_less.safetensors"
    config = PixArtConfig(**PIXELS, caption_channels=WIDTH, caption_tokens=0)
    save_checkpoint(null_less, random_model(config), prediction="flow", latent=Latent(3, 0.5, 1, "pixel"))
    (bare,) = cli.works("evaluate", null_less, *words[2:], "--text-encoder", t5).json["models"]
    assert bare["by_time"]["told"] == "captions"
    own = save(tmp_path / "own.safetensors")  # of the procedural pictures' words, which say nothing of these
    assert "unconditional" in cli.works("evaluate", own, *words[2:-1]).out
    assert "--text-encoder DIR" in cli.refuses(*words)
    for text in folder.glob("*.txt"):
        text.unlink()
    assert "with .txt files beside them" in cli.refuses(*words, "--text-encoder", t5)
