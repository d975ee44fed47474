"""Tiny random MODELs of ComfyUI's own FLUX, Wan and PixArt, and evaluations of them under a token cache.

The reference is core's own network with hooks on the layers that make a branch's output: what a plan does not compute
is put back from the evaluation before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy_pack import pack
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[..., Tensor]
"""The network on its inputs: ``call(number, options, keywords)`` for the evaluation of that number."""
Part = tuple[str, Any, int]
"""Sub-layer, the layer that makes its output, and where in that the picture starts; -1: it is all text."""


def randomized(inner: Any, seed: int = 0, size: float = 0.15) -> Any:
    """Every weight random: zero gates would hide everything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in inner.diffusion_model.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return inner


def patcher(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A MODEL of one of core's configurations, as its loaders build it."""
    import comfy.model_patcher

    config.set_inference_dtype(dtype, None)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(randomized(config.get_model({})), load_device=cpu, offload_device=cpu)


def plan(adapter: Any, *rows: Sequence[int] | int, times: Sequence[float] | None = None, **settings: Any) -> Any:
    """A plan of these levels behind a first full row, at ``times`` or evenly spread from noise to picture."""
    names = adapter.sublayers
    table = [[row] * len(names) if isinstance(row, int) else list(row) for row in (4, *rows)]
    times = times or [1.0 - step / len(table) for step in range(len(table))]
    return pack("sparsedit_core.cache.plan").CachePlan(adapter.family, times, names, table, **settings)


class Run:
    """Evaluations under one cache: their ``outputs``, and what each computed of every sub-layer (``rows``)."""

    def __init__(self, adapter: Any, plan: Any, members: Sequence[Any] = (0,)) -> None:
        self.adapter, self.members = adapter, members
        self.cache = pack("sparsedit_core.cache.runtime").TokenCache(plan)
        self.outputs: list[Tensor] = []
        self.rows: list[dict[str, Tensor | None]] = []

    def evaluate(self, call: Call, options: dict[str, Any] | None = None) -> Any:
        """The next evaluation of the plan; its visit."""
        number, seen = len(self.outputs), {}
        visit = self.cache.evaluation(self.cache.plan.times[number], self.members)
        choose = visit._rows

        def spied(name: str, kept: Any, count: int) -> Tensor:
            seen[name] = choose(name, kept, count)
            return seen[name]

        visit._rows = spied
        with self.adapter.hooked(visit, options or {}, {}) as (hooked, keywords), torch.no_grad():
            self.outputs.append(call(number, hooked, keywords))
        self.rows.append(seen)
        return visit


def run(adapter: Any, plan: Any, call: Call, members: Sequence[Any] = (0,), **options: Any) -> Run:
    """All evaluations of a plan."""
    made = Run(adapter, plan, members)
    for _ in plan.times:
        made.evaluate(call, options)
    return made


def reference(made: Run, parts: Sequence[Part], tokens: int, call: Call, **options: Any) -> list[Tensor]:
    """The outputs of core's own network when the layers of ``parts`` do what ``made`` did."""
    outputs: list[Tensor] = []
    kept: dict[Any, Tensor] = {}
    plan = made.cache.plan
    for number, row in enumerate(plan.table):
        levels = dict(zip(plan.sublayers, row, strict=True))
        with merged(parts, levels, made.rows[number], kept, tokens), torch.no_grad():
            outputs.append(call(number, dict(options), {}))
    return outputs


@contextmanager
def merged(
    parts: Sequence[Part], levels: dict[str, int], rows: dict[str, Any], kept: dict[Any, Tensor], tokens: int
) -> Iterator[None]:
    def hook(name: str, start: int) -> Callable[..., Tensor]:
        def merge(layer: Any, _inputs: Any, new: Tensor) -> Tensor:
            if levels[name] == 0:
                out = kept[layer]
            elif levels[name] == 4 or start < 0:
                out = new
            else:
                out, chosen = new.clone(), rows[name]
                for picture in range(len(new)):
                    some = chosen if chosen.ndim == 1 else chosen[picture]
                    old = kept[layer][picture, start : start + tokens].clone()
                    old[some] = new[picture, start : start + tokens][some]
                    out[picture, start : start + tokens] = old
            kept[layer] = out.clone()
            return out

        return merge

    handles = [layer.register_forward_hook(hook(name, start)) for name, layer, start in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def agree(made: Run, parts: Sequence[Part], tokens: int, call: Call, **options: Any) -> None:
    """What a run gave is what core's own network gives with the branches put back."""
    wanted = reference(made, parts, tokens, call, **options)
    assert torch.equal(made.outputs[0], wanted[0])
    for found, expected in zip(made.outputs[1:], wanted[1:], strict=True):
        close(found, expected)
    assert not torch.allclose(made.outputs[1], made.outputs[2], atol=1e-2)


def agree_in(dtype: torch.dtype, tolerance: float, made: Run, parts: Sequence[Part], tokens: int, call: Call) -> None:
    """The same in half precision."""
    for found, expected in zip(made.outputs, reference(made, parts, tokens, call), strict=True):
        assert found.dtype == dtype
        assert (found - expected).float().norm() < tolerance * expected.float().norm()


def costs_agree(each: Any, costs: Any, call: Call, idle: int, mixed: Sequence[Sequence[int]]) -> None:
    """Stated MACs are those of the network, and of the walk at every level; ``idle`` are what no account counts."""
    options = {"optimized_attention_override": plain_attention}
    assert counted(call, 0, options, {}) - idle == costs.dense
    count = len(each.sublayers)
    levels = [*([level] * count for level in (4, 0, 1, 2, 3)), *mixed]
    made = Run(each, plan(each, *levels))
    made.evaluate(call, options)
    for row in levels:
        found = counted(made.evaluate, call, options)
        assert found - idle == costs.at(row), (row, found - idle, costs.at(row))


def assert_calibrated(adapter: Any, call: Call) -> None:
    """A calibration computes the model bit for bit and sees every sub-layer. The gates are told."""
    module = pack("sparsedit_core.cache.calibrate")
    calibrator = module.Calibrator(adapter.family, adapter.sublayers)
    weighed: list[Any] = []
    calibrator.clear()
    for number in range(3):
        visit = calibrator.evaluation(1 - number / 4)
        weigh = visit.weigh
        visit.weigh = lambda x, gate, weigh=weigh: (weighed.append(gate), weigh(x, gate))
        with adapter.hooked(visit, {}, {}) as (options, keywords), torch.no_grad():
            found = call(number, options, keywords)
        with torch.no_grad():
            assert torch.equal(found, call(number, {}, {}))
    assert len(weighed) == 3 * len(adapter.sublayers)
    change = calibrator.calibration().change
    assert (change[1:, :, 0] > 0).all()


def plain_attention(_usual: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, **keywords: Any) -> Tensor:
    """Attention in matrix products, which are counted; in the place of ``optimized_attention_override``."""
    if not keywords.get("skip_reshape"):
        q, k, v = (each.reshape(*each.shape[:2], heads, -1).transpose(1, 2) for each in (q, k, v))
    scores = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def counted(work: Callable[..., object], *arguments: Any) -> int:
    """MACs of some work whose attention is :func:`plain_attention`."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work(*arguments)
    return counter.get_total_flops() // 2


def kept_storage(cache: Any) -> int:
    """Bytes of memory that a cache really holds."""
    kept = [each for store in cache._stores.values() for each in store.kept.values()]
    storages = [tensor.untyped_storage() for each in kept for tensor in (each.value, *each.others)]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


def close(found: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


def sized(*facts: Any, **more: Any) -> Any:
    """How much a model is given: see the adapters' Size."""
    return pack("nodes.cache_adapter").Size(*facts, **more)
