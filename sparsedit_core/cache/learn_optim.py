"""The optimiser of a table of costs: Adam whose gradients keep their sizes beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class TableAdam(torch.optim.Optimizer):
    """Adam with one second moment for each tensor, the mean over its entries, in place of one for each entry.

    Adam gives every entry steps of one size, whether much or little hangs on it; but a choice within a budget needs to
    know what is worth most. So the root mean square of a tensor's steps is about ``lr``, entries with large gradients
    take larger ones. ``betas`` are Adam's; the second moment alone is corrected for its start at 0, so that the first
    steps, of few pictures, are short.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.1, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; ``closure`` is not taken, gradients are there. A tensor without any stays as it is."""
        assert closure is None
        for group in self.param_groups:
            for each in group["params"]:
                if each.grad is not None:
                    self._step(each, each.grad, group["lr"], *group["betas"])

    def _step(self, table: Tensor, grad: Tensor, lr: float, beta1: float, beta2: float) -> None:
        state = self.state[table]
        if not state:
            state |= {"count": 0, "mean": torch.zeros_like(table), "square": table.new_zeros(())}
        state["count"] += 1
        state["mean"].lerp_(grad, 1 - beta1)
        state["square"].lerp_(grad.square().mean(), 1 - beta2)
        square = state["square"] / (1 - beta2 ** state["count"])
        table.sub_(lr * state["mean"] / (square.sqrt() + 1e-30))
