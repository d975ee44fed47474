"""Text features in shards: what the encoder gives is what training reads, and a PixArt trains and samples with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_models import LAYOUT, Cli
from PIL import Image
from tiny_pixart import config as tiny_config
from tiny_pixart import random_model
from tiny_t5 import WIDTH, save_t5

from sparsedit_core import load_checkpoint, save_checkpoint
from sparsedit_core.checkpoint import Latent, Loaded
from sparsedit_core.cli.jury import questions
from sparsedit_core.conditions import Captions
from sparsedit_core.config import PixArtConfig
from sparsedit_core.text_encoder import TextEncoder
from sparsedit_core.train.data import open_source
from sparsedit_core.train.data.shard_source import ShardSource
from sparsedit_core.train.real_pictures import FolderPictures

TEXTS = ("a red star", "A small BLUE ring on grass", "star", "a ring on red grass")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def folder_of(path: Path, count: int = 8) -> Path:
    """Grey pictures, each with a caption but the last."""
    path.mkdir()
    for number in range(count):
        Image.new("RGB", (16, 16), (20 * number,) * 3).save(path / f"{number}.png")
        if number + 1 < count:
            (path / f"{number}.txt").write_text(TEXTS[number % len(TEXTS)] + "\n", encoding="utf-8")
    return path


def encode(cli: Cli, pictures: Path, out: Path, t5: Path, *words: Any) -> Any:
    command = ("encode", pictures, out, "--pixels", "--size", 16, "--shard-size", 3, "--text-encoder", t5)
    return cli.works(*command, "--text-tokens", 6, *words, "--json").json


def test_texts_alone_and_together_have_the_same_features(t5: Path) -> None:
    encoder = TextEncoder(t5, length=9)
    together = encoder(TEXTS)
    assert together.features.shape == (4, 7, WIDTH)  # six words and the end
    assert together.mask.sum(1).tolist() == [4, 7, 2, 6]
    for row, text in enumerate(TEXTS):
        alone = encoder([text])
        torch.testing.assert_close(together.features[row][together.mask[row]], alone.features[0])
    assert TextEncoder(t5, length=3)(TEXTS).mask.sum(1).tolist() == [3, 3, 2, 3]
    assert torch.equal(encoder(["A Red STAR "]).features, encoder(["a red star"]).features)


def test_shards_give_what_the_encoder_gave(cli: Cli, tmp_path: Path, t5: Path) -> None:
    facts = encode(cli, folder_of(tmp_path / "pictures"), tmp_path / "out", t5)
    assert (facts["pictures"], facts["skipped"], facts["caption_channels"]) == (7, 1, WIDTH)
    assert facts["skipped_first"] == ["7.png: it has no caption"]
    source = open_source(tmp_path / "out", captions=True)
    assert isinstance(source, ShardSource)
    assert (source.caption_channels, source.caption_tokens) == (WIDTH, 6)
    images, found = source.batch(0, 7)
    assert isinstance(found, Captions)
    texts = source.captions(0, 7)
    assert sorted(texts) == sorted(TEXTS[n % 4] for n in range(7))
    wanted = TextEncoder(t5, length=6)([str(text) for text in texts])
    assert torch.equal(found.mask, wanted.mask)
    torch.testing.assert_close(found.features[found.mask], wanted.features[wanted.mask], rtol=2e-3, atol=2e-3)
    plain = open_source(tmp_path / "out")
    again, labels = plain.batch(0, 7)
    assert torch.equal(again, images)
    assert isinstance(labels, torch.Tensor)


def test_an_encoding_goes_on_with_the_same_encoder_alone(cli: Cli, tmp_path: Path, t5: Path) -> None:
    pictures, out = folder_of(tmp_path / "pictures"), tmp_path / "out"
    whole = encode(cli, pictures, out, t5)
    (out / "shard-00001.safetensors").write_bytes(b"damaged")
    assert encode(cli, pictures, out, t5, "--resume")["fingerprint"] == whole["fingerprint"]
    cli.works("encode", "--verify", out)
    other = save_t5(tmp_path / "other", seed=1)
    words = ("encode", pictures, out, "--pixels", "--size", 16, "--shard-size", 3, "--resume", "--text-tokens", 6)
    result = cli(*words, "--text-encoder", other)
    assert (result.code, result.out) == (2, "")
    assert "text_encoder was" in result.err
    assert "text_encoder was" in cli.refuses(*words)


def test_a_pixart_trains_and_samples_with_them(cli: Cli, tmp_path: Path, t5: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "model.safetensors"
    encode(cli, folder_of(tmp_path / "pictures"), data, t5)
    shape = ("--hidden-size", 16, "--heads", 2, "--depth", 2, "--patch-size", 4)
    cli.works("train", out, "--family", "pixart", "--data", data, "--pictures", 8, "--batch", 4, "--cpu", *shape)
    loaded = load_checkpoint(out)
    assert (loaded.family, loaded.words, loaded.config.to_json()["caption_tokens"]) == ("pixart", None, 6)
    ask = ("sample", out, "--caption", "a red star", "a ring", "--steps", 2, "--cfg", 2, "--out", tmp_path / "x.png")
    cli.works(*ask, "--text-encoder", t5, "--negative", "grass")
    assert "--text-encoder DIR" in cli.refuses(*ask)
    wide = save_t5(tmp_path / "wide", width=18)
    assert "features of width 18, the model takes 12" in cli.refuses(*ask, "--text-encoder", wide)
    cli.works("analyze", out, "--data", data, "--samples", 2, "--times", 0.5, "--budget", 1, "--json")
    cli.works("analyze", out, "--samples", 2, "--steps", 2, "--times", 0.5, "--budget", 1, "--json")


def test_captions_of_pictures_in_classes(cli: Cli, tmp_path: Path, t5: Path) -> None:
    """Sub-folders are classes, which samples with captions do not have: the model is trained and saved."""
    pictures, data, out = tmp_path / "pictures", tmp_path / "data", tmp_path / "model.safetensors"
    pictures.mkdir()
    for name in ("dog", "cat"):
        folder_of(pictures / name, 3)
    encode(cli, pictures, data, t5)
    plain, spoken = open_source(data), open_source(data, captions=True)
    assert (plain.num_classes, plain.class_names, plain.caption_channels) == (2, ("cat", "dog"), None)
    assert (spoken.num_classes, spoken.class_names, spoken.caption_channels) == (0, None, WIDTH)
    assert isinstance(spoken.batch(0, 4)[1], Captions)
    shape = ("--hidden-size", 16, "--heads", 2, "--depth", 1, "--patch-size", 8)
    cli.works("train", out, "--family", "pixart", "--data", data, "--pictures", 4, "--batch", 4, "--cpu", *shape)
    assert load_checkpoint(out).class_names is None


def test_ablate_takes_a_pixart_of_a_text_encoder(cli: Cli, tmp_path: Path, t5: Path) -> None:
    pictures, data, file, plan = (tmp_path / name for name in ("pictures", "data", "model.safetensors", "plan.json"))
    encode(cli, folder_of(pictures), data, t5)
    (pictures / "7.txt").write_text("star")
    config = PixArtConfig(
        input_size=(16, 16), patch_size=4, in_channels=3, hidden_size=16, depth=5, num_heads=2, learn_sigma=False,
        caption_channels=WIDTH, caption_tokens=6,
    )  # fmt: skip
    latent = open_source(data).latent
    save_checkpoint(file, random_model(config), prediction="flow", latent=latent)
    plan.write_text(json.dumps({"version": 1, "variants": [{"name": "one", "layout": LAYOUT, "schedule": "moving"}]}))
    features = tmp_path / "features.pt"
    mean = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten())
    torch.jit.trace(mean, torch.zeros(1, 3, 16, 16)).save(str(features))
    words = ("ablate", file, tmp_path / "out", "--plan", plan, "--data", data, "--pictures", 4, "--batch", 4, "--cpu")
    words = (*words, "--warmup", 1, "--real", pictures, "--features", features, "--neighbours", 1)
    words = (*words, "--samples", 4, "--steps", 1, "--by-time", 4, "--json")
    assert "--text-encoder DIR" in cli.refuses(*words)
    report = cli.works(*words, "--text-encoder", t5).json
    (row,) = report["rows"]
    assert (row["failure"], row["by_time"]["told"]) == (None, "captions")
    assert report["settings"]["judging"]["text_encoder"] == t5.name
    assert "cannot be resumed" in cli.refuses(*words, "--resume")


def test_an_error_is_measured_with_the_captions_of_the_pictures(tmp_path: Path) -> None:
    """Each with its own, though one picture has none and one does not decode."""
    for number in range(9):
        Image.new("RGB", (8, 8), (20 * number,) * 3).save(tmp_path / f"{number}.png")
        if number != 3:
            (tmp_path / f"{number}.txt").write_text(str(number))
    (tmp_path / "5.png").write_bytes(b"no picture")

    def read(texts: Sequence[str]) -> Captions:
        return Captions(torch.tensor([[[float(text)]] for text in texts]), torch.ones(len(texts), 1, dtype=torch.bool))

    config = tiny_config(caption_channels=1, caption_tokens=0)
    loaded = Loaded(model=random_model(config), config=config, prediction="flow", latent=Latent())
    seen = []
    for images, asked in questions(FolderPictures(tmp_path, 8), loaded, read, 9, 2):
        assert isinstance(asked, Captions)
        torch.testing.assert_close((images[:, 0, 0, 0] + 1) * 127.5 / 20, asked.features[:, 0, 0])
        seen += asked.features.flatten().tolist()
    assert sorted(seen) == [0, 1, 2, 4, 6, 7, 8]


def test_what_is_no_encoder_is_refused(tmp_path: Path, t5: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        TextEncoder(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no T5 encoder"):
        TextEncoder(tmp_path)
    pipeline = tmp_path / "pipeline"
    save_t5(pipeline / "text_encoder")
    (pipeline / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (pipeline / "text_encoder" / name).rename(pipeline / "tokenizer" / name)
    assert torch.equal(TextEncoder(pipeline)(TEXTS).features, TextEncoder(t5)(TEXTS).features)
    assert torch.equal(TextEncoder(pipeline / "text_encoder")(TEXTS).features, TextEncoder(t5)(TEXTS).features)


def test_shards_without_text_are_no_data_for_a_pixart(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cli.works("encode", folder_of(tmp_path / "pictures"), out, "--pixels", "--size", 16)
    message = cli.refuses("train", tmp_path / "x.safetensors", "--family", "pixart", "--data", out, "--pictures", 16)
    assert "hold no text features" in message
    index = json.loads((out / "index.json").read_text())
    for name in ("caption_channels", "caption_tokens"):  # shards of before
        index.pop(name)
    (out / "index.json").write_text(json.dumps(index))
    assert open_source(out).count == 8


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch, t5: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'transformers, which is not installed; .* "sparsedit\[text\]"'):
        TextEncoder(t5)
