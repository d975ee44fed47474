"""bfloat16 training: its attention is attention, its loss the float32 loss, and the model comes out as it went in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import config, random_model

from sparsedit_core.checkpoint import Loaded
from sparsedit_core.dit import DiT
from sparsedit_core.layers import CrossAttention, SelfAttention, attend
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.schedule import PruningSchedule
from sparsedit_core.train.autocast import fast_attention, mixed_precision, product_attention
from sparsedit_core.train.batches import MicroBatches
from sparsedit_core.train.engine import train
from sparsedit_core.train.objective import Objective
from sparsedit_core.train.options import Precision, TrainOptions
from sparsedit_core.train.source import PIXELS, ProceduralSource

SCHEDULE = PruningSchedule(rate_noise=0.9, rate_clean=0.5)


def sparse_model() -> DiT:
    layout = SegmentLayout.parse("1+1x[1,1,1,1]+1")
    picture = {"input_size": (64, 64), "in_channels": 3, "num_classes": 10, "learn_sigma": False}
    return random_model(config(layout, patch_size=8, **picture))


def attentions(model: DiT) -> list[object]:
    layers = [layer for layer in model.modules() if isinstance(layer, (SelfAttention, CrossAttention))]
    assert len(layers) == 5
    return [layer.attention for layer in layers]


def test_product_attention_is_attention() -> None:
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    torch.testing.assert_close(product_attention(q, k, v, 3), attend(q, k, v, 3), rtol=1e-5, atol=1e-6)


DTYPES: list[tuple[Precision, torch.dtype]] = [("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]


@pytest.mark.parametrize(("precision", "dtype"), DTYPES)
def test_mixed_precision_casts_products_to_its_dtype_and_ends(precision: Precision, dtype: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with mixed_precision("cpu", precision):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize("wanted", [True, False])
def test_the_model_comes_out_as_it_went_in(wanted: bool) -> None:
    model = sparse_model()
    before = attentions(model)

    def interrupted() -> None:
        with fast_attention([model], wanted):
            assert (attentions(model) == before) is not wanted
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert attentions(model) == before


def batch_loss(model: DiT, bfloat16: bool) -> torch.Tensor:
    """The loss of the first eight pictures."""
    options = TrainOptions(pictures=8, batch=8)
    batch = MicroBatches(ProceduralSource(), model.config, SCHEDULE, "flow", options)(0)
    with fast_attention([model], bfloat16), mixed_precision("cpu", "bf16" if bfloat16 else "no"):

        def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return model(x, t, batch.conditions, sparse_grid=batch.grid)

        return Objective("flow").losses(predict, batch)["loss"].mean()


def test_the_loss_and_its_gradient_are_nearly_those_of_float32() -> None:
    losses, gradients = [], []
    for bfloat16 in (False, True):
        model = sparse_model()
        loss = batch_loss(model, bfloat16)
        assert loss.dtype == torch.float32
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    assert not torch.equal(losses[1], losses[0])
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99


def test_training_in_bfloat16_keeps_float32_weights_and_is_nearly_the_same(tmp_path: Path) -> None:
    trained = []
    for precision in ("no", "bf16"):
        model, options = sparse_model(), TrainOptions(pictures=16, batch=8, warmup=1, precision=precision)  # type: ignore[arg-type]
        loaded = Loaded(model=model, config=model.config, schedule=SCHEDULE, prediction="flow", latent=PIXELS)
        trained.append(train(loaded, tmp_path / f"{precision}.safetensors", ProceduralSource(), options, cpu=True))
        assert {p.dtype for p in trained[-1].parameters()} == {torch.float32}
    pairs = list(zip(trained[0].parameters(), trained[1].parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert max(float((a - b).abs().max().detach()) for a, b in pairs) < 5e-3
