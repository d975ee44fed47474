"""Shards as training samples: what is stored, once an epoch, without reading the rest."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsedit_core.checkpoint import Latent
from sparsedit_core.train.data import ShardSource, open_source, shard_source
from sparsedit_core.train.data.order import sample_draw
from sparsedit_core.train.data.shards import INDEX, Index, write_index, write_shard
from sparsedit_core.train.source import PIXELS, ProceduralSource, Source

SPACE = Latent(2, 0.5, 8)
CLASSES = ("a", "b", "c")


def make_shards(folder: Path, sizes: list[int], content: str = "mean", flip: bool = False) -> list[dict[str, Any]]:
    """Shards of random tensors; gives the tensors, with the names of their pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(len(sizes))
    parts, shards, number = [], [], 0
    for place, size in enumerate(sizes):
        tensors: dict[str, Any] = {"labels": torch.randint(3, (size,), generator=generator)}
        for name in shard_source.tensor_names(content, flip):
            shape = (size, 2, 3, 4)
            random = torch.rand(shape, generator=generator)
            tensors[name] = (random * 255).to(torch.uint8) if content == "pixels" else random
        names = [f"{number + row}.png" for row in range(size)]
        facts = {"names": names, "captions": [None if n % 2 else f"text {n}" for n in range(size)], "skipped": []}
        shards.append(write_shard(folder / f"shard-{place}.safetensors", tensors, facts))
        parts.append(tensors | facts)
        number += size
    space = replace(SPACE, kind="pixel", factor=1) if content == "pixels" else SPACE
    write_index(folder, Index(space, (3, 4), content, flip, 3, CLASSES, tuple(shards), True))  # type: ignore[arg-type]
    return parts


def joined(parts: list[dict[str, Any]], name: str) -> Any:
    return torch.cat([part[name] for part in parts])


def test_a_source_is_a_source(tmp_path: Path) -> None:
    make_shards(tmp_path, [2, 1])
    source: Source = open_source(tmp_path)
    assert (source.latent, source.input_size, source.num_classes) == (SPACE, (3, 4), 3)
    assert (source.class_names, source.count) == (CLASSES, 3)
    samples, labels = source.batch(0, 2)
    assert (samples.shape, samples.dtype) == ((2, 2, 3, 4), torch.float32)
    assert (labels.shape, labels.dtype) == ((2,), torch.int64)


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
    batch=st.integers(1, 7),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_epoch_gives_every_sample_once(sizes: list[int], seed: int, epoch: int, batch: int, tmp_path: Path) -> None:
    folder = tmp_path / "-".join(map(str, sizes))
    parts = make_shards(folder, sizes)
    source, count = open_source(folder, seed=seed), sum(sizes)
    pieces = [source.batch(first, batch) for first in range(epoch * count, (epoch + 1) * count, batch)]  # crosses over
    samples = torch.cat([piece[0] for piece in pieces])[:count]
    labels = torch.cat([piece[1] for piece in pieces])[:count]
    stored = joined(parts, "latents") * 0.5
    matches = (samples[:, None] == stored[None]).flatten(2).all(dim=2)
    assert torch.equal(matches.sum(dim=0), torch.ones(count, dtype=torch.int64))
    assert torch.equal(labels, joined(parts, "labels")[matches.float().argmax(dim=1)])


def test_names_and_captions_follow_the_samples(tmp_path: Path) -> None:
    parts = make_shards(tmp_path, [3, 2, 4])
    source = ShardSource(tmp_path, seed=2)
    names, captions = source.names(5, 9), source.captions(5, 9)
    samples, _ = source.batch(5, 9)
    everything = [name for part in parts for name in part["names"]]
    texts = [text for part in parts for text in part["captions"]]
    for sample, name, text in zip(samples, names, captions, strict=True):
        index = everything.index(name)
        assert torch.equal(sample, joined(parts, "latents")[index] * 0.5)
        assert text == texts[index]


@pytest.mark.parametrize("content", ["mean", "pixels"])
def test_half_of_the_samples_are_mirrored(content: str, tmp_path: Path) -> None:
    parts = make_shards(tmp_path, [40, 60], content, flip=True)
    source, plain = ShardSource(tmp_path, seed=1), joined(parts, "pixels" if content == "pixels" else "latents").float()
    mirrored = plain.flip(-1) if content == "pixels" else joined(parts, "flipped_latents")
    if content == "pixels":
        plain, mirrored = plain / 127.5 - 1, mirrored / 127.5 - 1
    turned = []
    for number in range(200):
        sample, index = source.batch(number, 1)[0][0], int(source.names(number, 1)[0].removesuffix(".png"))
        turned.append(torch.equal(sample, mirrored[index] * 0.5))
        assert turned[-1] or torch.equal(sample, plain[index] * 0.5)
        assert turned[-1] == sample_draw(1, number)[0]
    assert 70 < sum(turned) < 130
    assert turned[:100] != turned[100:]  # every epoch mirrors others


def test_moments_are_drawn_from_anew_for_every_sample(tmp_path: Path) -> None:
    parts = make_shards(tmp_path, [1], "moments")
    source = ShardSource(tmp_path)
    samples, _ = source.batch(0, 4000)
    assert torch.equal(source.batch(17, 1)[0][0], samples[17])
    assert len({tuple(sample.flatten().tolist()) for sample in samples}) == 4000
    noise = (samples / 0.5 - parts[0]["latents"]) / parts[0]["deviations"]
    assert float(noise.mean(dim=0).abs().max()) < 0.08  # five standard errors
    assert float((noise.std(dim=0) - 1).abs().max()) < 0.06


def test_only_the_rows_of_a_batch_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shards(tmp_path, [50, 50, 50])
    opened, rows = [], []
    real = shard_source.safe_open

    class Slice:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def get_shape(self) -> Any:
            return self.inner.get_shape()

        def __getitem__(self, part: slice) -> Any:
            rows.append(part.stop - part.start)
            return self.inner[part]

    class Handle:
        def __init__(self, path: Path, *rest: Any) -> None:
            opened.append(Path(path).name)
            self.inner = real(path, *rest)

        def get_slice(self, name: str) -> Slice:
            return Slice(self.inner.get_slice(name))

        def get_tensor(self, name: str) -> Any:
            assert name == "labels"
            return self.inner.get_tensor(name)

    monkeypatch.setattr(shard_source, "safe_open", Handle)
    source = ShardSource(tmp_path)
    assert not opened
    source.batch(0, 1)
    assert (len(opened), rows) == (1, [1])
    source.batch(1, 20)
    assert rows == [1] * 21
    source.batch(0, 150)
    assert sorted(opened) == ["shard-0.safetensors", "shard-1.safetensors", "shard-2.safetensors"]  # each once


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_a_large_shard_does_not_fill_the_memory(tmp_path: Path) -> None:
    count, row = 4000, 2 * 3 * 4 * 4096
    make_shards(tmp_path, [1])
    index = ShardSource(tmp_path).index
    header = {
        "labels": {"dtype": "I64", "shape": [count], "data_offsets": [0, 8 * count]},
        "latents": {
            "dtype": "F32",
            "shape": [count, 2, 3 * 64, 4 * 64],
            "data_offsets": [8 * count, 8 * count + 4 * row * count],
        },
    }
    text = json.dumps(header).encode()
    path = tmp_path / "shard-0.safetensors"
    with path.open("wb") as file:  # 1.5 GB, all holes
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 8 * count + 4 * row * count)
    shard = replace(index.shards[0], count=count, bytes=path.stat().st_size)
    write_index(tmp_path, replace(index, shards=(shard,), input_size=(3 * 64, 4 * 64)))
    source = ShardSource(tmp_path)
    before = resident()
    for first in range(0, 64, 8):
        source.batch(first, 8)
    assert resident() - before < 200e6  # a batch is 3 MB, the file 1.5 GB


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_fingerprint_is_that_of_the_data(tmp_path: Path) -> None:
    make_shards(tmp_path / "a", [3, 2])
    make_shards(tmp_path / "b", [3, 2])
    make_shards(tmp_path / "c", [3, 2, 1])
    a, b, c = (ShardSource(tmp_path / name, seed=seed) for seed, name in enumerate("abc"))
    assert a.fingerprint == b.fingerprint != c.fingerprint
    write_index(tmp_path / "b", replace(b.index, latent=replace(SPACE, scale=0.25)))
    assert ShardSource(tmp_path / "b").fingerprint != a.fingerprint


def test_shards_that_are_not_as_promised(tmp_path: Path) -> None:
    make_shards(tmp_path, [3])
    index = ShardSource(tmp_path).index
    for wrong, match in (
        (replace(index, num_classes=1, class_names=None), "shard-0.*label [12] is outside 0 .. 0"),
        (replace(index, input_size=(4, 4)), r"shard-0.*latents of shape \[3, 2, 3, 4\], expected \[3, 2, 4, 4\]"),
        (replace(index, flip=True), "shard-0.*flipped_latents"),
        (replace(index, shards=(replace(index.shards[0], count=4),)), "shard-0.*labels.*expected 4"),
    ):
        write_index(tmp_path, wrong)
        with pytest.raises(ValueError, match=match):
            open_source(tmp_path).batch(0, 3)
    content = (tmp_path / "shard-0.safetensors").read_bytes()
    (tmp_path / "shard-0.safetensors").write_bytes(b"\xff" * len(content))
    write_index(tmp_path, index)
    with pytest.raises(ValueError, match=r"shard-0.*cannot be read.*--resume"):
        open_source(tmp_path).batch(0, 3)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"format": "sparsedit_core.shards", "version": 2}', "[" * 100_000, "\x00"],
)
def test_an_index_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ValueError, match="no index of shards"):
        open_source(tmp_path)


@pytest.mark.parametrize("key", ["latent", "input_size", "content", "class_names", "shards", "num_classes"])
@pytest.mark.parametrize("value", [None, 7, "x", [1], [{"file": "../x"}], {}])
def test_an_index_with_a_wrong_entry(key: str, value: Any, tmp_path: Path) -> None:
    if (key, value) in (("class_names", None), ("num_classes", 7)):
        pytest.skip("a right value")
    make_shards(tmp_path, [1])
    data = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps(data | {key: value}))
    with pytest.raises(ValueError, match=r"no index of shards|hold no picture"):
        open_source(tmp_path)


def test_open_source_tells_what_is_there(tmp_path: Path) -> None:
    source = open_source("procedural", seed=3)
    assert isinstance(source, ProceduralSource)
    assert (source.seed, source.latent) == (3, PIXELS)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_source(tmp_path / "nothing")
    with pytest.raises(ValueError, match="sparsedit encode"):
        open_source(tmp_path)
    make_shards(tmp_path / "shards", [1])
    assert isinstance(open_source(tmp_path / "shards" / INDEX), ShardSource)
