"""How a plan is learned, and what the log says of an iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Optimizer = Literal["table", "adam"]
"""How a table's gradients become steps: see :class:`LearnOptions`."""
Mean = Literal["geometric", "arithmetic"]
FLOOR = 1e-6
"""Added to distances before their logarithm is taken: nothing is gained by pictures closer than this."""


@dataclass(frozen=True)
class LearnOptions:
    """How a plan is learned.

    ``budget``        share of the dense sampling's MACs that it stays within; ``steps`` of the sampling, Euler's or
                      DDIM's after the model; ``cfg`` guidance, 1 none
    ``whole``         kinds of sub-layers that recompute all tokens or none
    ``first``, ``second``  iterations of the two stages. Without a start both; from a start the first is left out,
                      because it only looks for the steps to compute in full, unless ``first`` is given
    ``full_steps``    steps beside the first that are full in the first stage; ``None``: as many as a third of the
                      budget pays for
    ``batch``         pictures of an iteration; ``pictures`` that training draws from in turn, each sampled densely once
    ``held``          pictures that plans are compared on, every ``every`` iterations
    ``patience``      comparisons without a better plan after which the second stage goes back to the best table, with
                      half the rate; 0 never
    ``tau``           temperature of the softmax over levels; ``delta`` of the merge; ``margin`` of a start
    ``step_rate``, ``layer_rate``, ``second_rate``  learning rates of the step table, of the layer table in the first
                      stage, and of the one table in the second: the paper's. ``decay``: they fall to 0 over a stage
    ``optimizer``     ``"table"`` (:class:`.learn_optim.TableAdam`) or ``"adam"``
    ``mean``          of the distances of a batch: the geometric one, so that a picture that turned into another does
                      not drown what can be learned from the rest, or the arithmetic one
    ``seed``          of the plan's queue and of the pictures: training draws noise of seed 1000 + seed, held-out of
                      2000 + seed
    """

    budget: float = 0.5
    steps: int = 20
    cfg: float = 1.0
    whole: tuple[str, ...] = ("self",)
    first: int | None = None
    second: int = 100
    full_steps: int | None = None
    batch: int = 4
    pictures: int = 256
    held: int = 16
    every: int = 10
    patience: int = 3
    tau: float = 1.0
    delta: float = 10.0
    margin: float = 0.5
    step_rate: float = 0.01
    layer_rate: float = 1.0
    second_rate: float = 0.1
    optimizer: Optimizer = "table"
    mean: Mean = "geometric"
    decay: bool = True
    seed: int = 0

    FIRST = 100  # iterations of the first stage without a start

    def __post_init__(self) -> None:
        counts = (self.steps - 1, self.batch, self.pictures, self.held, self.every)
        if min(counts) < 1 or min(self.first or 0, self.second, self.full_steps or 0, self.patience) < 0:
            raise ValueError(f"{self}: steps is 2 or more, batch, pictures, held and every 1 or more, the others 0")
        if self.optimizer not in get_args(Optimizer):
            raise ValueError(f"the optimizer is {self.optimizer!r}; choose one of {', '.join(get_args(Optimizer))}")
        if self.mean not in get_args(Mean):
            raise ValueError(f"the mean is {self.mean!r}; choose one of {', '.join(get_args(Mean))}")
        if min(self.tau, self.step_rate, self.layer_rate, self.second_rate, self.margin) <= 0 or self.delta < 0:
            raise ValueError(f"{self}: tau, margin and rates are above 0, delta is 0 or more")


@dataclass(frozen=True)
class Iteration:
    """A line of the log, written after the iteration.

    ``stage`` 0 is the look at the start, 1 and 2 the two stages; ``loss`` of the batch, ``None`` at the start;
    ``share`` of the dense MACs that its plan takes; ``changed`` entries of the table since the iteration before;
    ``held_loss``, ``held_psnr`` (dB, mean) of the plan after the iteration, where it was compared; ``best`` so far.
    """

    stage: int
    number: int
    loss: float | None
    share: float
    changed: int
    held_loss: float | None
    held_psnr: float | None
    best: bool
    seconds: float
