"""Captions of the procedural pictures: they name what is drawn, every name is frequent, colour is measurable."""

from __future__ import annotations

import colorsys

import torch
from torch import Tensor

from sparsedit_core.train.evaluation import Jury, PictureSet, union
from sparsedit_core.train.picture_captions import LONGEST, WORDINGS, WORDS, captions, measured_colour
from sparsedit_core.train.pictures import CLASS_NAMES, COLOURS, SHAPES, TEXTURES, attributes, colour_of, pictures
from sparsedit_core.train.real_pictures import HeldOutPictures
from sparsedit_core.train.source import ProceduralCaptions, ProceduralSource
from sparsedit_core.words import WordEncoder

TYPICAL = {"red": 0, "orange": 27, "yellow": 55, "green": 120, "blue": 220, "purple": 290}
"""Hue of each name in degrees, from any table of colours."""


def test_every_colour_covers_its_typical_hue_and_the_wheel_is_covered() -> None:
    for name, degrees in TYPICAL.items():
        assert COLOURS[int(colour_of(torch.tensor([degrees / 360])))] == name
    around = colour_of(torch.linspace(0, 1, 3601))
    changes = int((around.diff() != 0).sum())
    assert set(around.tolist()) == set(range(6))
    assert changes == 6  # each name is one stretch; red goes through 0


def test_every_attribute_is_frequent_and_independent() -> None:
    found = attributes(0, 30_000, seed=3)
    for values, count in ((found.colour, 6), (found.shape, 5), (found.texture, 2), (found.wording % len(WORDINGS), 3)):
        share = torch.bincount(values, minlength=count) / len(values)
        assert float(share.min()) > 0.1, share
    together = torch.bincount(found.label * 6 + found.colour, minlength=60) / len(found)
    product = torch.bincount(found.colour, minlength=6) / len(found) / 10
    assert float((together.reshape(10, 6) / product).sub(1).abs().max()) < 0.2


def test_a_caption_names_what_is_drawn() -> None:
    found, (_, labels) = attributes(5, 200, split="heldout"), pictures(5, 200, split="heldout")
    assert torch.equal(found.label, labels)
    texts = captions(found)
    for text, label, colour in zip(texts, labels.tolist(), found.colour.tolist(), strict=True):
        words = set(text.split())
        assert set(CLASS_NAMES[label].split()) | {COLOURS[colour]} <= words <= {*WORDS}
        assert len(text.split()) <= LONGEST
        assert len(words & {*COLOURS, *SHAPES, *TEXTURES}) == 3
    for name, known in (("shape", SHAPES), ("texture", TEXTURES), ("colour", COLOURS)):
        said = [[known.index(word) for word in text.split() if word in known] for text in texts]
        assert said == [[number] for number in getattr(found, name).tolist()]
    assert max(len(text.split()) for text in texts) == LONGEST


def test_asking_for_a_class_changes_no_colour() -> None:
    plain, asked = attributes(0, 50), attributes(0, 50, labels=3)
    assert torch.equal(plain.colour, asked.colour)
    assert asked.label.tolist() == [3] * 50


def test_colour_is_measured_without_a_mistake() -> None:
    images, _ = pictures(0, 3000, seed=11, split="heldout")
    wanted = attributes(0, 3000, seed=11, split="heldout").colour
    assert torch.equal(measured_colour(images), wanted)
    noisy = images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert float((measured_colour(noisy) == wanted).float().mean()) > 0.98


def test_the_hue_of_plain_pictures_is_that_of_colorsys() -> None:
    generator = torch.Generator().manual_seed(4)
    rgb = torch.rand(500, 3, generator=generator)
    hues = torch.tensor([colorsys.rgb_to_hsv(*row)[0] for row in rgb.double().tolist()])
    images = (2 * rgb - 1)[:, :, None, None].expand(-1, -1, 8, 8)
    assert float((measured_colour(images) == colour_of(hues)).float().mean()) > 0.99  # but for rounding at the ends
    grey = torch.zeros(1, 3, 8, 8)
    assert measured_colour(grey).shape == (1,)


def test_the_captioned_source_is_the_plain_one_with_words() -> None:
    plain, spoken = ProceduralSource(2), ProceduralCaptions(2)
    (images, _), (again, found) = plain.batch(7, 6), spoken.batch(7, 6)
    assert torch.equal(images, again)
    assert found.features.shape == (6, LONGEST, len(WORDS)) == (6, spoken.caption_tokens, spoken.caption_channels)
    assert WordEncoder(WORDS).texts(found) == captions(attributes(7, 6, seed=2))
    assert len({plain.fingerprint, spoken.fingerprint, ProceduralCaptions(3).fingerprint}) == 3


def test_a_jury_counts_what_captions_name() -> None:
    """Ten pictures whose captions are made wrong in known ways."""
    images, shown = HeldOutPictures(captioned=True).batch(0, 10)
    truth = shown.label  # type: ignore[union-attr]

    def classify(given: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(truth[: len(given)], 10).float()

    jury = Jury(features=lambda given: given.flatten(1)[:, :4], classify=classify, k=1)
    right = PictureSet(jury)
    right.add(images, shown)
    other = attributes(0, 10, seed=7, split="heldout")
    other.shape[:2] = (other.shape[:2] + 1) % 5
    other.texture[1] = 1 - other.texture[1]
    other.colour[4:7] = (other.colour[4:7] + 1) % 6
    wrong = PictureSet(jury)
    wrong.add(images, other)
    found = wrong.against(right)
    assert (found.shape, found.texture, found.colour, found.caption) == (0.8, 0.9, 0.7, 0.5)
    assert found.accuracy == 0.8
    best = right.against(wrong)
    assert (best.shape, best.texture, best.colour, best.caption) == (1, 1, 1, 1)
    both = union(right, wrong).against(right)
    assert (both.shape, both.caption) == (0.9, 0.75)
    plain = PictureSet(jury)
    plain.add(images, truth)
    assert (plain.against(right).caption, plain.against(right).accuracy) == (None, 1.0)
