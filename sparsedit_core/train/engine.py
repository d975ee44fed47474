"""Training a model: ``train`` puts the pieces of a run together, run.py is its loop."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..backbone import Backbone
from ..checkpoint import Loaded
from ..extras import imported
from .autocast import compiled, fast_attention, recomputing
from .checks import check_run
from .options import Precision, TrainOptions
from .progress import Watcher
from .run import Run
from .signals import StopSignals
from .source import Source

_SHARDED = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP", "XLA")


def train(
    loaded: Loaded,
    out: str | os.PathLike[str],
    source: Source,
    options: TrainOptions,
    *,
    teacher: Backbone | None = None,
    metadata: dict[str, Any] | None = None,
    watchers: Sequence[Watcher] = (),
    resume: bool = False,
    cpu: bool = False,
) -> Backbone:
    """Train ``loaded.model`` in place on ``source`` and write the averaged weights to ``out``; returns their model.

    ``loaded`` says what the model is: its prediction, latent, class names, and the schedule that a sparse model needs
    and a dense one must not have; they and ``metadata`` are written with the weights. ``teacher`` is a dense model of
    the same data (distill.py). ``resume`` goes on from the newest state beside ``out``, if there is one.
    ``cpu`` computes on the CPU even where there is a faster device.

    Runs in every process of ``torchrun`` or ``accelerate launch``; only the main one writes, and all of them read the
    state of a resumed run. Raises ValueError for settings that do not fit and where accelerate is missing,
    FloatingPointError when the loss is no number, Interrupted after SIGINT or SIGTERM, OSError when the finished model
    cannot be written or a process does not see the state.
    """
    out = Path(out)
    check_run(loaded, out, source, options, teacher)
    with accelerator_for(options.precision, cpu) as accelerator, StopSignals() as signals, ExitStack() as stack:
        run = Run(accelerator, loaded, out, source, options, teacher, metadata or {}, watchers)
        on_cpu = accelerator.device.type == "cpu"
        models = [loaded.model] if teacher is None else [loaded.model, teacher]
        stack.enter_context(fast_attention(models, on_cpu and options.precision == "bf16"))
        stack.enter_context(compiled(loaded.model, options.compile))
        stack.enter_context(recomputing(loaded.model, options.checkpointing))
        if run.teacher is not None:
            stack.enter_context(run.teacher.watching())
        stack.callback(run.release)
        run.begin(resume)
        run.loop(signals)
        return run.averaged.eval()


@contextmanager
def accelerator_for(precision: Precision, cpu: bool) -> Iterator[Any]:
    """accelerate's Accelerator for this process; what it keeps for the whole process is cleared if it was not there.

    ValueError names the extra to install where accelerate is missing, or the precision that the device lacks.
    """
    accelerate = imported("accelerate", "train")
    kept, process = accelerate.state.AcceleratorState, accelerate.state.PartialState
    ours = not kept._shared_state  # else its owner has set it up, and accelerate checks that ours is the same
    first = not process._shared_state  # it holds the device: a later run may want another one
    whole = accelerate.utils.GradientAccumulationPlugin(num_steps=1)  # else a setting of `accelerate launch` divides
    try:
        try:
            accelerator = accelerate.Accelerator(mixed_precision=precision, cpu=cpu, gradient_accumulation_plugin=whole)
        except ValueError as error:
            raise ValueError(f"precision={precision} cannot be used here: {error}") from error
        if precision != "no" and not accelerator.native_amp:  # accelerate would compute in full precision then
            raise ValueError(f"precision={precision} does not exist on the device {accelerator.device}; use bf16 or no")
        if accelerator.distributed_type.value in _SHARDED:
            raise ValueError(
                f"the launcher set up {accelerator.distributed_type.value}, which cuts models up; this loop keeps a "
                "whole model on every device: launch it with plain data parallelism"
            )
        yield accelerator
    finally:
        if ours:
            kept._reset_state(reset_partial_state=first)
