"""What every SparseDiT MODEL carries while it samples: its schedule, its token cache, and a record of what it did.

Four keyed wrappers on the ModelPatcher, nothing on the model:
OUTER_SAMPLE makes a fresh run and publishes its record, PREPARE_SAMPLING asks for the cache's memory, CALC_COND_BATCH
counts evaluations (a step's halves may be computed apart), APPLY_MODEL decides the sparse grid from the timestep and
hands it on as a keyword argument. Read from ``transformer_options`` inside a region that ComfyUI compiled, it would
freeze at its first value.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_patcher
from comfy.patcher_extension import WrappersMP
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from ..sparsedit_core.cache.visit import Visit
from ..sparsedit_core.config import BackboneConfig
from ..sparsedit_core.run_record import Evaluation, RunRecord
from ..sparsedit_core.schedule import PruningSchedule
from .cache_adapter import Hooked
from .cache_run import CacheSettings, RunCache, with_room
from .evaluations import Call, adapted_evaluation, dense_grid, is_compiled, own_evaluation, setting, sparse_grid
from .info import SparseDiTInfo
from .progress import Progress
from .runs import Published, Signature, node_text, publish
from .sampling_time import diffusion_time, model_timestep

log = logging.getLogger("sparsedit")

KEY = "sparsedit"
FULL_DENSITY = PruningSchedule(rate_noise=0.0, rate_clean=0.0)
"""Every token at every time."""


@dataclass(frozen=True)
class Attached:
    """What a MODEL carries: ``token`` finds its runs, ``schedule`` acts (``None``: the checkpoint's own fixed side),
    ``told`` says that runs show their progress, ``cache`` acts too. ``source`` and ``config`` say what the model is,
    the latter ``None`` of models that are not this pack's."""

    token: str
    schedule: PruningSchedule | None
    told: bool = True
    cache: CacheSettings | None = None
    source: str = ""
    config: BackboneConfig | None = None

    @property
    def signature(self) -> Signature:
        """What tells its runs from those of other models and settings."""
        return self.source, self.config, self.schedule, self.cache.words if self.cache else ""


def attach_schedule(patcher: Any, schedule: PruningSchedule | None, *, told: bool = True) -> None:
    """Let ``schedule`` act on a ModelPatcher (of this pack) and record its runs; replaces the schedule it carried.

    ``told``: the executing node shows how far a run is; false for nodes that write their own text on themselves.
    """
    before = patcher.get_attachment(KEY)
    _attach(patcher, Attached("", schedule, told, before.cache if before else None))


def attach_cache(patcher: Any, cache: CacheSettings | None, source: str, *, told: bool = True) -> None:
    """Let a token cache act on a clone of any MODEL that it has an adapter for, beside the schedule it carries.

    ``source`` is the name of a model that is not this pack's.
    """
    before = patcher.get_attachment(KEY)
    if cache is not None:
        cache.adapter.prepare(patcher)
    _attach(patcher, Attached("", before.schedule if before else None, told, cache, source))


def _attach(patcher: Any, attached: Attached) -> None:
    info = getattr(patcher.model, "sparsedit", None)
    if isinstance(info, SparseDiTInfo):
        attached = replace(attached, source=info.source, config=info.config)
    attached = replace(attached, token=uuid.uuid4().hex)
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


def attached_schedule(patcher: Any) -> PruningSchedule | None:
    """The schedule that a MODEL carries, ``None`` where it carries none."""
    attached = patcher.get_attachment(KEY)
    return attached.schedule if attached else None


class Run:
    """State of one sampling run, dropped at its end; ``Evaluation`` objects are only ever added."""

    def __init__(self, progress: Progress, cache: RunCache | None = None) -> None:
        self.progress, self.cache = progress, cache
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
        run, record = Run(progress, _new_cache(attached, guider, args[0])), None
        kept = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(kept)
        guider.model_options["transformer_options"][KEY] = run
        if attached.config is not None:
            _warn_of_unused_patches(kept["transformer_options"])
        try:
            samples = executor(*args, **kwargs)
            record = _record(attached, run)
        finally:
            guider.model_options = kept
            if run.cache is not None:
                run.cache.clear()
            progress.ended(record)
        _publish(attached, record)
        return samples

    def prepare_sampling(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        options = kwargs.get("model_options") or {}
        run = options.get("transformer_options", {}).get(KEY)
        if run is not None and run.cache is not None and run.cache.bytes:
            noise_shape = with_room(model, noise_shape, args[0] if args else kwargs["conds"], run.cache.bytes)
        return executor(model, noise_shape, *args, **kwargs)

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
        config, sampling = attached.config, model.model_sampling
        moment = diffusion_time(sampling, t)
        sparse = None if config is None else sparse_grid(config, attached.schedule, moment, dense_grid(config, x.shape))
        if sparse is not None:
            kwargs["sparse_grid"] = sparse
        run = transformer_options.get(KEY)
        if run is None:
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
        options, computed = _watched(transformer_options)
        visit = run.cache.visit(moment, x, transformer_options) if run.cache else None
        started = time.perf_counter()
        with _hooked(attached, visit, options, kwargs) as (hooked, keywords):
            out = executor(x, t, c_concat, c_crossattn, control, hooked, **keywords)
        float(out.flatten()[0])  # waits for the device, whichever it is
        seconds = time.perf_counter() - started
        run.setting = setting(x, model, transformer_options)
        ran = bool(computed) or (visit is not None and bool(visit.done))  # core's PixArt calls no inner wrappers
        call = Call(moment, model_timestep(sampling, t), sparse, ran, seconds)
        evaluation = _measure(attached, x, c_crossattn, kwargs, call, visit)
        if evaluation is not None:
            run.add(evaluation)
        return out

    return [
        (WrappersMP.OUTER_SAMPLE, outer_sample),
        (WrappersMP.PREPARE_SAMPLING, prepare_sampling),
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
    if is_compiled(transformer_options):
        return transformer_options, [True]
    computed: list[bool] = []

    def watch(executor: Any, *args: Any, **kwargs: Any) -> Any:
        computed.append(True)
        return executor(*args, **kwargs)

    inner = {**wrappers.get(WrappersMP.DIFFUSION_MODEL, {}), KEY: [watch]}
    return {**transformer_options, "wrappers": {**wrappers, WrappersMP.DIFFUSION_MODEL: inner}}, computed


def _new_cache(attached: Attached, guider: Any, noise: Any) -> RunCache | None:
    if attached.cache is None:
        return None
    config, sparse = attached.config, None
    if config is not None:  # its largest grid, near the picture
        sparse = sparse_grid(config, attached.schedule, 0.0, dense_grid(config, noise.shape))
    return RunCache(attached.cache, guider, noise.shape, sparse)


@contextmanager
def _hooked(
    attached: Attached, visit: Visit | None, options: dict[str, Any], keywords: dict[str, Any]
) -> Iterator[Hooked]:
    """Options and keywords of a call of the model, which within is under the cache if there is one."""
    if visit is None or attached.cache is None:
        yield options, keywords
        return
    if is_compiled(options):
        raise ValueError(
            "the MODEL is compiled and carries a token cache, which computes something else at every step; remove "
            "Torch Compile Model or SparseDiT Token Cache"
        )
    with attached.cache.adapter.hooked(visit, options, keywords) as hooked:
        yield hooked


def _measure(
    attached: Attached, x: Any, text: Any, keywords: dict[str, Any], call: Call, visit: Visit | None
) -> Evaluation | None:
    if attached.config is not None:
        return own_evaluation(attached.config, x, text, call, visit)
    if attached.cache is None or visit is None:  # a cache taken off again: of this model nothing is known
        return None
    return adapted_evaluation(attached.cache.adapter, x, text, keywords, call, visit)


def _record(attached: Attached, run: Run) -> RunRecord:
    seconds, use = time.perf_counter() - run.started, run.cache.use() if run.cache else None
    return RunRecord(
        attached.source, attached.config, attached.schedule, run.evaluations(), seconds, run.setting, use
    )


def _publish(attached: Attached, record: RunRecord) -> None:
    log.info("%s: %s", record.source, record.summary())
    context = get_executing_context()
    if context is None:
        publish(Published(attached.token, "", "", record))
        return
    node = node_text(get_progress_state().dynprompt, context.node_id)
    publish(Published(attached.token, context.prompt_id, context.node_id, record, node))
