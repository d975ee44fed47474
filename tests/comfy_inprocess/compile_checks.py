"""Compiled as ComfyUI compiles: the result of the uncompiled model at every grid, one graph per grid at most."""

from __future__ import annotations

from typing import Any

import files
import torch
from comfy_pack import pack
from node_checks import load
from sampling import sample


def compile_options() -> dict[str, Any] | None:
    """The compile node's own: with its guard filter where this ComfyUI has one."""
    import comfy_extras.nodes_torch_compile as node

    newer = getattr(node, "skip_torch_compile_dict", None)
    return None if newer is None else {"guard_filter_fn": newer}


def compiled(model: Any, graphs: list[int]) -> Any:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def backend(graph: Any, _inputs: Any, **_options: Any) -> Any:
        graphs.append(1)
        return graph.forward

    torch._dynamo.reset()
    clone = model.clone()
    set_torch_compile_wrapper(model=clone, backend=backend, options=compile_options())
    return clone


def watched(model: Any, grids: set[tuple[int, int]]) -> Any:
    """A clone that notes the sparse grids it is given."""
    from comfy.patcher_extension import WrappersMP

    def note(executor: Any, *args: Any, **keywords: Any) -> Any:
        grids.add(keywords["sparse_grid"])
        return executor(*args, **keywords)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", note)
    return clone


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for rounding that twelve steps of a random model have magnified."""
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def check_compiled_equals_eager_at_every_grid() -> None:
    schedule = pack("sparsedit_core.schedule").PruningSchedule(rate_noise=0.95, rate_clean=0.2, levels=4)
    model = load(files.SPARSE, "sparse.safetensors", schedule=schedule)
    graphs: list[int] = []
    fast = compiled(model, graphs)
    grids: set[tuple[int, int]] = set()
    expected = sample(watched(model, grids), steps=12, cfg=1.0)
    assert len(grids) >= 3, grids
    assert_near(sample(fast, steps=12, cfg=1.0), expected)
    assert 0 < len(graphs) <= len(grids), (len(graphs), grids)
    count = len(graphs)
    assert_near(sample(fast, steps=12, cfg=1.0), expected)
    assert len(graphs) == count, "a second run compiled again"


def check_compiled_with_guidance() -> None:
    schedule = pack("sparsedit_core.schedule").PruningSchedule(rate_noise=0.9, rate_clean=0.5, levels=2)
    model = load(files.SPARSE, "sparse.safetensors", schedule=schedule)
    graphs: list[int] = []
    fast = compiled(model, graphs)
    grids: set[tuple[int, int]] = set()
    expected = sample(watched(model, grids), labels=(1, 4), batch=2, steps=6)
    assert_near(sample(fast, labels=(1, 4), batch=2, steps=6), expected)
    assert 0 < len(graphs) <= len(grids), (len(graphs), grids)
