"""Encoding: the stored latents are the autoencoder's, an interruption loses nothing, damage is found and named."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_files import break_image, class_folder, save_image
from safetensors.torch import load_file
from vae_files import save_vae, tiny_vae

from sparsedit_core.checkpoint import Latent
from sparsedit_core.train.data import ShardSource, encode, scan_folder
from sparsedit_core.train.data.crop import read_picture
from sparsedit_core.train.data.encode import EncodeOptions, encode_folder
from sparsedit_core.train.data.shards import INDEX, read_index
from sparsedit_core.vae import Autoencoder, load_autoencoder

SPACE = Latent(4, 0.5, 4)
PIXELS = Latent(3, 0.5, 1, "pixel")


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    return load_autoencoder(save_vae(tmp_path_factory.mktemp("vae") / "vae.safetensors", tiny_vae()))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return class_folder(tmp_path / "pictures", {"cats": 4, "dogs": 3})


def run(pictures: Path, out: Path, vae: Autoencoder | None, *, resume: bool = False, **options: Any) -> Any:
    wanted = EncodeOptions(**({"size": 16, "shard_size": 3} | options))
    space = PIXELS if vae is None else SPACE
    return encode_folder(scan_folder(pictures), out, wanted, vae, space, batch=2, resume=resume)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def images_of(pictures: Path) -> torch.Tensor:
    found = [read_picture(pictures / picture.name, 16) for picture in scan_folder(pictures).pictures]
    return torch.stack(found).float() / 127.5 - 1


def test_latents_are_those_of_the_autoencoder(pictures: Path, tmp_path: Path, autoencoder: Autoencoder) -> None:
    index = run(pictures, tmp_path / "out", autoencoder, content="moments", flip=True)
    assert names(tmp_path / "out") == [INDEX, *(f"shard-0000{n}.safetensors" for n in range(3))]
    assert [shard.count for shard in index.shards] == [3, 3, 1]
    assert (index.class_names, index.input_size, index.count) == (("cats", "dogs"), (4, 4), 7)
    assert read_index(tmp_path / "out") == index
    parts = [load_file(tmp_path / "out" / shard.file) for shard in index.shards]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    assert found["labels"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    images = images_of(pictures)
    for prefix, seen in (("", images), ("flipped_", images.flip(-1))):
        mean, deviation = autoencoder.posterior(seen)
        torch.testing.assert_close(found[f"{prefix}latents"], mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[f"{prefix}deviations"], deviation, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found["latents"], found["flipped_latents"], atol=1e-2)


def test_pixels_are_the_cropped_pictures(pictures: Path, tmp_path: Path) -> None:
    index = run(pictures, tmp_path / "out", None, content="pixels")
    found = torch.cat([load_file(tmp_path / "out" / shard.file)["pixels"] for shard in index.shards])
    assert torch.equal(found.float() / 127.5 - 1, images_of(pictures))


def test_samples_of_the_posterior_depend_on_the_picture_alone(
    pictures: Path, tmp_path: Path, autoencoder: Autoencoder
) -> None:
    def stored(name: str, **options: Any) -> torch.Tensor:
        index = run(pictures, tmp_path / name, autoencoder, **options)
        return torch.cat([load_file(tmp_path / name / shard.file)["latents"] for shard in index.shards])

    mean, deviation = autoencoder.posterior(images_of(pictures))
    drawn = stored("a", content="sample", seed=1)
    torch.testing.assert_close(stored("b", content="sample", seed=1, shard_size=5), drawn, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(stored("c", content="sample", seed=2), drawn, atol=1e-2)
    noise = (drawn - mean) / deviation
    assert abs(float(noise.mean())) < 0.3
    assert 0.8 < float(noise.std()) < 1.2
    half = run(pictures, tmp_path / "half", autoencoder, half=True)
    first = load_file(tmp_path / "half" / half.shards[0].file)["latents"]
    assert first.dtype == torch.float16
    torch.testing.assert_close(first.float(), mean[:3], atol=2e-3, rtol=2e-3)


def test_an_interruption_loses_nothing(
    pictures: Path, tmp_path: Path, autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pictures, tmp_path / "whole", autoencoder)
    write, written = encode.write_shard, []

    def stop_at(limit: int) -> None:
        def write_shard(path: Path, *rest: Any) -> Any:
            if len(written) == limit:
                raise KeyboardInterrupt
            written.append(path.name)
            return write(path, *rest)

        monkeypatch.setattr(encode, "write_shard", write_shard)

    out = tmp_path / "out"
    for limit in (0, 2):
        stop_at(limit)
        with pytest.raises(KeyboardInterrupt):
            run(pictures, out, autoencoder, resume=limit > 0)
        assert not read_index(out).complete
        with pytest.raises(ValueError, match=f"interrupted after {limit} shards; .*--resume"):
            ShardSource(out)
    (out / ".shard-00002.safetensors.1-ab.tmp").write_bytes(b"half")  # what kill -9 leaves
    with pytest.raises(ValueError, match="holds an encoding already"):
        run(pictures, out, autoencoder)
    stop_at(99)
    run(pictures, out, autoencoder, resume=True)
    assert written == [f"shard-0000{n}.safetensors" for n in range(3)]  # none twice
    assert contents(out) == contents(tmp_path / "whole")


def test_damaged_shards_are_named_and_made_again(
    pictures: Path, tmp_path: Path, autoencoder: Autoencoder, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    run(pictures, out, autoencoder)
    before = contents(out)
    rotten, cut, gone = (out / f"shard-0000{n}.safetensors" for n in range(3))
    content = bytearray(rotten.read_bytes())
    content[-3] ^= 1
    rotten.write_bytes(bytes(content))
    source = ShardSource(out)  # one bit is not seen by the sizes
    with pytest.raises(ValueError, match=r"1 of 3 shards.*shard-00000\S+ does not have the checksum.*--resume"):
        source.verify()
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    with pytest.raises(ValueError, match=r"2 of 3 shards.*shard-00001.*bytes, expected.*shard-00002.*cannot be read"):
        ShardSource(out)
    with caplog.at_level(logging.WARNING, "sparsedit"):
        run(pictures, out, autoencoder, resume=True)
    assert [f"shard-0000{n}" in record.getMessage() for n, record in enumerate(caplog.records)] == [True] * 3
    assert contents(out) == before
    ShardSource(out).verify()


def test_a_resume_with_other_settings_is_refused(pictures: Path, tmp_path: Path, autoencoder: Autoencoder) -> None:
    out = tmp_path / "out"
    run(pictures, out, autoencoder)
    before = contents(out)
    with pytest.raises(ValueError, match=r"flip was False, now True; size was 16, now 8"):
        run(pictures, out, autoencoder, resume=True, size=8, flip=True)
    save_image(pictures / "dogs" / "new.png", 99)
    with pytest.raises(ValueError, match="the pictures are not the same files"):
        run(pictures, out, autoencoder, resume=True)
    assert contents(out) == before


def test_pictures_that_do_not_decode_are_counted(pictures: Path, tmp_path: Path, autoencoder: Autoencoder) -> None:
    for name in ("cats/001.png", "cats/003.png", "dogs/000.png", "dogs/001.png"):
        break_image(pictures / name)
    (pictures / "dogs" / "002.txt").write_bytes(b"\xff")
    index = run(pictures, tmp_path / "out", autoencoder)
    assert (index.count, index.skipped, [shard.count for shard in index.shards]) == (2, 5, [2, 0, 0])
    assert [entry.partition(":")[0] for entry in index.skipped_first] == [
        "cats/001.png", "cats/003.png", "dogs/000.png", "dogs/001.png", "dogs/002.png"
    ]  # fmt: skip
    assert "UTF-8" in index.skipped_first[-1]
    data = json.loads((tmp_path / "out" / INDEX).read_text())
    assert (data["skipped"], len(data["skipped_first"])) == (5, 5)
    source = ShardSource(tmp_path / "out")
    assert source.num_classes == 2
    assert sorted(source.names(0, 2)) == ["cats/000.png", "cats/002.png"]
    for name in ("cats/000.png", "cats/002.png"):
        break_image(pictures / name)
    with pytest.raises(ValueError, match=r"none of the 7 files.*first: cats/000.png"):
        run(pictures, tmp_path / "none", autoencoder)
    assert not read_index(tmp_path / "none").complete


def test_at_most_ten_skipped_names_are_kept(tmp_path: Path) -> None:
    pictures = class_folder(tmp_path / "pictures", {"a": 14})
    for path in list((pictures / "a").iterdir())[:13]:
        break_image(path)
    index = run(pictures, tmp_path / "out", None, content="pixels", shard_size=5)
    assert (index.skipped, len(index.skipped_first), index.count) == (13, 10, 1)


def test_a_disk_that_fails_is_no_broken_picture(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error", "cats/000.png")

    monkeypatch.setattr(encode, "read_picture", fails)
    with pytest.raises(OSError, match="Input/output error"):
        run(pictures, tmp_path / "out", None, content="pixels")


def test_what_cannot_be_encoded(pictures: Path, tmp_path: Path, autoencoder: Autoencoder) -> None:
    with pytest.raises(ValueError, match="lies inside the folder of pictures"):
        run(pictures, pictures / "out", autoencoder)
    with pytest.raises(ValueError, match="no multiple of 4"):
        run(pictures, tmp_path / "out", autoencoder, size=18)
    with pytest.raises(ValueError, match="does not go with no autoencoder"):
        run(pictures, tmp_path / "out", None, content="mean")
    with pytest.raises(ValueError, match="not the space of an autoencoder of 4"):
        encode_folder(scan_folder(pictures), tmp_path / "out", EncodeOptions(16), autoencoder, Latent(8, 1.0, 4))
    with pytest.raises(ValueError, match="must be 1 or more"):
        EncodeOptions(shard_size=0)
    assert not (tmp_path / "out").exists()
    broken = tiny_vae()
    broken.encoder.conv_in.bias[:] = np.inf
    with pytest.raises(ValueError, match=r"NaN or infinite latents of cats/000.png"):
        run(pictures, tmp_path / "nan", Autoencoder(broken, 4, 4))
