"""The procedural pictures: deterministic, in range, equal areas, and no class told by its mean colour."""

from itertools import combinations

import numpy as np
import pytest
import torch

from sparsedit_core.train import pictures as module
from sparsedit_core.train.pictures import CLASS_NAMES, SHAPE_AREA, SHAPES, pictures


def test_shape_range_and_labels():
    images, labels = pictures(95, 20)
    assert images.shape == (20, 3, 64, 64)
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert labels.tolist() == [i % 10 for i in range(95, 115)]
    assert labels.dtype == torch.int64
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 10
    assert CLASS_NAMES[0] == "striped disc"
    assert CLASS_NAMES[8] == "checkered star"


def test_a_picture_depends_on_seed_split_and_index_only():
    images, _ = pictures(0, 64)
    again, labels = pictures([63, 7, 7, 30])
    assert torch.equal(again, images[[63, 7, 7, 30]])
    assert labels.tolist() == [3, 7, 7, 0]
    assert torch.equal(pictures(np.arange(64), 64)[0], images)
    for other in (pictures(0, 64, seed=1), pictures(0, 64, split="heldout"), pictures(64, 64)):
        assert not any(torch.equal(a, b) for a in images for b in other[0])


def test_a_picture_that_changes_needs_a_new_version():
    images, _ = pictures(0, 50)
    assert (module.VERSION, round(float(images.double().square().mean()), 4)) == (2, 0.4284)


def test_indices_have_no_visible_end():
    images, _ = pictures([10**12, 2**62], seed=-3)
    assert torch.isfinite(images).all()
    assert not torch.equal(images[0], images[1])


def test_given_labels_change_the_class_and_keep_the_nuisance():
    striped, labels = pictures(0, 40, labels=1)
    checkered, _ = pictures(0, 40, labels=torch.full((40,), 6))
    assert labels.tolist() == [1] * 40
    assert torch.equal(striped[:, :, :2], checkered[:, :, :2])
    assert not torch.equal(striped, checkered)
    natural, own = pictures(0, 40)
    assert torch.equal(pictures(0, 40, labels=own)[0], natural)


def test_empty_request():
    images, labels = pictures(5, 0)
    assert images.shape == (0, 3, 64, 64)
    assert labels.shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 4), {"split": "test"}, "train, heldout"),
        ((0,), {}, "a count of pictures"),
        (([1, 2], 3), {}, "2 indices"),
        ((-1, 4), {}, "found -1"),
        ((0, 4), {"labels": 10}, "0..9"),
        ((0, 4), {"labels": [1, 2]}, "one for each of 4"),
    ],
)
def test_bad_requests_are_explained(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        pictures(*arguments, **options)


def test_every_class_covers_the_same_area_half_in_each_colour():
    count = 800
    draw = module._Uniform(np.arange(count), 0, 0)
    for label, name in enumerate(CLASS_NAMES):
        inside, texture = module._geometry(draw, np.full(count, label))
        area = inside.sum(axis=(1, 2), dtype=np.float64)
        assert area.mean() == pytest.approx(SHAPE_AREA, rel=0.01), name
        share = (inside * texture).sum(axis=(1, 2), dtype=np.float64) / area
        assert share.mean() == pytest.approx(0.5, abs=0.004), name
        assert share.std() < 0.03, name


def test_the_two_textures_differ_at_the_scale_of_a_few_pixels():
    draw = module._Uniform(np.arange(200), 0, 0)
    for label in (0, len(SHAPES)):
        _, texture = module._geometry(draw, np.full(200, label))
        power = np.abs(np.fft.rfft2(texture - texture.mean(axis=(1, 2), keepdims=True))) ** 2
        rows, columns = np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None]
        fine = power[:, np.hypot(rows, columns) > 1 / 6.5].sum() / power.sum()
        assert fine > 0.9


def test_no_two_classes_are_separable_by_mean_colour():
    """A quadratic least-squares classifier and Gaussian discriminants on the mean colour stay at chance."""
    colours, labels = _mean_colours("train")
    others, truth = _mean_colours("heldout")
    results = []
    for a, b in combinations(range(10), 2):
        known, asked = np.isin(labels, (a, b)), np.isin(truth, (a, b))
        target = np.where(labels[known] == a, 1.0, -1.0)
        weights = np.linalg.lstsq(_quadratic(colours[known]), target, rcond=None)[0]
        results.append(np.mean((_quadratic(others[asked]) @ weights > 0) == (truth[asked] == a)))
        score_a, score_b = (_log_density(colours[labels == c], others[asked]) for c in (a, b))
        results.append(np.mean((score_a > score_b) == (truth[asked] == a)))
    assert max(results) < 0.54
    assert abs(np.mean(results) - 0.5) < 0.01


def _mean_colours(split):
    parts = [pictures(start, 1000, seed=3, split=split) for start in range(0, 10000, 1000)]
    colours = np.concatenate([images.mean(dim=(2, 3)).double().numpy() for images, _ in parts])
    return colours, np.concatenate([labels.numpy() for _, labels in parts])


def _quadratic(colour):
    r, g, b = colour.T
    return np.stack([np.ones_like(r), r, g, b, r * r, g * g, b * b, r * g, r * b, g * b], axis=1)


def _log_density(known, asked):
    covariance = np.cov(known.T)
    offset = asked - known.mean(axis=0)
    mahalanobis = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset)
    return -0.5 * mahalanobis - 0.5 * np.linalg.slogdet(covariance)[1]
