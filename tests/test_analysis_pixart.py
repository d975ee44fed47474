"""The analysis of a PixArt: the surrogate is the model itself where it should be; memory is counted with text."""

from __future__ import annotations

import pytest
import tiny_pixart
import torch
from einops import rearrange
from torch import Tensor

from sparsedit_core.analysis.maps import attention_maps
from sparsedit_core.analysis.moments import Moment, predict
from sparsedit_core.analysis.surrogate import Surrogate
from sparsedit_core.conditions import Captions
from sparsedit_core.layout import Role
from sparsedit_core.pixart import PixArt
from sparsedit_core.train.memory import training_memory


def model_and_moment() -> tuple[PixArt, Moment]:
    model = tiny_pixart.random_model(tiny_pixart.config(learn_sigma=False, depth=4))
    given = tiny_pixart.inputs(model.config)
    return model, Moment(0.5, given.x, given.t, Captions(given.y, given.mask))


def patches(model: PixArt, picture: Tensor) -> Tensor:
    p = model.config.patch_size
    return rearrange(picture, "b c (h p) (w q) -> b (h w) (p q c)", p=p, q=p)


@pytest.mark.parametrize(
    "roles",
    [
        ("dense", "dense", "dense", "dense"),
        ("dense", "generation", "recovery", "dense"),
        ("generation", "sparse", "recovery", "recovery"),
        ("dense", "sparse", "dense", "sparse"),
    ],
)
def test_on_the_full_grid_the_surrogate_is_the_model(roles: tuple[Role, ...]) -> None:
    model, moment = model_and_moment()
    surrogate = Surrogate(model)
    found = surrogate.predict(surrogate.record(moment), roles, (4, 4))
    torch.testing.assert_close(found, patches(model, predict(model, moment)), rtol=1e-3, atol=1e-3)


def test_fewer_tokens_change_the_prediction() -> None:
    model, moment = model_and_moment()
    surrogate = Surrogate(model)
    run = surrogate.record(moment)
    before = surrogate.predict(run, ["dense"] * 4, (2, 2))
    for roles in (["dense", "sparse", "dense", "dense"], ["pooled", "dense", "dense", "dense"]):
        assert not torch.allclose(surrogate.predict(run, roles, (2, 2)), before, atol=1e-2)  # type: ignore[arg-type]


def test_maps_are_those_of_self_attention_alone() -> None:
    model, moment = model_and_moment()
    found = attention_maps(model, moment)
    assert [(one.block, one.queries, one.keys) for one in found] == [(n, (4, 4), (4, 4)) for n in range(4)]


def test_memory_counts_the_text_that_is_kept() -> None:
    short, long = (tiny_pixart.config(caption_tokens=tokens) for tokens in (2, 50))
    assert training_memory(long, batch=3).activations > training_memory(short, batch=3).activations
    found = training_memory(short, batch=3)
    model = PixArt(short)
    assert found.parameters == 4 * sum(p.numel() for p in model.parameters())
    assert found.gradients == 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
