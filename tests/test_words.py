"""The table of words: texts there and back, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_pixart
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedit_core import load_checkpoint, save_checkpoint
from sparsedit_core.checkpoint import CheckpointError
from sparsedit_core.words import WordEncoder

WORDS = ("a", "red", "blue", "star", "ring", "x", "y", "z", "on", "in")
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=5)


@given(TEXTS, st.integers(0, 9))
def test_texts_come_back(texts: list[str], length: int) -> None:
    encoder = WordEncoder(WORDS)
    found = encoder(texts, length)
    assert encoder.texts(found) == texts
    assert found.mask.shape[1] == max(length, *(len(text.split()) for text in texts))
    assert torch.equal(found.features.sum(2), found.mask.float())  # one word a token, none where there is none
    for row, text in enumerate(texts):
        assert found.features[row].sum(0).tolist() == [text.split().count(word) for word in WORDS]


def test_case_and_commas_do_not_matter() -> None:
    encoder = WordEncoder(WORDS)
    assert encoder.texts(encoder(["A Red, red STAR."])) == ["a red red star"]


def test_unknown_words_are_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'cat' in 'a red cat' is no word of this model; it knows a, red, .*, in"):
        WordEncoder(WORDS)(["a red cat"])
    with pytest.raises(ValueError, match="has no word"):
        WordEncoder(WORDS)(["a star", " , "])


@pytest.mark.parametrize("words", [(), ("a", "a"), ("A",), ("two words",), ("",)])
def test_bad_vocabularies(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="a vocabulary is"):
        WordEncoder(words)


def test_a_file_keeps_its_words(tmp_path: Path) -> None:
    model, out = tiny_pixart.random_model(tiny_pixart.config()), tmp_path / "model.safetensors"
    save_checkpoint(out, model, words=WORDS)
    assert load_checkpoint(out).words == WORDS
    save_checkpoint(out, load_checkpoint(out))
    assert load_checkpoint(out).words == WORDS
    with pytest.raises(CheckpointError, match="3 words for text features of width 10"):
        save_checkpoint(out, model, words=WORDS[:3])
    assert load_checkpoint(out).words == WORDS
    save_checkpoint(out, model)
    assert load_checkpoint(out).words is None
