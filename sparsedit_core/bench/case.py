"""A line of a benchmark: which model, picture, captions, batch, schedule and machine, and models of random weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..backbone import Backbone
from ..backbones import is_table, new_model
from ..conditions import with_classes
from ..config import BackboneConfig, PixArtConfig
from ..convert import convert_state
from ..cost import caption_length, macs, model_config, token_grid
from ..dit import DiT
from ..layout import SegmentLayout
from ..schedule import PruningSchedule
from ..schedule_cost import even_times
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
    ``caption_tokens``  length of a PixArt's captions; ``None``: see :func:`..cost.caption_length`
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
    caption_tokens: int | None = None

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

    @property
    def captions(self) -> int | None:
        """Text tokens of a caption; ``None`` for a model of classes."""
        return caption_length(self.dense_config, self.caption_tokens) or None

    def grids(self) -> dict[Grid, float]:
        """Every sparse grid of the schedule, from noise to image, and its share of the evaluations."""
        grids = [self.schedule.grid(time, self.dense_config.grid) for time in even_times(self.steps)]
        counts = Counter(grids)
        return {grid: counts[grid] / len(grids) for grid in dict.fromkeys(grids)}

    def macs(self, grid: Grid | None = None) -> int:
        """Executed MACs of one evaluation of the whole batch; without a grid those of the dense model."""
        config = self.dense_config if grid is None else self.sparse_config
        return self.samples * macs(config, sparse_grid=grid, caption_tokens=self.captions).total


@dataclass(frozen=True)
class CaseModels:
    """Both models in eval mode, sharing the weights they have in common, and the inputs of one evaluation.

    ``inputs``  noise, timesteps, and class labels or features of captions, all of whose tokens count
    """

    dense: Backbone
    sparse: Backbone
    inputs: tuple[Tensor, Tensor, Tensor]


def build_models(case: BenchCase) -> CaseModels:
    """The models with random weights (torch's own, and normal ones in PixArt's tables), on the case's device and in
    its dtype."""
    config = case.dense_config
    dense = new_model(config, dtype=case.dtype, device=case.device).eval().requires_grad_(False)
    if isinstance(dense, DiT):
        dense.pos_embed.copy_(sincos_table(config.hidden_size, config.grid))
    else:
        for name, table in dense.named_parameters():
            if is_table(name):
                table.normal_(std=table.shape[-1] ** -0.5)
    with torch.device("meta"):
        sparse = new_model(case.sparse_config)
    sparse.load_state_dict(convert_state(dense.state_dict(), case.layout), assign=True)
    x = torch.randn(case.samples, config.in_channels, *config.input_size, device=case.device, dtype=case.dtype)
    t = torch.full((case.samples,), 500.0, device=case.device)
    return CaseModels(dense, sparse.eval().requires_grad_(False), (x, t, _conditions(case, config)))


def _conditions(case: BenchCase, config: BackboneConfig) -> Tensor:
    """A label or the features of a caption for every sample."""
    if isinstance(config, PixArtConfig):
        shape = case.samples, case.captions or 0, config.caption_channels
        return torch.randn(shape, device=case.device, dtype=case.dtype)
    return torch.arange(case.samples, device=case.device) % with_classes(config).num_classes
