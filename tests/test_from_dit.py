"""A DiT as the start of a PixArt: exact where a DiT's modulations have PixArt's form, refused where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import tiny
import torch
from torch import Tensor, nn

from sparsedit_core.checkpoint import Latent, Loaded
from sparsedit_core.conditions import call_model
from sparsedit_core.dit import DiT, DiTBlock
from sparsedit_core.from_dit import dit_to_pixart
from sparsedit_core.grow import grow_depth
from sparsedit_core.words import WordEncoder

WORDS = ("a", "red", "star")
CAPTIONS = WordEncoder(WORDS)(["a red star", "star"])


def dit(**changes: object) -> DiT:
    return tiny.random_model(tiny.config(learn_sigma=False, hidden_size=32, **changes))


def as_loaded(model: DiT) -> Loaded:
    return Loaded(model=model, config=model.config, prediction="flow", latent=Latent())


def outputs(model: DiT, **changes: object) -> tuple[Tensor, Tensor]:
    """The DiT's prediction without a class, and that of the PixArt made of it."""
    x, _, _ = tiny.inputs(model.config, batch=2)
    t = torch.tensor([130.0, 840.0])
    null = torch.full((2,), model.config.num_classes)
    pixart = dit_to_pixart(as_loaded(model), WORDS, 4, **changes).model  # type: ignore[arg-type]
    with torch.no_grad():
        return model(x, t, null), call_model(pixart, x, t, CAPTIONS)


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def modulations(model: DiT) -> list[nn.Linear]:
    layers = [cast(DiTBlock, block).adaLN_modulation[1] for block in model.blocks]
    return [cast(nn.Linear, layer) for layer in (*layers, model.final_layer.adaLN_modulation[1])]


def test_modulations_without_time_are_taken_over_exactly() -> None:
    model = dit()
    for layer in modulations(model):
        nn.init.zeros_(layer.weight)
    wanted, found = outputs(model)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_one_course_with_factors_and_constants_of_each_block_is_taken_over() -> None:
    """scale_i(t) = s_i f(t) + a_i with a factor for each channel and block: the form that PixArt has."""
    model, generator = dit(), torch.Generator().manual_seed(3)
    fast = torch.arange(256) % 128 < 90  # as in a trained model, nothing turns within a few timesteps
    model.t_embedder.mlp[0].weight.data[:, fast] = 0
    first = modulations(model)[0].weight.detach().clone()
    for layer in modulations(model)[:-1]:
        entering, leaving = (0.5 + torch.rand(2, 2, 32, generator=generator)).unbind(0)
        factors = torch.cat([entering[0], entering[0], leaving[0], entering[1], entering[1], leaving[1]])
        layer.weight.data = factors[:, None] * first
    last = modulations(model)[-1].weight
    last.data[32:] = last.data[:32]  # shift and scale of the last layer move alike
    wanted, found = outputs(model)
    assert distance(found, wanted) < 0.02  # the fits over time have a ridge
    other = dit()  # of any form: what is lost is shown, not hidden by a loose bound above
    assert distance(*reversed(outputs(other))) > 0.1


def test_a_block_that_does_nothing_goes_on_doing_nothing() -> None:
    model = dit()
    for layer in modulations(model):
        nn.init.zeros_(layer.weight)
    deeper = cast(DiT, grow_depth(as_loaded(model), 5).model)
    (plain, start), (wanted, found) = outputs(model), outputs(deeper)
    torch.testing.assert_close(wanted, plain)
    torch.testing.assert_close(found, start, rtol=1e-3, atol=1e-3)


def test_what_it_becomes() -> None:
    loaded = as_loaded(dit())
    found = dit_to_pixart(replace(loaded, class_names=tuple("abcde")), WORDS, 4, seed=5)
    assert (found.family, found.words, found.class_names, found.prediction) == ("pixart", WORDS, None, "flow")
    again = dit_to_pixart(loaded, WORDS, 4, seed=5).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in found.model.state_dict().items())
    assert all(torch.isfinite(value).all() for value in again.values())
    before = loaded.model.state_dict()
    kept = ("x_embedder.proj.weight", "blocks.1.attn.qkv.bias", "blocks.2.mlp.fc1.bias", "final_layer.linear.weight")
    assert all(torch.equal(again[name], before[name]) for name in kept)
    text = found.model.get_submodule("y_embedder")(torch.eye(3))
    assert 0.3 < float(text.detach().std()) < 3  # of the size of normalised tokens


def test_models_that_cannot_begin_one() -> None:
    for changes in ({"layout": "1+1x[1,1,1,0]+1"}, {"null_class": False}, {"semantics": "diffusers"}):
        with pytest.raises(ValueError, match="begins as a dense DiT"):
            dit_to_pixart(as_loaded(dit(**changes)), WORDS, 4)
    pixart = dit_to_pixart(as_loaded(dit()), WORDS, 4)
    with pytest.raises(ValueError, match="needs a model of classes"):
        dit_to_pixart(pixart, WORDS, 4)
