"""The judge: Frechet distance by closed forms, training, files, and what the bundled weights reach."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from sparsedit_core.train.evaluation import Jury, seen
from sparsedit_core.train.extractors import judge_features, judge_logits
from sparsedit_core.train.frechet import Moments, gaussian_distance, trace_sqrt_product
from sparsedit_core.train.judge import Judge, accuracy, features, noisy, predict
from sparsedit_core.train.pictures import CLASS_NAMES, pictures
from sparsedit_core.train.real_pictures import HeldOutPictures
from sparsedit_core.train.train_judge import BUNDLED_JUDGE, load_judge, save_judge, train_classifier


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size, seed=0):
    return torch.linalg.qr(normal(size, size, seed=seed))[0]


def frechet_distance(feats_a, feats_b):
    a, b = Moments(), Moments()
    a.add(feats_a)
    b.add(feats_b)
    return a.distance(b)


# Frechet distance


def test_equal_features_are_at_distance_zero():
    feats = normal(50, 8)
    assert frechet_distance(feats, feats.flip(0)) == pytest.approx(0, abs=1e-9)


def test_a_shift_costs_its_squared_length():
    feats, shift = normal(50, 4), torch.tensor([1.0, -2.0, 0.5, 0.0]).double()
    assert frechet_distance(feats, feats + shift) == pytest.approx(5.25, abs=1e-9)


def test_scaling_costs_the_difference_of_the_deviations():
    feats = normal(200, 5)
    feats = feats - feats.mean(dim=0)
    variance = float(feats.var(dim=0).sum())
    assert frechet_distance(feats, 3 * feats) == pytest.approx(4 * variance, rel=1e-9)


def test_commuting_covariances_have_the_closed_form():
    turn = rotation(6)
    a, b = torch.linspace(0.1, 3, 6).double(), torch.linspace(2, 0.2, 6).double()
    zero = torch.zeros(6).double()
    found = gaussian_distance(zero, turn @ a.diag() @ turn.T, zero, turn @ b.diag() @ turn.T)
    assert found == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-9)


def test_two_by_two_matrices_that_do_not_commute():
    """tr((A B)^(1/2)) of 2x2 matrices is sqrt(tr(A B) + 2 sqrt(det A det B))."""
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double()
    b = torch.tensor([[1.0, -0.7], [-0.7, 3.0]]).double()
    expected = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float(a.det() * b.det())))
    assert float(trace_sqrt_product(a, b)) == pytest.approx(expected, rel=1e-12)
    assert float(trace_sqrt_product(b, a)) == pytest.approx(expected, rel=1e-12)


def test_singular_covariances_are_fine():
    line = normal(30, 1) * torch.tensor([1.0, 2.0, 2.0]).double()
    assert frechet_distance(line, line) == pytest.approx(0, abs=1e-7)
    assert frechet_distance(line, 0 * line) == pytest.approx(
        float(line.mean(dim=0).square().sum() + line.var(dim=0).sum()), rel=1e-9
    )


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(1, 4), torch.zeros(9, 4), "at least 2 pictures on each side, found 1"),
        (torch.zeros(9, 4), torch.zeros(9, 5), "4 and 5"),
        (torch.zeros(9, 4), torch.full((9, 4), float("nan")), "with NaN or infinite values"),
        (torch.zeros(9, 4), torch.zeros(9), r"found shape \(9,\)$"),
    ],
)
def test_bad_features_are_explained(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


# the classifier


def test_size_and_shapes():
    judge = Judge()
    assert sum(p.numel() for p in judge.parameters()) <= 170_000
    images, _ = pictures(0, 7)
    assert features(judge, images, batch=3).shape == (7, 96)
    assert predict(judge, images).shape == (7,)
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\)"):
        judge(torch.zeros(1, 3, 16, 16))


def test_noise_reaches_half_of_the_pictures_of_every_class():
    images, labels = pictures(0, 1000)
    changed = noisy(images, torch.Generator().manual_seed(0))
    touched = (images != changed).flatten(1).any(dim=1)
    assert changed.abs().max() <= 1
    for label in range(10):
        assert 0.3 < float(touched[labels == label].float().mean()) < 0.7


def test_training_is_deterministic_and_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(1)
    state, seen = torch.random.get_rng_state(), []
    first, record = train_classifier(
        tmp_path / "a.safetensors", steps=3, batch=20, heldout=50, progress=lambda *step: seen.append(step[:2])
    )
    assert torch.equal(state, torch.random.get_rng_state())
    again, _ = train_classifier(steps=3, batch=20, heldout=50)
    other, _ = train_classifier(steps=3, batch=20, heldout=50, seed=1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.head.weight, other.head.weight)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    loaded, header = load_judge(tmp_path / "a.safetensors")
    assert header["heldout_accuracy"] == record["heldout_accuracy"]
    assert header["steps"] == 3
    assert torch.equal(loaded.head.weight, first.head.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "judge.safetensors"
    save_judge(path, Judge(), {"steps": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_judge(path, Judge(), {"steps": object()})
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_files_that_are_not_a_judge_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="train --classifier"):
        load_judge(tmp_path / "none.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("not weights")
    with pytest.raises(ValueError, match=r"text\.safetensors"):
        load_judge(text)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match=r"expected 'sparsedit_core\.judge'"):
        load_judge(foreign)
    header = {"format": "sparsedit_core.judge", "version": 1, "widths": [8, 8], "class_names": ["a"]}
    save_file({"a": torch.zeros(1)}, foreign, metadata={"sparsedit": json.dumps(header)})
    damaged = [header, {"widths": None}, {"widths": ["a"]}, {"widths": [-1]}, {"class_names": 3}, {"class_names": []}]
    for wrong in damaged:
        save_file({"a": torch.zeros(1)}, foreign, metadata={"sparsedit": json.dumps(header | wrong)})
        with pytest.raises(ValueError, match="does not hold the weights"):
            load_judge(foreign)
    for missing in ("widths", "class_names"):
        less = {key: value for key, value in header.items() if key != missing}
        save_file({"a": torch.zeros(1)}, foreign, metadata={"sparsedit": json.dumps(less)})
        with pytest.raises(ValueError, match="does not hold the weights"):
            load_judge(foreign)


def test_accuracy_needs_a_label_for_each_image():
    with pytest.raises(ValueError, match="3 images, 2 labels"):
        accuracy(Judge(), pictures(0, 3)[0], torch.zeros(2))


# the bundled weights


def test_the_bundled_judge_knows_held_out_pictures_even_with_light_noise():
    judge, header = load_judge()
    images, labels = pictures(50_000, 800, seed=11, split="heldout")
    noise = 0.1 * normal(*images.shape).float()
    assert header["class_names"] == list(CLASS_NAMES)
    assert BUNDLED_JUDGE.stat().st_size <= 800_000
    assert accuracy(judge, images, labels) >= 0.99
    assert accuracy(judge, images + noise, labels) >= 0.985


def test_distance_grows_with_damage_and_the_floor_is_small():
    judge, _ = load_judge()
    jury = Jury(judge_features(judge))
    reference, others = (seen(jury, [HeldOutPictures().batch(first, 300)]) for first in (0, 300))
    floor = others.against(reference).frechet
    images, labels = pictures(0, 300, seed=5, split="heldout")
    noise = normal(*images.shape).float()
    clean, slightly, badly = (
        seen(jury, [(images + strength * noise, None)]).against(reference) for strength in (0, 0.35, 0.8)
    )
    assert clean.pictures == 300
    assert clean.frechet == pytest.approx(floor, rel=0.5)
    assert clean.frechet < slightly.frechet < badly.frechet
    both = Jury(judge_features(judge), judge_logits(judge))
    few = seen(both, [(images[labels < 5], labels[labels < 5])], classes=10).against(reference)
    assert few.frechet > 4 * clean.frechet
    assert few.accuracy is not None
    assert few.accuracy >= 0.98
