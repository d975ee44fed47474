"""Learning a plan: the paper's two-stage training of a table of costs through the solver (DiffSparse; PAPERS 2).

The model is frozen. In every iteration the solver chooses a plan from the table, a batch of pictures is sampled under
it, and the distance of the pictures to those of the dense model for the same noise and conditions goes back through
the whole sampling and, straight through the solver's choice, into the table. The plan that did best on held-out noise,
sampled with the real runtime, is kept. Choices of ours, where the paper's notes are silent: the optimiser, with fresh
moments and falling rates in each stage, budgets in MACs and not in tokens, the ``age`` selector's order of tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Loaded
from ..conditions import Conditions, check_conditions
from ..metrics import psnr
from ..sampling import SampleOptions, evaluation_times, guided_channels, initial_noise, sample
from .costs import Costs, model_costs
from .learn_loss import Distance
from .learn_optim import TableAdam
from .learn_options import FLOOR, Iteration, LearnOptions
from .learn_steps import soft_sample
from .learn_table import Choice, CostTable, levels_for
from .plan import CachePlan, check_plan


@dataclass(frozen=True, eq=False)
class Learned:
    """``plan`` that did best on the held-out pictures, and the ``rows`` of the log."""

    plan: CachePlan
    rows: tuple[Iteration, ...] = field(repr=False)


def learn(
    loaded: Loaded,
    conditions: Conditions,
    distance: Distance,
    options: LearnOptions | None = None,
    *,
    start: CachePlan | None = None,
    progress: Callable[[Iteration], object] | None = None,
    save: Callable[[CachePlan], object] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Learned:
    """Learn a plan for a dense model on its own device; its weights are left as they are and frozen meanwhile.

    ``conditions`` (n) what pictures are asked with, in turn; ``start`` a plan to begin from, of any number of steps;
    ``progress`` is called after every iteration, ``save`` with every plan that is the best so far. ``ValueError`` for
    a model with a layout, conditions or a start that do not fit, and a budget too small.
    """
    run = _Run(loaded, conditions, distance, options or LearnOptions(), start)
    run.progress, run.save, run.provenance = progress, save, provenance or {}
    frozen = {name: each.requires_grad for name, each in loaded.model.named_parameters()}
    loaded.model.requires_grad_(False)
    try:
        run.all()
    finally:
        for name, each in loaded.model.named_parameters():
            each.requires_grad_(frozen[name])
    return Learned(run.finished(), tuple(run.rows))


class _Run:
    def __init__(
        self,
        loaded: Loaded,
        conditions: Conditions,
        distance: Distance,
        options: LearnOptions,
        start: CachePlan | None,
    ) -> None:
        if loaded.layout is not None:
            raise ValueError("plans are learned for dense models, this one is a SparseDiT; calibrate a plan for it")
        check_conditions(loaded.config, conditions)
        self.loaded, self.conditions, self.distance, self.options = loaded, conditions, distance, options
        self.device = loaded.model.x_embedder.proj.weight.device
        self.times = evaluation_times(loaded.prediction, options.steps)
        self.costs = sampling_costs(loaded, conditions)
        self.start = start
        self.progress: Callable[[Iteration], object] | None = None
        self.save: Callable[[CachePlan], object] | None = None
        self.provenance: dict[str, Any] = {}
        self.first = options.first if options.first is not None else 0 if start else options.FIRST
        self.full_steps = self._full_steps() if self.first else 0
        self.table = CostTable(
            self.costs, options.steps, options.budget, options.whole, full_steps=self.full_steps, tau=options.tau
        )
        if start is not None:
            check_plan(start, loaded.family, self.costs.sublayers)
            self.table.begin(levels_for(start, self.times), options.margin)
        self.rows: list[Iteration] = []
        self.teacher: dict[int, Tensor] = {}
        self.best: tuple[float, float, CachePlan, Iteration] | None = None
        self.best_table: Tensor | None = None  # of the second stage
        self.stale = 0  # comparisons since the best
        self.seen: dict[str, tuple[float, float]] = {}
        self.held_noise, self.held_conditions = self._pictures(range(options.held), 2000 + options.seed)
        self.held_dense = self._sampled(self.held_noise, self.held_conditions, None)

    def all(self) -> None:
        """The look at the start, then both stages."""
        options, before = self.options, self.table.choose()
        self._log(0, 0, None, before, 0, time.perf_counter(), compare=True)
        for stage, count in ((1, self.first), (2, options.second)):
            if stage == 2 and self.full_steps:
                self.table.merge(options.delta)
            rates = [(self.table.layers, options.layer_rate if stage == 1 else options.second_rate)]
            rates += [(self.table.steps, options.step_rate)] if stage == 1 and self.full_steps else []
            make = TableAdam if options.optimizer == "table" else torch.optim.Adam
            groups = [{"params": [each], "lr": rate} for each, rate in rates]
            optimizer, share, self.stale = make(groups), 1.0, 0
            for number in range(1, count + 1):
                began = time.perf_counter()
                if stage == 2 and 0 < options.patience <= self.stale and self.best_table is not None:
                    with torch.no_grad():
                        self.table.layers.copy_(self.best_table)
                    optimizer, share, self.stale = make(groups), share / 2, 0
                for group, (_, rate) in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = share * rate * (1 - (number - 1) / count if options.decay else 1.0)
                loss = self._iteration(optimizer, len(self.rows) - 1)
                now = self.table.choose()
                changed = sum(a != b for x, y in zip(now.levels, before.levels, strict=True)
                              for a, b in zip(x, y, strict=True))
                before = now
                compare = number % options.every == 0 or number == count
                self._log(stage, number, loss, now, changed, began, compare=compare)

    def finished(self) -> CachePlan:
        """The best plan with what it comes from."""
        assert self.best is not None
        loss, decibel, plan, row = self.best
        known = {"made_by": "learn", "distance": self.distance.name,
                 "options": asdict(self.options), "sampler": "euler" if self.loaded.prediction == "flow" else "ddim",
                 "iterations": {"first": self.first, "second": self.options.second, "full_steps": self.full_steps},
                 "found": {"stage": row.stage, "iteration": row.number, "held_loss": loss, "held_psnr": decibel},
                 "start_held": {"loss": self.rows[0].held_loss, "psnr": self.rows[0].held_psnr},
                 "share": plan.share(self.costs.macs, self.costs.outside),
                 "start": None if self.start is None else _told(self.start)}
        return self._plan(plan.table, known | self.provenance)

    def _iteration(self, optimizer: torch.optim.Optimizer, number: int) -> float:
        options = self.options
        first = number * options.batch
        numbers = [index % options.pictures for index in range(first, first + options.batch)]
        noise, conditions = self._pictures(numbers, 1000 + options.seed)
        target = self._targets(numbers, noise, conditions)
        choice = self.table.choose()
        finished = soft_sample(
            self.loaded, noise, conditions, [each.to(self.device) for each in choice.weights], choice.levels,
            self.costs.sublayers, seed=options.seed, cfg=options.cfg, channels=guided_channels(self.loaded),
        )
        loss = self._mean(self.distance(finished / self.loaded.latent.scale, target))
        if not bool(torch.isfinite(loss)):
            raise ArithmeticError("the loss is NaN or infinite; compute in float32, and check the file")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return self._plain(loss)

    def _mean(self, distances: Tensor) -> Tensor:
        """What is to be small: the mean of distances (B,), of their logarithms where it is the geometric one."""
        return distances.mean() if self.options.mean == "arithmetic" else (distances + FLOOR).log().mean()

    def _plain(self, mean: Tensor) -> float:
        """The same as a distance."""
        return float(mean.detach() if self.options.mean == "arithmetic" else mean.detach().exp() - FLOOR)

    def _log(
        self, stage: int, number: int, loss: float | None, choice: Choice, changed: int, began: float, *, compare: bool
    ) -> None:
        plan = self._plan(choice.levels, {})
        found = self._compared(plan) if compare else None
        best = found is not None and (self.best is None or found[0] < self.best[0])
        seconds = time.perf_counter() - began
        row = Iteration(stage, number, loss, plan.share(self.costs.macs, self.costs.outside), changed,
                        found and found[0], found and found[1], best, seconds)
        self.rows.append(row)
        self.stale += found is not None
        if best and found is not None:
            self.best = *found, plan, row
            self.stale = 0
            self.best_table = None if self.table.full_steps else self.table.layers.detach().clone()
            if self.save is not None:
                self.save(self.finished())
        if self.progress is not None:
            self.progress(row)

    def _compared(self, plan: CachePlan) -> tuple[float, float]:
        """Mean distance and PSNR to the dense pictures of the held-out ones under the real runtime."""
        if plan.hash not in self.seen:
            found = self._sampled(self.held_noise, self.held_conditions, plan)
            with torch.no_grad():
                distances = self.distance(found.to(self.device), self.held_dense.to(self.device))
            loss = self._plain(self._mean(distances))
            decibel = psnr(found, self.held_dense).clamp_max(200.0)  # of equal pictures it is infinite
            self.seen[plan.hash] = loss, fmean(decibel.tolist())
        return self.seen[plan.hash]

    def _plan(self, table: tuple[tuple[int, ...], ...], provenance: dict[str, Any]) -> CachePlan:
        return CachePlan(self.loaded.family, self.times, self.costs.sublayers, table, self.options.budget, "age",
                         self.options.seed, True, provenance)

    def _pictures(self, numbers: Any, seed: int) -> tuple[Tensor, Conditions]:
        noise = torch.cat([initial_noise(self.loaded, 1, seed=seed, first=number) for number in numbers])
        return noise, self.conditions[torch.tensor([number % len(self.conditions) for number in numbers])]

    def _targets(self, numbers: list[int], noise: Tensor, conditions: Conditions) -> Tensor:
        missing = [place for place, number in enumerate(numbers) if number not in self.teacher]
        if missing:
            made = self._sampled(noise[missing], conditions[torch.tensor(missing)], None)
            self.teacher.update(zip([numbers[place] for place in missing], made, strict=True))
        return torch.stack([self.teacher[number] for number in numbers]).to(self.device)

    def _sampled(self, noise: Tensor, conditions: Conditions, plan: CachePlan | None) -> Tensor:
        wanted = SampleOptions(self.options.steps, cfg=self.options.cfg, batch=self.options.batch, cache=plan)
        return sample(self.loaded, noise, conditions, wanted).images

    def _full_steps(self) -> int:
        if self.options.full_steps is not None:
            return self.options.full_steps
        return max(0, int(self.options.steps * self.options.budget / 3))


def _told(start: CachePlan) -> dict[str, Any]:
    """Where the start comes from, without the measurements that it may carry."""
    return {"hash": start.hash} | {name: value for name, value in start.provenance.items() if name != "calibration"}


def sampling_costs(loaded: Loaded, conditions: Conditions) -> Costs:
    """Costs of one picture of the model's own size, with captions as long as these."""
    return model_costs(loaded, caption_tokens=None if isinstance(conditions, Tensor) else conditions.mask.shape[1])
