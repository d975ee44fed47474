"""The optimisers of a run: AdamW, or Muon for the matrices of the blocks with AdamW for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backbone import Backbone
from .options import OptimizerName, TrainOptions

BETA = 0.9  # AdamW's decay of gradients


def optimizer_of(model: Backbone, options: TrainOptions) -> torch.optim.Optimizer:
    """What ``options.optimizer`` names, for the trained weights of ``model``; ``ValueError`` if torch lacks it."""
    matrices, others = shared_out(model, options.optimizer)
    return MuonAdamW(matrices, others, options) if matrices else _adamw(others, options)


def shared_out(model: Backbone, optimizer: OptimizerName) -> tuple[list[Tensor], list[Tensor]]:
    """The trained weights that Muon moves, none if it is not asked for, and those that AdamW moves."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, value in model.named_parameters():
        if value.requires_grad:
            of_muon = optimizer == "muon" and value.ndim == 2 and name.startswith("blocks.")
            (matrices if of_muon else others).append(value)
    return matrices, others


def _adamw(weights: Sequence[Tensor], options: TrainOptions) -> torch.optim.AdamW:
    betas = BETA, options.beta2
    return torch.optim.AdamW(weights, options.learning_rate, betas=betas, weight_decay=options.weight_decay)


class MuonAdamW(torch.optim.Optimizer):
    """Torch's Muon on ``matrices`` and AdamW on ``others``, as one optimiser with one state and one scale of rates.

    Muon makes the update of a matrix orthogonal (Jordan et al. 2024); scaled to the size of AdamW's updates (Liu et
    al., Muon is scalable for LLM training, 2025), it takes AdamW's learning rates. One optimiser and not two, because
    a gradient scaler steps and updates once.
    """

    def __init__(self, matrices: Sequence[Tensor], others: Sequence[Tensor], options: TrainOptions) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"optimizer=muon needs torch 2.9 or newer, this is {torch.__version__}; use adamw")
        muon = torch.optim.Muon(
            matrices,
            options.learning_rate,
            weight_decay=options.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self._parts: tuple[torch.optim.Optimizer, ...] = (muon, _adamw(others, options))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> Any:
        """One step of both."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See torch; the parts follow."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Both work on this object's groups and state, which torch replaces when it loads."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
