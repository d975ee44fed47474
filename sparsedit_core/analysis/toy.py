"""The toy experiment that SparseDiT starts from (section 3.1): the attention of the first blocks replaced by ones.

Where a map of ones / N does as well as the learned one, queries and keys are not needed: there a Poolingformer can
stand. Here nothing is trained; the effect is the change of the model's prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from ..backbone import Backbone
from ..layers import Attention
from ..tokens import Grid
from .maps import attention_layers, replacing_attention
from .moments import Moment, predict


def uniform_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:  # noqa: ARG001
    """Every query (B, M, C) receives the mean over the values (B, N, C): a map of ones / N."""
    return v.float().mean(dim=1, keepdim=True).to(v.dtype).expand(q.shape[0], q.shape[1], v.shape[2])


@contextmanager
def uniform_blocks(model: Backbone, blocks: Collection[int]) -> Iterator[None]:
    """Inside the block, attention in ``blocks`` is uniform."""

    def make(number: int, attention: Attention) -> Attention:
        return uniform_attention if number in blocks else attention

    with replacing_attention(model, make):
        yield


def relative_change(changed: Tensor, before: Tensor) -> float:
    """||changed - before||^2 / ||before||^2 over all entries: the error's share of the prediction's energy.

    Squares, because the effects of several blocks add up in squares where they are independent. ``ArithmeticError``
    where the prediction is zero or not finite, so that there is nothing to compare with.
    """
    changed, before = changed.cpu().double(), before.cpu().double()  # in this order: not every device has float64
    energy = float(before.square().sum())
    value = float((changed - before).square().sum()) / energy if energy > 0 else float("nan")
    if not value < float("inf"):
        raise ArithmeticError(
            f"the model's prediction has the energy {energy:g} and changed by {value:g} of it; there is nothing to "
            "compare: check that the file is a trained model, and compute in float32"
        )
    return value


@dataclass(frozen=True)
class ToyResult:
    """Squared relative changes of the prediction at one time.

    ``first``   [k] with the first k blocks uniform, k = 0 .. depth;
    ``single``  [i] with block i alone uniform.
    """

    time: float
    first: tuple[float, ...]
    single: tuple[float, ...]


def toy_experiment(
    model: Backbone, moment: Moment, sparse: Grid | None = None, *, progress: Callable[[int], object] | None = None
) -> ToyResult:
    """Run it at one moment: 2 * depth evaluations at most. Poolingformer blocks are uniform already.

    ``sparse`` is the sparse grid of a SparseDiT; ``progress`` is called with 1 after each block of each series.
    """
    layers, depth = attention_layers(model), model.config.depth
    before = predict(model, moment, sparse)

    def change(blocks: range) -> float:
        with uniform_blocks(model, blocks):
            value = relative_change(predict(model, moment, sparse), before)
        if progress is not None:
            progress(1)
        return value

    single = [change(range(number, number + 1)) if number in layers else 0.0 for number in range(depth)]
    first = [0.0]
    for number in range(depth):
        first.append(change(range(number + 1)) if number in layers else first[-1])
    return ToyResult(moment.time, tuple(first), tuple(single))
