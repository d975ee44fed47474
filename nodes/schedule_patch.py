"""What every SparseDiT MODEL carries while it samples: its schedule, and a record of what it did.

Three keyed wrappers on the ModelPatcher, nothing on the model:
OUTER_SAMPLE makes a fresh run and publishes its record, CALC_COND_BATCH counts evaluations (a step's halves may be
computed apart), APPLY_MODEL decides the sparse grid from the timestep and hands it on as a keyword argument. Read from
``transformer_options`` inside a region that ComfyUI compiled, it would freeze at its first value.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
from comfy.patcher_extension import WrappersMP
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from ..sparsedit_core.config import BackboneConfig, PixArtConfig
from ..sparsedit_core.run_record import Evaluation, RunRecord, measure
from ..sparsedit_core.schedule import Grid, PruningSchedule
from ..sparsedit_core.tokens import default_sparse_grid
from .progress import Progress
from .runs import Published, node_text, publish
from .sampling_time import diffusion_time, model_timestep

log = logging.getLogger("sparsedit")

KEY = "sparsedit"
COMPILED = "torch.compile"
"""Key of ComfyUI's own wrapper of compiled models."""
FULL_DENSITY = PruningSchedule(rate_noise=0.0, rate_clean=0.0)
"""Every token at every time."""


@dataclass(frozen=True)
class Attached:
    """What a MODEL carries: ``token`` finds its runs, ``schedule`` acts (``None``: the checkpoint's own fixed side),
    ``told`` says that runs show their progress."""

    token: str
    schedule: PruningSchedule | None
    told: bool = True


def attach_schedule(patcher: Any, schedule: PruningSchedule | None, *, told: bool = True) -> None:
    """Let ``schedule`` act on a ModelPatcher (of this pack) and record its runs; replaces what it carried before.

    ``told``: the executing node shows how far a run is; false for nodes that write their own text on themselves.
    """
    attached = Attached(uuid.uuid4().hex, schedule, told)
    for kind, wrapper in _wrappers(attached):
        patcher.remove_wrappers_with_key(kind, KEY)
        patcher.add_wrapper_with_key(kind, KEY, wrapper)
    patcher.set_attachments(KEY, attached)


def attach_recorder(patcher: Any) -> None:
    """Only record the runs of a ModelPatcher: a dense model, or a sparse one at its own side."""
    attach_schedule(patcher, None)


def attached_to(patcher: Any) -> Attached:
    """What :func:`attach_schedule` put on ``patcher``; ``ValueError`` on a MODEL of another loader."""
    attached = patcher.get_attachment(KEY)
    if attached is None:
        raise ValueError(
            f"this MODEL is a {type(patcher.model).__name__} that no SparseDiT node loaded; "
            "take the one of SparseDiT Load Checkpoint"
        )
    return attached


class Run:
    """State of one sampling run, dropped at its end; ``Evaluation`` objects are only ever added."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.started = time.perf_counter()
        self.count = 0
        self.setting = ""
        self._calls: list[tuple[int, Evaluation]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        return self  # ComfyUI 0.3.64 deep-copies model_options; the run stays one

    def add(self, evaluation: Evaluation) -> None:
        """Note a call of the model within the present evaluation."""
        self._calls.append((self.count, evaluation))
        self.progress.evaluated(self.count, evaluation)

    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluations in order; calls of one evaluation over the same grids are one row."""
        rows: dict[tuple[Any, ...], Evaluation] = {}
        for number, call in self._calls:
            key = number, call.timestep, call.dense, call.sparse
            rows[key] = rows[key].joined(call) if key in rows else call
        return tuple(rows.values())


def _wrappers(attached: Attached) -> list[tuple[str, Callable[..., Any]]]:
    """Plain closures over a frozen object: safe to copy, deep-copy and share between clones."""

    def outer_sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider, progress = executor.class_obj, Progress(told=attached.told)
        run, record = Run(progress), None
        kept = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(kept)
        guider.model_options["transformer_options"][KEY] = run
        _warn_of_unused_patches(kept["transformer_options"])
        try:
            samples = executor(*args, **kwargs)
            record = _record(attached, guider.model_patcher.model.sparsedit, run)
        finally:
            guider.model_options = kept
            progress.ended(record)
        _publish(attached, record)
        return samples

    def calc_cond_batch(executor: Any, model: Any, conds: Any, x: Any, timestep: Any, model_options: Any) -> Any:
        run = model_options["transformer_options"].get(KEY)
        if run is not None:
            run.count += 1
        return executor(model, conds, x, timestep, model_options)

    def apply_model(
        executor: Any,
        x: Any,
        t: Any,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Any = {},  # noqa: B006  (the signature of BaseModel.apply_model)
        **kwargs: Any,
    ) -> Any:
        model = executor.class_obj
        config, sampling = model.sparsedit.config, model.model_sampling
        dense, moment = _dense_grid(config, x), diffusion_time(sampling, t)
        sparse = _sparse_grid(config, attached.schedule, moment, dense)
        if sparse is not None:
            kwargs["sparse_grid"] = sparse
        run = transformer_options.get(KEY)
        if run is None:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
        options, computed = _watched(transformer_options)
        started = time.perf_counter()
        out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        float(out.flatten()[0])  # waits for the device, whichever it is
        seconds = time.perf_counter() - started
        images = x.shape[0] if computed else 0
        text, moments = _text_tokens(config, c_crossattn), (moment, model_timestep(sampling, t))
        run.setting = _setting(x, model, transformer_options)
        run.add(measure(config, *moments, dense, sparse, x.shape[0], images, seconds, text))
        return out

    return [
        (WrappersMP.OUTER_SAMPLE, outer_sample),
        (WrappersMP.CALC_COND_BATCH, calc_cond_batch),
        (WrappersMP.APPLY_MODEL, apply_model),
    ]


def _warn_of_unused_patches(transformer_options: dict[str, Any]) -> None:
    kinds = [kind for name in ("patches", "patches_replace") for kind in transformer_options.get(name, {})]
    if kinds:
        log.warning(
            "the MODEL carries patches of other nodes (%s) made for networks with such places; this one has none, so "
            "they do nothing",
            ", ".join(sorted(set(kinds))),
        )


def _watched(transformer_options: dict[str, Any]) -> tuple[dict[str, Any], list[bool]]:
    """Options with one more innermost wrapper, and a list that it makes non-empty: other nodes may answer from a cache.

    Compiled models run as one piece, which a wrapper made for each call would compile anew: they count as computed.
    """
    wrappers = transformer_options.get("wrappers", {})
    if COMPILED in wrappers.get(WrappersMP.APPLY_MODEL, {}):
        return transformer_options, [True]
    computed: list[bool] = []

    def watch(executor: Any, *args: Any, **kwargs: Any) -> Any:
        computed.append(True)
        return executor(*args, **kwargs)

    inner = {**wrappers.get(WrappersMP.DIFFUSION_MODEL, {}), KEY: [watch]}
    return {**transformer_options, "wrappers": {**wrappers, WrappersMP.DIFFUSION_MODEL: inner}}, computed


def _setting(x: Any, model: Any, transformer_options: dict[str, Any]) -> str:
    """What an evaluation's seconds depend on beside its sizes: "float16 on cuda, compiled"."""
    compiled = COMPILED in transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    dtype = model.manual_cast_dtype or model.get_dtype()
    return f"{str(dtype).removeprefix('torch.')} on {x.device.type}{', compiled' if compiled else ''}"


def _dense_grid(config: BackboneConfig, x: Any) -> Grid:
    return -(-x.shape[-2] // config.patch_size), -(-x.shape[-1] // config.patch_size)


def _sparse_grid(config: BackboneConfig, schedule: PruningSchedule | None, time: float, dense: Grid) -> Grid | None:
    if config.layout is None:
        return None
    return schedule.grid(time, dense) if schedule else default_sparse_grid(dense, config.sparse_side)


def _text_tokens(config: BackboneConfig, text: Any) -> int | None:
    """How many text tokens a PixArt reads; a DiT is given none that it reads."""
    return text.shape[-2] if isinstance(config, PixArtConfig) and text is not None else None


def _record(attached: Attached, info: Any, run: Run) -> RunRecord:
    seconds = time.perf_counter() - run.started
    return RunRecord(info.source, info.config, attached.schedule, run.evaluations(), seconds, run.setting)


def _publish(attached: Attached, record: RunRecord) -> None:
    log.info("%s: %s", record.source, record.summary())
    context = get_executing_context()
    if context is None:
        publish(Published(attached.token, "", "", record))
        return
    node = node_text(get_progress_state().dynprompt, context.node_id)
    publish(Published(attached.token, context.prompt_id, context.node_id, record, node))
