"""SparseDiT Caption: words of the model itself, several a batch, guidance by the null caption."""

from __future__ import annotations

from typing import Any

import files
import sampling
import torch
from comfy_pack import node, pack, run
from load_checks import error_of
from pixart import SPARSE, core, load
from torch import Tensor

WORDS = ("a", "red", "blue", "striped", "star", "disc")


def words_model(layout: str | None = SPARSE, **changes: Any) -> tuple[Any, Any]:
    """A MODEL that knows six words, and the core's model behind it."""
    made = core(layout, caption_channels=len(WORDS), caption_tokens=4, **changes)
    latent = pack("sparsedit_core.checkpoint").Latent()
    files.save(made, "words.safetensors", words=WORDS, latent=latent)
    return run("SparseDiTLoadCheckpoint", checkpoint="words.safetensors", weight_dtype="fp32"), made


def one_hot(*words: str) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor([WORDS.index(word) for word in words]), len(WORDS)).float()[None]


def close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).norm() < 1e-5 * expected.norm()


def check_words_are_features() -> None:
    model, _ = words_model()
    positive, negative = (output for output in run_both(model, "A red, striped star!\nblue disc"))
    features, options = positive[0]
    assert features.shape == (2, 4, 6)
    assert torch.equal(features[0], one_hot("a", "red", "striped", "star")[0])
    assert torch.equal(features[1, :2], one_hot("blue", "disc")[0])
    assert options["attention_mask"].tolist() == [[True] * 4, [True, True, False, False]]
    assert negative[0][0].shape == features.shape


def check_a_batch_takes_the_lines_in_turn() -> None:
    """Pictures of a batch equal those of their captions alone, guidance with the null caption included."""
    model, made = words_model(None)
    texts = ["a red star", "blue disc", "a red star"]
    conditions = run_both(model, "\n".join(texts[:2]))
    together = sampling.sample(model, batch=3, steps=2, cfg=2.0, conditions=conditions)
    assert together.shape[0] == 3
    calls: list[Any] = []
    inner = model.model.diffusion_model
    plain = inner.predict

    def spied(x: Tensor, t: Tensor, context: Tensor, **keywords: Any) -> Tensor:
        out = plain(x, t, context, **keywords)
        calls.append((x, t, context, keywords["attention_mask"], out))
        return out

    inner.predict = spied
    try:
        again = sampling.sample(model, batch=3, steps=1, cfg=2.0, conditions=conditions)
    finally:
        del inner.predict
    assert again.isfinite().all()
    (x, t, context, mask, out), *more = calls
    assert not more  # both halves of guidance in one call
    null = made.y_embedder.y_embedding
    for row, text in enumerate(texts):
        with torch.no_grad():
            words = one_hot(*text.split())
            close(out[3 + row][None], made(x[3 + row][None], t[3 + row][None], words))  # uncond first
            close(out[row][None], made(x[row][None], t[row][None], null[: words.shape[1]][None]))
    assert context.shape[:2] == mask.shape


def check_what_it_refuses() -> None:
    model, _ = words_model()

    def refusal(asked: Any, text: str) -> str:
        return error_of(lambda: run_both(asked, text))

    assert "'green' in 'a green star' is no word of this model; it knows a, red" in refusal(model, "a green star")
    assert "the text is empty" in refusal(model, " \n ")
    assert "without a vocabulary of its own; use CLIP Text Encode" in refusal(load(SPARSE), "a star")
    files.save(files.random_model(files.config()), "dit.safetensors")
    dit = run("SparseDiTLoadCheckpoint", checkpoint="dit.safetensors", weight_dtype="fp32")
    assert "use SparseDiT Class Label instead" in refusal(dit, "a star")


def run_both(model: Any, text: str) -> tuple[Any, Any]:
    """Positive and negative conditioning."""
    return node("SparseDiTCaption").execute(model=model, text=text).result
