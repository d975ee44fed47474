"""Compiled as ComfyUI compiles: the result of the uncompiled model at every grid, one graph per grid at most."""

from __future__ import annotations

from typing import Any

import files
import torch
from comfy_pack import pack
from node_checks import load
from sampling import sample


def guard_filter() -> Any:
    """The compile node's own, where this ComfyUI has one."""
    import comfy_extras.nodes_torch_compile as node

    newer = getattr(node, "skip_torch_compile_dict", None)
    return newer or (lambda entries: ["transformer_options" not in entry.name for entry in entries])


def compiled(model: Any, graphs: list[int]) -> Any:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    def backend(graph: Any, _inputs: Any, **_options: Any) -> Any:
        graphs.append(1)
        return graph.forward

    torch._dynamo.reset()
    clone = model.clone()
    set_torch_compile_wrapper(model=clone, backend=backend, options={"guard_filter_fn": guard_filter()})
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


def check_compiled_equals_eager_at_every_grid() -> None:
    schedule = pack("sparsedit_core.schedule").PruningSchedule(rate_noise=0.95, rate_clean=0.2, levels=4)
    model = load(files.SPARSE, "sparse.safetensors", schedule=schedule)
    graphs: list[int] = []
    fast = compiled(model, graphs)
    grids: set[tuple[int, int]] = set()
    expected = sample(watched(model, grids), steps=12, cfg=1.0)
    assert len(grids) >= 3, grids
    torch.testing.assert_close(sample(fast, steps=12, cfg=1.0), expected, rtol=1e-4, atol=1e-4)
    assert 0 < len(graphs) <= len(grids), (len(graphs), grids)
    count = len(graphs)
    torch.testing.assert_close(sample(fast, steps=12, cfg=1.0), expected, rtol=1e-4, atol=1e-4)
    assert len(graphs) == count, "a second run compiled again"


def check_compiled_with_guidance() -> None:
    schedule = pack("sparsedit_core.schedule").PruningSchedule(rate_noise=0.9, rate_clean=0.5, levels=2)
    model = load(files.SPARSE, "sparse.safetensors", schedule=schedule)
    graphs: list[int] = []
    fast = compiled(model, graphs)
    grids: set[tuple[int, int]] = set()
    expected = sample(watched(model, grids), labels=(1, 4), batch=2, steps=6)
    torch.testing.assert_close(sample(fast, labels=(1, 4), batch=2, steps=6), expected, rtol=1e-4, atol=1e-4)
    assert 0 < len(graphs) <= len(grids), (len(graphs), grids)
