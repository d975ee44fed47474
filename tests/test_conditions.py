"""Captions as conditions: rows, padding, the null caption, guidance and label drop; a model sees what it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import tiny_pixart
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsedit_core.checkpoint import Latent, Loaded
from sparsedit_core.conditions import (
    Captions,
    call_model,
    check_conditions,
    has_null,
    joined,
    null_caption,
    with_classes,
    without_content,
)
from sparsedit_core.pixart import PixArt
from sparsedit_core.sampling import SampleOptions, initial_noise, sample
from sparsedit_core.train.batches import MicroBatches
from sparsedit_core.train.options import TrainOptions


def some(count: int = 3, length: int = 6, seed: int = 1, channels: int = 10) -> Captions:
    """Captions of random features whose first tokens count, at least one and not the same number in all."""
    generator = torch.Generator().manual_seed(seed)
    lengths = 1 + torch.arange(count) % length
    features = torch.randn(count, length, channels, generator=generator)
    return Captions(features, torch.arange(length) < lengths[:, None])


def model() -> PixArt:
    return tiny_pixart.random_model(tiny_pixart.config(learn_sigma=False))


def loaded_pixart(found: PixArt) -> Loaded:
    return Loaded(model=found, config=found.config, prediction="flow", latent=Latent())


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 4), st.integers(1, 4))
def test_padding_and_company_change_no_prediction(count: int, length: int, more: int, others: int) -> None:
    pixart, one = model(), some(count, length)
    x, t, *_ = tiny_pixart.inputs(pixart.config, batch=count)
    alone = call_model(pixart, x, t, one)
    torch.testing.assert_close(call_model(pixart, x, t, one.padded(length + more)), alone)
    company = joined([one, some(others, length + more, seed=2)])
    assert len(company) == count + others
    torch.testing.assert_close(call_model(pixart, x, t, company[:count]), alone)
    torch.testing.assert_close(call_model(pixart, x, t, company[torch.arange(count)]), alone)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.integers(0, 15))
def test_the_null_caption_takes_chosen_rows(count: int, length: int, tokens: int, chosen: int) -> None:
    before, null = some(count, length), torch.randn(tokens, 10)
    rows = torch.tensor([bool(chosen >> row & 1) for row in range(count)])
    found = before.without_text(null, rows)
    for row in range(count):
        if not rows[row]:
            assert torch.equal(found.features[row], before.features[row])
            assert torch.equal(found.mask[row], before.mask[row])
            continue
        kept = found.mask[row].nonzero().flatten().tolist()
        # the mask stays, as far as there is a null caption
        assert kept == [place for place in before.mask[row].nonzero().flatten().tolist() if place < tokens]
        assert torch.equal(found.features[row, kept], null[kept])
    everywhere = before.without_text(null)
    assert torch.equal(everywhere.features, before.without_text(null, torch.ones(count, dtype=torch.bool)).features)


def test_no_row_of_a_mask_is_left_empty() -> None:
    late = Captions(torch.randn(1, 4, 10), torch.tensor([[False, False, False, True]]))
    assert late.without_text(torch.randn(2, 10)).mask.tolist() == [[True, False, False, False]]


def test_captions_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        Captions(torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected"):
        Captions(torch.zeros(2, 3, 4), torch.ones(2, 3))


def test_guidance_is_that_of_two_calls() -> None:
    pixart = model()
    loaded, asked = loaded_pixart(pixart), some(2)
    noise = initial_noise(loaded, 2)
    scale = 2.5

    def euler(away: Captions) -> Tensor:
        x = noise
        for time in (1.0, 0.5):
            t = torch.full((2,), 1000 * time)
            with torch.no_grad():
                with_text, without = (call_model(pixart, x, t, given) for given in (asked, away))
            x = x - 0.5 * (without + scale * (with_text - without))
        return x / loaded.latent.scale

    settings_ = SampleOptions(steps=2, cfg=scale)  # all four channels, as PixArt is sampled
    null = without_content(pixart, asked)
    assert isinstance(null, Captions)
    torch.testing.assert_close(sample(loaded, noise, asked, settings_).images, euler(null), rtol=1e-4, atol=1e-4)
    other = some(2, length=3, seed=9)
    found = sample(loaded, noise, asked, settings_, negative=other).images
    torch.testing.assert_close(found, euler(other), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, euler(null), atol=1e-2)


def test_of_a_dit_three_channels_are_guided_unless_all_are_asked_for() -> None:
    dit = tiny.random_model(tiny.config(learn_sigma=False))
    loaded = Loaded(model=dit, config=dit.config, prediction="flow", latent=Latent())
    noise, labels = initial_noise(loaded, 2), torch.tensor([0, 1])
    plain, usual, full = (
        sample(loaded, noise, labels, wanted).images
        for wanted in (SampleOptions(1), SampleOptions(1, cfg=3.0), SampleOptions(1, cfg=3.0, guided_channels=4))
    )
    torch.testing.assert_close(usual[:, :3], full[:, :3])
    torch.testing.assert_close(usual[:, 3], plain[:, 3])
    assert not torch.allclose(full[:, 3], plain[:, 3], atol=1e-2)


def test_batches_of_samples_are_cut_like_one(tmp_path: object) -> None:
    loaded, asked, away = loaded_pixart(model()), some(5), some(5, length=2, seed=4)
    noise = initial_noise(loaded, 5)
    whole = sample(loaded, noise, asked, SampleOptions(2, cfg=2.0), negative=away).images
    parts = sample(loaded, noise, asked, SampleOptions(2, cfg=2.0, batch=2), negative=away).images
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


def test_conditions_that_do_not_fit_are_refused() -> None:
    pixart, labels, captions = tiny_pixart.config(), torch.tensor([0, 1]), some(2)
    check_conditions(pixart, captions)
    check_conditions(tiny.config(), labels)
    with pytest.raises(ValueError, match="class labels were given to a PixArt"):
        check_conditions(pixart, labels)
    with pytest.raises(ValueError, match="captions were given to a DiT"):
        check_conditions(tiny.config(), captions)
    with pytest.raises(ValueError, match="width 7, the model takes 10"):
        check_conditions(pixart, some(2, channels=7))
    with pytest.raises(ValueError, match=r"are 0 \.\. 4, found \[5"):
        check_conditions(tiny.config(), torch.tensor([1, 5]))
    with pytest.raises(ValueError, match="needs a model of classes"):
        with_classes(pixart)
    loaded = loaded_pixart(model())
    with pytest.raises(ValueError, match="1 negative captions for 2 pictures"):
        sample(loaded, initial_noise(loaded, 2), captions, SampleOptions(1, cfg=2.0), negative=some(1))
    with pytest.raises(ValueError, match="2 conditions"):
        sample(loaded, initial_noise(loaded, 3), captions)


def test_a_file_without_a_null_caption_is_not_guided_by_it() -> None:
    bare = tiny_pixart.random_model(tiny_pixart.config(caption_tokens=0, learn_sigma=False))
    assert not has_null(bare.config)
    assert null_caption(bare) is None
    loaded, asked = loaded_pixart(bare), some(2)
    noise = initial_noise(loaded, 2)
    with pytest.raises(ValueError, match="needs a null class or caption"):
        sample(loaded, noise, asked, SampleOptions(1, cfg=2.0))
    with pytest.raises(ValueError, match="has no null caption"):
        without_content(bare, asked)
    sample(loaded, noise, asked, SampleOptions(1, cfg=2.0), negative=some(2, seed=3))


class Texts:
    """A source of 4-channel samples with captions of one kind."""

    latent = Latent()
    input_size = (8, 8)
    num_classes = 0
    class_names = None
    caption_channels = 10
    caption_tokens = 6
    count = None
    fingerprint = "texts"

    def batch(self, first: int, size: int) -> tuple[Tensor, Captions]:
        return torch.zeros(size, 4, 8, 8), Captions(torch.ones(size, 6, 10), torch.ones(size, 6, dtype=torch.bool))


def test_captions_are_dropped_as_often_as_asked() -> None:
    config, null = tiny_pixart.config(learn_sigma=False), torch.full((6, 10), -1.0)
    options = TrainOptions(pictures=400, batch=40, label_drop=0.25)
    batches = MicroBatches(Texts(), config, None, "flow", options, null_caption=null)
    found = [batches(number).conditions for number in range(10)]
    features = torch.cat([part.features for part in found if isinstance(part, Captions)])
    dropped = features[:, 0, 0] == -1
    assert 60 < int(dropped.sum()) < 140  # of 400, expected 100
    assert bool((features[dropped] == -1).all())
    assert bool((features[~dropped] == 1).all())
    none = replace(options, label_drop=0.0)
    kept = MicroBatches(Texts(), config, None, "flow", none, null_caption=null)(0).conditions
    assert isinstance(kept, Captions)
    assert bool((kept.features == 1).all())
