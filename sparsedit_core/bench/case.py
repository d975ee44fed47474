"""One line of a benchmark: which model, picture, batch, schedule and machine, and the models with random weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..config import BackboneConfig
from ..convert import convert_state
from ..cost import macs, model_config, token_grid
from ..dit import DiT
from ..layout import SegmentLayout
from ..schedule import PruningSchedule
from ..schedule_cost import schedule_macs
from ..tokens import Grid, sincos_table

Mode = Literal["eager", "compiled", "cuda-graphs"]


@dataclass(frozen=True)
class BenchCase:
    """What is measured.

    ``model``     a name of ``cost.MODELS`` or a dense config
    ``size``      picture side in pixels; 8 pixels are one latent position (1 for models of 3 channels)
    ``layout``    which blocks are sparse; ``schedule`` and ``steps`` give the sparse grids and how often each is run
    ``batch``     pictures; ``guidance`` doubles the samples of an evaluation
    ``mode``      ``"eager"``, ``"compiled"`` (torch.compile, one graph per grid) or ``"cuda-graphs"`` (the same,
                  replayed as CUDA graphs)
    """

    model: str | BackboneConfig
    size: int
    layout: SegmentLayout
    schedule: PruningSchedule
    steps: int = 250
    batch: int = 1
    guidance: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    mode: Mode = "eager"

    @property
    def dense_config(self) -> BackboneConfig:
        """The config without a layout; the position table belongs to this picture size."""
        config = replace(model_config(self.model), layout=None)
        rows, columns = token_grid(config, self.size)
        return replace(config, input_size=(rows * config.patch_size, columns * config.patch_size))

    @property
    def sparse_config(self) -> BackboneConfig:
        """The same with the layout."""
        return replace(self.dense_config, layout=self.layout)

    @property
    def samples(self) -> int:
        """Samples in one evaluation."""
        return self.batch * (2 if self.guidance else 1)

    @property
    def name(self) -> str:
        """The model's name, or its width and depth."""
        if isinstance(self.model, str):
            return self.model
        return f"width {self.model.hidden_size}, {self.model.depth} blocks"

    def grids(self) -> dict[Grid, float]:
        """Every sparse grid of the schedule, from noise to image, and its share of the evaluations."""
        cost = schedule_macs(self.sparse_config, self.schedule, self.steps)
        counts = Counter(cost.grids)
        return {grid: counts[grid] / len(cost.grids) for grid in dict.fromkeys(cost.grids)}

    def macs(self, grid: Grid | None = None) -> int:
        """Executed MACs of one evaluation of the whole batch; without a grid those of the dense model."""
        config = self.dense_config if grid is None else self.sparse_config
        return self.samples * macs(config, sparse_grid=grid).total


@dataclass(frozen=True)
class CaseModels:
    """Both models in eval mode, sharing the weights they have in common, and the inputs of one evaluation."""

    dense: DiT
    sparse: DiT
    inputs: tuple[Tensor, Tensor, Tensor]


def build_models(case: BenchCase) -> CaseModels:
    """The models with torch's own random initial weights, on the case's device and in its dtype."""
    config = case.dense_config
    dense = DiT(config, dtype=case.dtype, device=case.device).eval().requires_grad_(False)
    dense.pos_embed.copy_(sincos_table(config.hidden_size, config.grid))
    with torch.device("meta"):
        sparse = DiT(case.sparse_config)
    sparse.load_state_dict(convert_state(dense.state_dict(), case.layout), assign=True)
    x = torch.randn(case.samples, config.in_channels, *config.input_size, device=case.device, dtype=case.dtype)
    t = torch.full((case.samples,), 500.0, device=case.device)
    y = torch.arange(case.samples, device=case.device) % config.num_classes
    return CaseModels(dense, sparse.eval().requires_grad_(False), (x, t, y))
