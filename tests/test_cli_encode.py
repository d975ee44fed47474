"""``encode`` from the command line: shards out, facts as JSON, one sentence for what is wrong, kill -9 survived."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_models import Cli
from picture_files import break_image, class_folder
from vae_files import FACTOR, save_vae, tiny_vae

from sparsedit_core.checkpoint import Latent
from sparsedit_core.train.data import encode, open_source
from sparsedit_core.train.data.shards import INDEX, file_sha256, read_index

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--size", 16, "--batch", 2, "--shard-size", 3)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vae(tmp_path_factory.mktemp("vae") / "tiny.safetensors", tiny_vae(), "original")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return class_folder(tmp_path / "pictures", {"cats": 4, "dogs": 3})


def test_encode_then_open(cli: Cli, pictures: Path, vae: Path, tmp_path: Path) -> None:
    (pictures / "cats" / "001.txt").write_text("a cat")
    break_image(pictures / "dogs" / "002.png")
    out = tmp_path / "out"
    found = cli.works("encode", pictures, out, "--vae", vae, *SMALL, "--flip", "--moments", "--json").json
    assert (found["pictures"], found["skipped"], found["classes"], found["shards"]) == (6, 1, 2, 3)
    assert found["skipped_first"][0].startswith("dogs/002.png: ")
    assert found["latent"] == Latent(4, 0.18215, FACTOR).to_json()
    assert (found["content"], found["flip"], found["input_size"]) == ("moments", True, [4, 4])
    source = open_source(out)
    assert (source.count, source.fingerprint) == (6, found["fingerprint"])
    assert source.batch(0, 6)[0].shape == (6, 4, 4, 4)
    index = read_index(out)
    assert index.settings["vae"] == file_sha256(vae)
    assert index.record["vae"] == "tiny.safetensors"
    assert index.record["command"].startswith("sparsedit encode pictures out --vae tiny.safetensors --size 16")
    assert set(index.record["versions"]) == {"sparsedit", "torch", "python"}
    assert str(tmp_path) not in (out / INDEX).read_text()
    assert cli.works("encode", out, "--verify", "--json").json["verified"] is True
    assert "all checksums right" in cli.works("encode", out, "--verify").out


def test_pixels_and_flat_folders(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    break_image(pictures / "dogs" / "002.png")
    text = cli.works("encode", pictures, tmp_path / "out", "--pixels", "--flat", *SMALL).out
    assert "6 of 7 files" in text
    assert "dogs/002.png: " in text
    assert "every picture has label 0" in text
    source = open_source(tmp_path / "out")
    assert (source.num_classes, source.class_names, source.latent.kind) == (1, None, "pixel")
    samples, labels = source.batch(0, 6)
    assert labels.tolist() == [0] * 6
    assert samples.abs().max() <= source.latent.scale
    cli.works("encode", pictures, tmp_path / "scaled", "--pixels", *SMALL, "--latent-scale", 1.0)
    assert open_source(tmp_path / "scaled").latent.scale == 1.0


def test_the_scale_of_latents(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    tiny_vae(4, scaling_factor=0.13025).save_pretrained(tmp_path / "xl")
    cli.works("encode", pictures, tmp_path / "a", "--vae", tmp_path / "xl", *SMALL)
    assert open_source(tmp_path / "a").latent.scale == 0.13025
    cli.works("encode", pictures, tmp_path / "b", "--vae", tmp_path / "xl", *SMALL, "--latent-scale", 0.5)
    assert open_source(tmp_path / "b").latent.scale == 0.5
    xl, given = (open_source(tmp_path / name).batch(0, 7)[0] for name in "ab")
    torch.testing.assert_close(xl / 0.13025, given / 0.5)


def test_encode_refuses(cli: Cli, pictures: Path, vae: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", save_vae(tmp_path / "wide.safetensors", tiny_vae(16))
    assert "OUT" in cli.refuses("encode", pictures)
    assert "--pixels" in cli.refuses("encode", pictures, out)
    assert "not allowed with" in cli.refuses("encode", pictures, out, "--vae", vae, "--pixels")
    assert "8 bits" in cli.refuses("encode", pictures, out, "--pixels", "--half")
    assert "16 latent channels, expected 4" in cli.refuses("encode", pictures, out, "--vae", other)
    wide = ("--vae", other, "--channels", 16)
    assert "give --latent-scale" in cli.refuses("encode", pictures, out, *wide, "--size", 16)
    assert "size 18 is no multiple" in cli.refuses("encode", pictures, out, "--vae", vae, "--size", 18)
    tiny_vae(4, shift_factor=0.1).save_pretrained(tmp_path / "shifted")
    assert "shifts its latents by 0.1" in cli.refuses("encode", pictures, out, "--vae", tmp_path / "shifted")
    assert "no folder" in cli.refuses("encode", tmp_path / "nothing", out, "--vae", vae)
    assert "no autoencoder" in cli.refuses("encode", pictures, out, "--vae", _not_a_vae(tmp_path))
    (pictures / "birds").mkdir()
    assert "class folder birds" in cli.refuses("encode", pictures, out, "--vae", vae)
    assert not out.exists()
    assert "no index.json" in cli.refuses("encode", pictures, "--verify")


def test_without_diffusers_the_extra_is_named(
    cli: Cli, pictures: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert 'pip install "sparsedit[train]"' in cli.refuses("encode", pictures, tmp_path / "out", "--vae", vae)
    cli.works("encode", pictures, tmp_path / "out", "--pixels", *SMALL)  # pixels need none


def _not_a_vae(folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file({"blocks.0.attn.qkv.weight": torch.zeros(2)}, folder / "dit.safetensors")
    return folder / "dit.safetensors"


def test_a_full_disk_keeps_what_was_done(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, out = encode.write_shard, tmp_path / "out"

    def full(path: Path, *rest: Any) -> Any:
        if path.name == "shard-00002.safetensors":
            raise OSError(28, "No space left on device", str(path))
        return write(path, *rest)

    monkeypatch.setattr(encode, "write_shard", full)
    assert "No space left on device" in cli.refuses("encode", pictures, out, "--pixels", *SMALL)
    assert len(read_index(out).shards) == 2
    assert "holds an encoding already" in cli.refuses("encode", pictures, out, "--pixels", *SMALL)
    monkeypatch.undo()
    cli.works("encode", pictures, out, "--pixels", *SMALL, "--resume")
    assert open_source(out).count == 7


def test_verify_names_the_damaged_shard(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cli.works("encode", pictures, out, "--pixels", *SMALL)
    shard = out / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 128
    shard.write_bytes(bytes(content))
    assert "shard-00001.safetensors does not have the checksum" in cli.refuses("encode", out, "--verify")
    cli.works("encode", pictures, out, "--pixels", *SMALL, "--resume")
    cli.works("encode", out, "--verify")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_kill_9_and_resume_give_the_same_shards(cli: Cli, tmp_path: Path) -> None:
    pictures, out = class_folder(tmp_path / "pictures", {"a": 60}), tmp_path / "out"
    words = ["encode", pictures, out, "--pixels", "--size", "128", "--batch", "1", "--shard-size", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([sys.executable, "-m", "sparsedit_core", *map(str, words)], env=environment)
    try:
        limit = time.monotonic() + 120
        while not (out / "shard-00003.safetensors").exists() and running.poll() is None and time.monotonic() < limit:
            time.sleep(0.001)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == -signal.SIGKILL
    before = read_index(out)
    assert not before.complete
    kept = {shard.file: (out / shard.file).stat().st_mtime_ns for shard in before.shards}
    assert len(kept) >= 3
    cli.works(*words, "--resume")
    assert all((out / name).stat().st_mtime_ns == written for name, written in kept.items())
    words[2] = tmp_path / "whole"
    cli.works(*words)
    assert [shard.sha256 for shard in read_index(out).shards] == [s.sha256 for s in read_index(words[2]).shards]
    left = {path.name for path in out.iterdir()}
    assert left == {INDEX, *(shard.file for shard in read_index(out).shards)}
    assert json.loads((out / INDEX).read_text())["complete"] is True
