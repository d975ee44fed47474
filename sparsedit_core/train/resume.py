"""From a run's objects to the tensors of a state, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .state import State, newest_state, remove_states, set_aside


def pack(model: nn.Module, average: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """Weights, averaged weights and the optimiser's moments under one flat set of names."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in entry.items()}
    return tensors


def unpack(tensors: Mapping[str, Tensor], model: nn.Module, average: nn.Module | None, optimizer: Any) -> None:
    """The inverse of :func:`pack`, into objects of the same shapes; ``average`` None leaves its part out."""
    model.load_state_dict(_under("model.", tensors))
    if average is not None:
        average.load_state_dict(_under("average.", tensors))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = value.clone()  # the optimiser keeps it, and it is mapped from a file
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})


def open_folder(folder: Path, resume: bool) -> State | None:
    """The state to go on from; a new run gets an empty folder.

    ``ValueError`` where a new run would throw away the states of one that did not end.
    """
    if resume:
        state = newest_state(folder)
        if state is not None:
            set_aside(folder, state.step)
        return state
    if folder.is_dir():
        try:
            before = newest_state(folder)
        except ValueError:  # nothing in there can be used
            before = None
        if before is not None and not before.facts.get("finished"):
            raise ValueError(
                f"{folder} holds step {before.step} of a run that has not ended; go on with it by --resume, or "
                "remove the folder to begin anew"
            )
        remove_states(folder)
    return None


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
