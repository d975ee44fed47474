"""torch.compile sees one whole graph per sparse grid."""

from __future__ import annotations

import tiny_pixart
import torch
from torch._dynamo.testing import CompileCounter

from sparsedit_core import DiT, DiTConfig, SegmentLayout


def test_one_graph_per_grid_without_breaks_and_equal_to_eager():
    config = DiTConfig(
        input_size=(16, 16), hidden_size=32, depth=6, num_heads=2, num_classes=10,
        layout=SegmentLayout.parse("1+1x[1,1,1,1]+1"),
    )
    torch.manual_seed(0)
    model = DiT(config).requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    counter = CompileCounter()
    with torch.no_grad():  # as pictures are sampled
        check_grids(model, counter)


def check_grids(model: DiT, counter: CompileCounter) -> None:
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    x, y = torch.randn(2, 4, 15, 16), torch.tensor([1, 2])
    seen = set()
    for step, grid in enumerate([(4, 4), (5, 5), (3, 3), (4, 4), (8, 8), (5, 5)]):
        t = torch.full((2,), 999.0 - 100 * step)
        seen.add(grid)
        assert torch.equal(compiled(x, t, y, sparse_grid=grid), model(x, t, y, sparse_grid=grid))
        assert counter.frame_count == len(seen)


def test_pixart_has_one_graph_per_grid_too() -> None:
    model = tiny_pixart.random_model(tiny_pixart.config("1+1x[1,1,1,1]+1", micro_conditioning=True))
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    x, t, y, mask, size, aspect = tiny_pixart.inputs(model.config)
    conditions = {"mask": mask, "size": size, "aspect": aspect}
    seen = set()
    with torch.no_grad():
        for grid in [(2, 2), (3, 3), (1, 2), (2, 2), (4, 4), (3, 3)]:
            seen.add(grid)
            found = compiled(x, t, y, sparse_grid=grid, **conditions)
            assert torch.equal(found, model(x, t, y, sparse_grid=grid, **conditions))
            assert counter.frame_count == len(seen)
