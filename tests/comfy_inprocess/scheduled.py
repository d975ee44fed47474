"""Small models with schedules, and a spy on what the model is called with."""

from __future__ import annotations

from typing import Any

import files
from comfy_pack import pack, run

MOVING = {"rate_noise": 0.9, "rate_clean": 0.2}
FLOW = {"in_channels": 3, "learn_sigma": False, "input_size": (16, 16)}


def schedule(**values: Any) -> Any:
    """A pruning schedule that moves over most of a small grid."""
    return pack("sparsedit_core.schedule").PruningSchedule(**MOVING | {"levels": None} | values)


def load(name: str = "scheduled.safetensors", *, flow: bool = False, seed: int = 0, **description: Any) -> Any:
    """A sparse MODEL of 8 x 8 tokens: noise-predicting on 4 latent channels, or flow on RGB pixels."""
    records = pack("sparsedit_core.checkpoint")
    if flow:
        latent = records.Latent(channels=3, scale=0.5, factor=1, kind="pixel")
        description |= {"prediction": "flow", "latent": latent}
    model = files.random_model(files.config(files.SPARSE, **FLOW if flow else {}), seed)
    files.save(model, name, **description)
    return run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype="fp32")


def load_dense(name: str = "dense.safetensors") -> Any:
    """A dense MODEL."""
    files.save(files.random_model(files.config()), name)
    return run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype="fp32")


def apply(model: Any, wanted: Any = None) -> Any:
    """A clone that follows ``wanted``."""
    return run("SparseDiTApplySchedule", model=model, schedule=wanted)


def spied(model: Any) -> tuple[Any, list[tuple[float, Any, tuple[int, ...], list[int]]]]:
    """A clone, and a list that grows by (timestep, sparse grid, shape of x, labels) with every call of the model."""
    from comfy.patcher_extension import WrappersMP

    calls: list[tuple[float, Any, tuple[int, ...], list[int]]] = []

    def spy(executor: Any, x: Any, t: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((float(t[0]), kwargs.get("sparse_grid"), tuple(x.shape), kwargs["y"].tolist()))
        return executor(x, t, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "spy", spy)
    return clone, calls


def records(model: Any) -> list[Any]:
    """The recorded runs of a MODEL, oldest first."""
    attached = pack("nodes.schedule_patch").attached_to(model)
    return pack("nodes.runs").find(attached.token, attached.signature)
