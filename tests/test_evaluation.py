"""Juries, real pictures and the error by time, against closed cases and the whole computed at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import small_model
from cli_models import LAYOUT, save_latents, save_pixels
from PIL import Image
from torch import Tensor

import sparsedit_core as sd
from sparsedit_core.diffusion import Diffusion
from sparsedit_core.sampling import SampleOptions, initial_noise, sample
from sparsedit_core.train.by_time import TIMES, errors_by_time
from sparsedit_core.train.evaluation import Jury, PictureSet, seen, union
from sparsedit_core.train.frechet import gaussian_distance
from sparsedit_core.train.precision_recall import precision_recall
from sparsedit_core.train.real_pictures import ArrayPictures, FolderPictures, HeldOutPictures, batches


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :7]


def brightest(x: Tensor) -> Tensor:
    """Logits: the mean of each channel."""
    return x.mean(dim=(2, 3))


def test_a_verdict_is_that_of_all_pictures_at_once() -> None:
    jury = Jury(flat, brightest, k=2, kept=1000)
    labels = brightest(images(40)).argmax(dim=1)
    wrong = labels.clone()
    wrong[:10] = (wrong[:10] + 1) % 3
    drawn = seen(jury, zip(images(40).split(7), wrong.split(7), strict=True), classes=3)
    real = seen(jury, [(part, None) for part in images(30, seed=1).split(11)])
    found = drawn.against(real)
    moments = [
        part
        for feats in (flat(images(40)).double(), flat(images(30, seed=1)).double())
        for part in (feats.mean(dim=0), torch.cov(feats.T))
    ]
    assert found.frechet == pytest.approx(gaussian_distance(*moments), rel=1e-9)
    shares = precision_recall(flat(images(30, seed=1)), flat(images(40))[:30], k=2)
    assert (found.precision, found.recall, found.compared) == (shares.precision, shares.recall, 30)
    assert (found.accuracy, found.pictures) == (0.75, 40)
    assert real.accuracy is None


def test_only_the_first_features_are_kept() -> None:
    jury = Jury(flat, k=1, kept=10)
    drawn = seen(jury, [(part, None) for part in images(40).split(7)])
    assert torch.equal(drawn.features, flat(images(40))[:10])
    assert len(drawn) == 40
    few = seen(jury, [(images(2, seed=3)[:1], None)])
    few.add(images(1, seed=4))
    assert drawn.against(seen(jury, [(images(2, seed=3), None)])).compared == 2
    one = seen(Jury(flat, k=2, kept=10), [(images(2), None)])
    verdict = one.against(one)
    assert (verdict.precision, verdict.recall, verdict.compared) == (None, None, 0)


@pytest.mark.parametrize(("first", "second", "kept"), [(20, 20, 10), (20, 2, 10), (2, 20, 10), (3, 4, 10)])
def test_a_union_holds_both_halves(first: int, second: int, kept: int) -> None:
    jury = Jury(flat, k=1, kept=kept)
    one, two = (seen(jury, [(images(n, seed=seed), None)]) for n, seed in ((first, 1), (second, 2)))
    both = union(one, two)
    everything = torch.cat([flat(images(first, seed=1)), flat(images(second, seed=2))])
    assert len(both) == first + second
    torch.testing.assert_close(both.moments.statistics()[1], torch.cov(everything.double().T))
    assert len(both.features) == min(kept, first + second)
    rows = {tuple(row) for row in both.features.tolist()}
    assert len(rows) == len(both.features)
    assert len(rows & {tuple(row) for row in two.features.tolist()}) == min(second, max(kept // 2, kept - first))


def test_a_classifier_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="gives 3 logits, but the pictures are of 10 classes"):
        PictureSet(Jury(flat, brightest), classes=10).add(images(2), torch.zeros(2))
    for label in (3, -1):
        with pytest.raises(ValueError, match=rf"have label {label}, but the classifier's classes are 0 \.\. 2"):
            PictureSet(Jury(flat, brightest)).add(images(2), torch.tensor([0, label]))
    with pytest.raises(ValueError, match="more pictures than neighbours"):
        Jury(flat, k=5, kept=5)


# real pictures


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for name, colour in (("b", (255, 0, 0)), ("a", (0, 0, 255))):
        for number in range(4):
            save(tmp_path / name / f"{number}.png", colour, (8 + number, 12))
    save(tmp_path / "b" / "deep" / "x.jpg", (255, 0, 0))
    (tmp_path / "a" / "broken.png").write_bytes(b"not a picture")
    real = FolderPictures(tmp_path, 6)
    assert (real.count, real.class_names) == (10, ("a", "b"))
    parts = list(batches(real, 0, 10, 3))
    found, labels = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts if y is not None])
    assert found.shape == (9, 3, 6, 6)
    assert (float(found.min()), float(found.max())) == (-1.0, 1.0)
    assert real.skipped == {"a/broken.png"}
    red = found[:, 0].mean(dim=(1, 2)) > 0
    assert torch.equal(red.long(), labels)
    assert 0 < int(labels[:5].sum()) < 5  # a slice holds both classes
    again = torch.cat([x for x, _ in batches(FolderPictures(tmp_path, 6), 0, 10, 10)])
    assert torch.equal(again, found)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    save(tmp_path / "one.png", (255, 255, 255))
    shown, labels = FolderPictures(tmp_path, 4).batch(0, 5)
    assert labels is None
    assert torch.equal(shown, torch.ones(1, 3, 4, 4))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        FolderPictures(tmp_path / "nothere", 4)


def test_a_slice_of_an_array_that_was_written_class_by_class_holds_all_classes(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(4), 25)
    np.savez(tmp_path / "a.npz", np.broadcast_to(labels[:, None, None, None], (100, 2, 2, 3)).astype(np.uint8), labels)
    real = ArrayPictures(tmp_path / "a.npz")
    found = [real.batch(first, 30) for first in range(0, 100, 30)]
    assert {int(y) for y in found[0][1]} == {0, 1, 2, 3}
    together = torch.cat([y for _, y in found])
    assert sorted(together.tolist()) == labels.tolist()
    shades = torch.cat([x for x, _ in found]).amax(dim=(1, 2, 3))  # every picture keeps its label
    assert torch.equal(((shades + 1) * 127.5).round().long(), together)


def test_held_out_pictures_have_their_classes() -> None:
    shown, labels = HeldOutPictures().batch(8, 4)
    assert shown.shape == (4, 3, 64, 64)
    assert labels is not None
    assert labels.tolist() == [8, 9, 0, 1]


# samples in batches


def test_pictures_numbered_from_the_middle_are_those_of_the_whole(tmp_path: Path) -> None:
    loaded = sd.load_checkpoint(save_latents(tmp_path / "m.safetensors"))
    labels, options = torch.arange(5), SampleOptions(3, "ddpm", batch=2)
    whole = sample(loaded, initial_noise(loaded, 5, seed=3), labels, options, seed=3).images
    tail = sample(loaded, initial_noise(loaded, 3, seed=3, first=2), labels[2:], options, seed=3, first=2).images
    torch.testing.assert_close(tail, whole[2:], atol=1e-4, rtol=0)
    other = sample(loaded, initial_noise(loaded, 3, seed=3, first=2), labels[2:], options, seed=3).images
    assert not torch.allclose(tail, other)  # the sampler's own noise is numbered, too


# the error by time


class Constant(torch.nn.Module):
    """Answers every question with one number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, t: Tensor, y: Tensor, sparse_grid: object = None) -> Tensor:
        return torch.full_like(x, self.value)


def test_the_error_of_a_constant_is_that_of_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = sd.load_checkpoint(save_pixels(tmp_path / "m.safetensors"))
    shown, labels = HeldOutPictures().batch(0, 6)
    monkeypatch.setattr(loaded.model, "forward", Constant(0.25).forward)
    noise = initial_noise(loaded, 6, seed=4)
    for found, batch in ((errors_by_time(loaded, shown, labels, seed=4, batch=b), b) for b in (2, 6)):
        assert [entry.time for entry in found] == list(TIMES)
        squares = (noise - shown - 0.25).double().square().flatten(1).mean(dim=1)
        for entry in found:
            assert entry.error == pytest.approx(float(squares.mean()), rel=1e-5), batch
            assert entry.deviation == pytest.approx(float(squares.std() / 6**0.5), rel=1e-4)
            assert entry.grid is None


def test_noise_models_are_asked_at_whole_timesteps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = sd.load_checkpoint(save_latents(tmp_path / "m.safetensors", LAYOUT))
    schedule = sd.PruningSchedule(0.9, 0.5, levels=None)
    x0 = torch.randn(4, *initial_noise(loaded, 1).shape[1:], generator=torch.Generator().manual_seed(1))
    asked: list[tuple[float, object]] = []

    def oracle(x: Tensor, t: Tensor, y: Tensor, sparse_grid: object = None) -> Tensor:
        asked.append((float(t[0]), sparse_grid))
        index = t.long()
        eps = Diffusion().predict_eps(x, index, x0)
        return torch.cat([eps + 0.5, torch.zeros_like(eps)], dim=1)  # off by one half, any variance

    monkeypatch.setattr(loaded.model, "forward", oracle)
    found = errors_by_time(loaded, x0, torch.zeros(4).long(), times=(0.1, 0.9), schedule=schedule)
    dense = loaded.model.token_grid(*loaded.config.input_size)
    assert asked == [(100.0, schedule.grid(100 / 999, dense)), (899.0, schedule.grid(899 / 999, dense))]
    for entry, (_, grid) in zip(found, asked, strict=True):
        assert entry.error == pytest.approx(0.25, rel=1e-3)
        assert entry.grid == grid
    own = errors_by_time(sd.load_checkpoint(tmp_path / "m.safetensors"), x0, torch.zeros(4).long(), times=(0.5,))
    side = loaded.config.sparse_side
    assert own[0].grid == (min(side, dense[0]), min(side, dense[1]))


def test_samples_that_do_not_fit(tmp_path: Path) -> None:
    sd.save_checkpoint(tmp_path / "m.safetensors", small_model())
    loaded = sd.load_checkpoint(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="this model takes 2 or more of"):
        errors_by_time(loaded, torch.zeros(2, 3, 9, 9), torch.zeros(2).long())
