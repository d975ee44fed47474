"""bfloat16 training: its attention is attention, its loss the float32 loss, and the model comes out as it went in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import config, random_model

from sparsedit_core.dit import DiT
from sparsedit_core.layers import CrossAttention, SelfAttention, attend
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.schedule import PruningSchedule
from sparsedit_core.train.autocast import autocast, product_attention
from sparsedit_core.train.loop import TrainOptions, batch_loss, train

SCHEDULE = PruningSchedule(rate_noise=0.9, rate_clean=0.5)


def sparse_model() -> DiT:
    layout = SegmentLayout.parse("1+1x[1,1,1,1]+1")
    picture = {"input_size": (32, 32), "in_channels": 3, "num_classes": 10, "learn_sigma": False}
    return random_model(config(layout, patch_size=4, **picture))


def attentions(model: DiT) -> list[object]:
    layers = [layer for layer in model.modules() if isinstance(layer, (SelfAttention, CrossAttention))]
    assert len(layers) == 5
    return [layer.attention for layer in layers]


def test_product_attention_is_attention() -> None:
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    torch.testing.assert_close(product_attention(q, k, v, 3), attend(q, k, v, 3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_the_model_comes_out_as_it_went_in(bfloat16: bool) -> None:
    model = sparse_model()
    before = attentions(model)

    def interrupted() -> None:
        with autocast(model, bfloat16):
            assert (attentions(model) == before) is not bfloat16
            assert torch.is_autocast_enabled("cpu") is bfloat16
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert attentions(model) == before
    assert not torch.is_autocast_enabled("cpu")


def test_the_loss_and_its_gradient_are_nearly_those_of_float32() -> None:
    losses, gradients = [], []
    for bfloat16 in (False, True):
        model = sparse_model()
        options = TrainOptions(pictures=8, batch=8, bfloat16=bfloat16)
        loss = batch_loss(model, 0, options, SCHEDULE, torch.Generator().manual_seed(3))
        assert loss.dtype == torch.float32
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99


@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_teacher_replaces_the_target(bfloat16: bool) -> None:
    model = sparse_model()
    teacher = random_model(replace(model.config, layout=None), seed=5)

    def loss(distill: float, teacher: DiT | None) -> torch.Tensor:
        options = TrainOptions(pictures=8, batch=8, bfloat16=bfloat16, distill=distill)
        return batch_loss(model, 0, options, SCHEDULE, torch.Generator().manual_seed(3), teacher)

    plain, taught = loss(1.0, None), loss(1.0, teacher)
    torch.testing.assert_close(loss(0.0, teacher), plain)
    torch.testing.assert_close(loss(0.25, teacher), 0.75 * plain + 0.25 * taught)
    assert not torch.isclose(plain, taught)
    twin = random_model(teacher.config, seed=5)
    assert batch_loss(twin, 0, TrainOptions(pictures=8, batch=8), None, torch.Generator(), teacher) < 1e-10


def test_training_in_bfloat16_keeps_float32_weights(tmp_path: object) -> None:
    model = sparse_model()
    out = f"{tmp_path}/out.safetensors"
    trained = train(model, out, TrainOptions(pictures=16, batch=8, bfloat16=True), schedule=SCHEDULE)
    assert {p.dtype for p in trained.parameters()} == {torch.float32}
