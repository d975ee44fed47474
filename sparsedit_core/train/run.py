"""The training loop, on accelerate: one process or many, on one device each.

    steps of  [ micro-batch -> forward -> loss -> backward ] x accumulate,  clip,  AdamW or Muon,  averaged weights

Every ``save_every`` pictures the averaged weights are written to OUT and the state of the run beside it, so that a
run can be ended at any moment and go on to the same weights (state.py, batches.py).
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..backbone import Backbone
from ..checkpoint import CheckpointError, Loaded, save_checkpoint
from ..conditions import call_model, null_caption
from ..diffusion import with_conditions
from ..extras import imported
from .batches import MicroBatch, MicroBatches, ahead
from .checks import check_same, deciding
from .distill import Teacher
from .objective import Objective, objective_name
from .optim import optimizer_of
from .options import TrainOptions
from .progress import Progress, Watcher
from .resume import open_folder, pack, unpack
from .signals import Interrupted, StopSignals
from .source import Source
from .state import State, save_state, state_folder

log = logging.getLogger("sparsedit")
_DIVERGED = 1e6  # a smoothed loss that no training comes back from


class Run:
    """The objects of one run and what changes while it goes on."""

    def __init__(
        self,
        accelerator: Any,
        loaded: Loaded,
        out: Path,
        source: Source,
        options: TrainOptions,
        teacher: Backbone | None,
        metadata: dict[str, Any],
        watchers: Sequence[Watcher],
    ) -> None:
        self.accelerator, self.loaded, self.out, self.options = accelerator, loaded, out, options
        self.folder, self.metadata = state_folder(out), metadata
        self.watchers = watchers if accelerator.is_main_process else ()
        self.slots = accelerator.num_processes * options.accumulate
        name = objective_name(options.objective, loaded.prediction, loaded.config)
        self.objective = Objective(name, options.distill)
        self.settings = deciding(loaded, source, options, name, self.slots, teacher)
        self.data = {"fingerprint": source.fingerprint, "count": source.count}
        null = null_caption(loaded.model)
        self.batches = MicroBatches(
            source, loaded.config, loaded.schedule, loaded.prediction, options, self.slots, null_caption=null
        )
        options.part(self.slots)
        self.plain = loaded.model.to(accelerator.device).train()
        self.dtype = next(self.plain.parameters()).dtype
        self.teacher = None
        if teacher is not None:
            teacher.to(accelerator.device)
            features = options.distill_features
            self.teacher = Teacher(teacher, self.plain, features=features, context=accelerator.autocast)
        self.average = AveragedModel(self.plain, multi_avg_fn=get_ema_multi_avg_fn(options.ema))  # type: ignore[no-untyped-call]
        self.averaged = cast(Backbone, self.average.module)
        self.weights = [p for p in self.plain.parameters() if p.requires_grad]
        self.model, self.optimizer = accelerator.prepare(self.plain, optimizer_of(self.plain, options))
        self.done, self.smoothed, self.seconds, self.pace = 0, 0.0, 0.0, 0.0
        self.saved: str | None = None

    def begin(self, resume: bool) -> None:
        """Take over the newest state, or prepare the folder for those of a new run."""
        found: list[State | None] = [open_folder(self.folder, resume) if self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            imported("accelerate.utils", "train").broadcast_object_list(found)
        (state,) = found
        if state is not None:
            check_same(self.settings, state.facts["settings"])
            unpack(state.tensors(), self.plain, self.average, self.optimizer)
            if state.facts["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state.facts["scaler"])
            self.done, self.smoothed, self.seconds = state.step, state.facts["loss"], state.facts["seconds"]
            self.saved = state.path.stem
            if self.done == self.options.steps and self.accelerator.is_main_process:
                self._write_model(self.done * self.options.batch)  # the last thing of a run, which may have failed
        self._tell(lambda watcher: watcher.resumed(self.done))

    def loop(self, signals: StopSignals) -> None:
        """All steps that are left, from micro-batches that a thread makes ahead."""
        options, accelerator = self.options, self.accelerator
        first = accelerator.process_index * options.accumulate
        wanted = (
            step * self.slots + first + part
            for step in range(self.done, options.steps)
            for part in range(options.accumulate)
        )
        with closing(ahead(self.batches, wanted)) as batches:  # its thread ends with the run, however that ends
            self._steps(batches, signals)
        accelerator.wait_for_everyone()

    def _steps(self, batches: Iterator[MicroBatch], signals: StopSignals) -> None:
        """Step after step, with saves in between and at the end."""
        options, accelerator = self.options, self.accelerator
        for step in range(self.done, options.steps):
            start = time.perf_counter()
            progress, stop = self._step(step, batches, signals)
            seconds = time.perf_counter() - start
            self.seconds += seconds
            self.pace += (seconds - self.pace) * (0.05 if self.pace else 1.0)
            progress = replace(progress, images_per_second=options.batch / self.pace, seconds=self.seconds)
            self._tell(lambda watcher, now=progress: watcher.step(now, self.averaged))  # type: ignore[misc]
            last = step + 1 == options.steps
            if last or stop or progress.pictures % options.save_every < options.batch:
                self._save(progress, must=last)
            if stop and not last:
                accelerator.wait_for_everyone()  # where one process has ended, launchers soon kill the one that saves
                raise Interrupted(stop, step + 1, options.steps, self.saved)

    def _step(self, step: int, batches: Iterator[MicroBatch], signals: StopSignals) -> tuple[Progress, int]:
        """One optimiser step; what is to tell of it, and the signal that some process has had (0 for none)."""
        options, accelerator = self.options, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = options.rate(step)
        total = torch.zeros((), device=accelerator.device)
        for part in range(options.accumulate):
            batch = next(batches).to(accelerator.device, self.dtype)
            last = part + 1 == options.accumulate
            with nullcontext() if last else accelerator.no_sync(self.model):
                loss = self._loss(batch) / options.accumulate
                accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(self.weights, options.clip or math.inf)
        shared = accelerator.reduce(torch.stack([total, torch.full_like(total, signals.received)]), "mean")
        (value, stop), size = shared.tolist(), float(norm)
        self.smoothed += (value - self.smoothed) * max(0.01, 1 / (step + 1))
        self._check_numbers(step, value, size)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:
            self._follow(step)
        progress = Progress(
            step=step + 1,
            steps=options.steps,
            pictures=(step + 1) * options.batch,
            loss=self.smoothed,
            step_loss=value,
            grad_norm=size,
            rate=options.rate(step),
            grid=batch.grid,
            images_per_second=0.0,
            seconds=0.0,
        )
        return progress, (signals.received or signal.SIGTERM) if stop else 0

    def _loss(self, batch: MicroBatch) -> Tensor:
        """The mean loss of one micro-batch."""

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return call_model(self.model, x, t, batch.conditions, sparse_grid=batch.grid)

        teach = None if self.teacher is None else with_conditions(self.teacher.predict, batch.conditions)
        loss = self.objective.losses(predict, batch, teach)["loss"].mean()
        if self.teacher is not None and self.options.distill_features:
            loss = loss + self.options.distill_features * self.teacher.distance()
        return loss

    def _check_numbers(self, step: int, loss: float, norm: float) -> None:
        """Stop before numbers that are none reach the weights; in fp16 the scaler skips overflowing gradients."""
        fine = math.isfinite(loss) and (math.isfinite(norm) or self.accelerator.scaler is not None)
        if fine and self.smoothed < _DIVERGED:
            return
        kept = f"the last good state is {self.saved} in {self.folder}" if self.saved else "no state was saved before"
        raise FloatingPointError(
            f"the loss is {loss:g} and the gradient {norm:g} at step {step + 1}; {kept}; begin anew with a lower "
            f"learning rate than {self.options.learning_rate:g}, or check the data"
        )

    def _follow(self, step: int) -> None:
        """Move the averaged weights; averaging from step 0 would remember the start for 1/(1-ema) steps."""
        if step < 1 / (1 - self.options.ema) / 2:
            self.average.n_averaged.zero_()
        self.average.update_parameters(self.plain)

    def _save(self, progress: Progress, must: bool) -> None:
        """The state and the averaged model; what cannot be written is warned of, unless the model ``must`` be."""
        if not self.accelerator.is_main_process:
            return
        self._save_state(progress)
        try:
            self._write_model(progress.pictures)
        except (OSError, CheckpointError) as error:
            if must:
                raise OSError(
                    f"the trained model could not be written ({error}); make room and go on by --resume from the "
                    f"newest state, {self.saved}"
                ) from error
            log.warning("step %d: THE MODEL WAS NOT SAVED (%s); training goes on", progress.step, error)
        else:
            self._tell(lambda watcher: watcher.saved(progress))

    def _save_state(self, progress: Progress) -> None:
        scaler = self.accelerator.scaler
        facts = {
            "settings": self.settings,
            "loss": self.smoothed,
            "seconds": self.seconds,
            "scaler": None if scaler is None else scaler.state_dict(),
            "finished": progress.step == progress.steps,
        }
        tensors = pack(self.plain, self.average, self.optimizer)
        try:
            path = save_state(self.folder, progress.step, tensors, facts, keep=self.options.keep)
        except OSError as error:
            log.warning("step %d: NO STATE WAS SAVED (%s); the newest is %s", progress.step, error, self.saved)
        else:
            self.saved = path.stem

    def _write_model(self, pictures: int) -> None:
        trained = asdict(self.options) | {"objective": self.objective.name, "seen": pictures, "loss": self.smoothed}
        record = {"train": trained, "data": self.data, **self.metadata}
        self.out.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self.out, replace(self.loaded, model=self.averaged, metadata=record))

    def _tell(self, message: Callable[[Watcher], None]) -> None:
        """Give the watchers a message; no log is worth a run."""
        for watcher in self.watchers:
            try:
                message(watcher)
            except (OSError, ArithmeticError) as error:  # a full disk, samples that are no numbers
                log.warning("%s of this run: %s", type(watcher).__name__, error)

    def release(self) -> None:
        """Give the model back without what accelerate put around its forward."""
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        vars(self.plain).pop("forward", None)
