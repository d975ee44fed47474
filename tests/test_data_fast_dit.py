"""The features that fast-DiT's extract_features.py writes, read as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_models import Cli

from sparsedit_core.checkpoint import Latent
from sparsedit_core.train.data import FastDiTSource, open_source


def make_features(root: Path, labels: list[int], shape: tuple[int, ...] = (1, 4, 2, 2)) -> list[np.ndarray]:
    """What fast-DiT's extract_features.py writes, one file a sample."""
    features, places = [], (root / "imagenet256_features", root / "imagenet256_labels")
    for place in places:
        place.mkdir(parents=True)
    for number, label in enumerate(labels):
        features.append(np.random.default_rng(number).standard_normal(shape).astype(np.float32))
        np.save(places[0] / f"{number}.npy", features[-1])
        np.save(places[1] / f"{number}.npy", np.array([label], np.int64))
    return features


def test_fast_dit_features_are_read_as_they_are(tmp_path: Path) -> None:
    labels = [3, 0, 1, 1, 2, 3, 0, 5, 5, 2, 4, 0]
    features = make_features(tmp_path, labels)
    source = open_source(tmp_path, seed=4)
    assert (source.latent, source.input_size, source.count) == (Latent(4, 0.18215, 8, "latent"), (2, 2), 12)
    assert (source.num_classes, source.class_names) == (6, None)
    samples, found = source.batch(12, 12)
    stored = torch.from_numpy(np.concatenate(features))
    matches = (samples[:, None] == stored[None]).flatten(2).all(dim=2)
    assert torch.equal(matches.sum(dim=0), torch.ones(12, dtype=torch.int64))  # no second 0.18215
    assert found.tolist() == [labels[int(row.float().argmax())] for row in matches]
    same = FastDiTSource(tmp_path / "imagenet256_features", seed=4)
    assert torch.equal(same.batch(12, 12)[0], samples)
    assert same.fingerprint == source.fingerprint
    np.save(tmp_path / "imagenet256_labels" / "0.npy", np.array([1]))
    assert open_source(tmp_path).fingerprint != source.fingerprint


def test_a_pixart_is_not_trained_on_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_features(tmp_path, [0, 1])
    with pytest.raises(ValueError, match="class labels and no captions"):
        open_source(tmp_path, captions=True)
    out = tmp_path / "model.safetensors"
    words = ("train", out, "--family", "pixart", "--data", tmp_path, "--pictures", 4, "--batch", 2, "--cpu")
    assert "class labels and no captions" in Cli(capsys).refuses(*words)
    assert not out.exists()


def test_fast_dit_features_that_are_wrong(tmp_path: Path) -> None:
    make_features(tmp_path, [0, 1, 2])
    features, labels = tmp_path / "imagenet256_features", tmp_path / "imagenet256_labels"

    def refused(match: str) -> None:
        with pytest.raises(ValueError, match=match):
            open_source(tmp_path).batch(0, 3)

    np.save(features / "1.npy", np.zeros((1, 4, 3, 3), np.float32))
    refused(r"1.npy holds float32 of shape \(1, 4, 3, 3\), expected floats of shape \(1, 4, 2, 2\)")
    np.save(features / "1.npy", np.array([object()]), allow_pickle=True)
    refused("1.npy is no readable .npy file")
    (features / "1.npy").write_bytes(b"\x93NUMPY")
    refused("1.npy is no readable .npy file")
    np.save(labels / "2.npy", np.array([-1]))
    refused("2.npy holds int64 .*expected one label of 0 or more")
    (labels / "2.npy").unlink()
    refused("only one of them, the first 2.npy")
    np.save(features / "0.npy", np.zeros((4, 2, 2), np.float32))
    np.save(labels / "2.npy", np.array([1]))
    refused(r"0.npy has shape \(4, 2, 2\), expected one sample")
    (tmp_path / "other_features").mkdir()
    refused("several sets of features")
    with pytest.raises(ValueError, match="no folder other_labels beside it"):
        open_source(tmp_path / "other_features")
