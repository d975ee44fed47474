"""How a run is trained: one frozen record, and the learning rate it means for every step."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

ObjectiveName = Literal["auto", "flow", "dit", "min_snr"]
Precision = Literal["no", "bf16", "fp16"]
OptimizerName = Literal["adamw", "muon"]


@dataclass(frozen=True)
class TrainOptions:
    """How a run is trained.

    ``pictures``          how many training pictures it sees; picture ``first`` + i is the i-th
    ``batch``             pictures of one optimiser step, over all processes
    ``accumulate``        parts that each process cuts its share of a batch into, one backward pass each
    ``warmup``            steps over which the learning rate rises linearly
    ``decay``             fraction of the run, at its end, over which it falls linearly to zero
    ``beta2``             AdamW's decay of squared gradients (the first beta is 0.9)
    ``clip``              largest norm of the gradient of a step; 0 clips nothing
    ``label_drop``        fraction of labels or captions replaced by the null one (classifier-free guidance)
    ``ema``               decay of the averaged weights per step; they are what is saved
    ``optimizer``         "adamw", or "muon" for the matrices of the blocks; see optim.py
    ``objective``         see objective.py; "auto" is "flow" or "dit", after what the model predicts
    ``distill``           weight of the teacher's prediction as the target, against the pictures'; acts with a teacher
    ``distill_features``  weight of the distance to the teacher's token maps at segment ends; acts with a teacher
    ``precision``         "bf16" or "fp16": blocks compute in it; weights, optimiser and loss stay as they are
    ``checkpointing``     keep only what enters each block and compute the rest again in the backward pass
    ``compile``           run the blocks through torch.compile, one graph for each of their roles and token grids
    ``keep``              states kept for ``resume``
    """

    pictures: int = 100_000
    batch: int = 16
    accumulate: int = 1
    learning_rate: float = 1e-3
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 0.0
    beta2: float = 0.98
    clip: float = 1.0
    label_drop: float = 0.1
    ema: float = 0.999
    seed: int = 0
    first: int = 0
    save_every: int = 16_000
    keep: int = 2
    optimizer: OptimizerName = "adamw"
    objective: ObjectiveName = "auto"
    distill: float = 1.0
    distill_features: float = 0.0
    precision: Precision = "no"
    checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.pictures or min(self.save_every, self.accumulate, self.keep) < 1:
            raise ValueError(
                f"pictures={self.pictures}, batch={self.batch}, accumulate={self.accumulate}, "
                f"save_every={self.save_every}, keep={self.keep}: all must be 1 or more, and a run needs at least one "
                "batch of pictures"
            )
        shares = {name: getattr(self, name) for name in ("decay", "label_drop", "ema", "distill", "beta2")}
        wrong = [f"{name}={value}" for name, value in shares.items() if not 0 <= value <= 1]
        if wrong or 1 in (self.ema, self.beta2) or not 0 < self.learning_rate < math.inf:
            found = ", ".join(wrong) or f"ema={self.ema}, beta2={self.beta2}, learning_rate={self.learning_rate}"
            raise ValueError(
                "decay, label_drop, distill, ema and beta2 must lie in 0..1 (ema and beta2 below 1) and the learning "
                f"rate be a number above 0; found {found}"
            )
        for name in ("clip", "weight_decay", "distill_features", "warmup", "first"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a number of 0 or more")
        for name, kind in (("optimizer", OptimizerName), ("objective", ObjectiveName), ("precision", Precision)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose {', '.join(get_args(kind))}")

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.pictures // self.batch

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, linear decay."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup), left)

    def part(self, slots: int) -> int:
        """Pictures of one micro-batch where a step has ``slots`` of them; ``ValueError`` if it cannot be cut so."""
        if self.batch % slots:
            raise ValueError(
                f"batch={self.batch} cannot be cut into {slots} equal parts (processes times accumulate, which is "
                f"{self.accumulate}); give a multiple of {slots}"
            )
        return self.batch // slots

    def decisive(self) -> dict[str, Any]:
        """The values that change the weights a run ends with; a resumed run must have the same.

        How often is saved does not, nor whether activations are recomputed; ``pictures`` acts through the decay only,
        so that a run without one can be made longer.
        """
        values = asdict(self)
        for name in ("save_every", "keep", "checkpointing", "accumulate", *(() if self.decay else ("pictures",))):
            values.pop(name)
        return values
