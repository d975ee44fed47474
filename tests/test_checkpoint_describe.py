"""A checkpoint is described without its weights: what read_checkpoint says, with no tensor put together."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from checkpoint_files import save, small_model

from sparsedit_core import PruningSchedule
from sparsedit_core.checkpoint import (
    CheckpointError,
    Loaded,
    describe_checkpoint,
    flat_to_diffusers,
    is_mapped,
    load,
    read_checkpoint,
    save_checkpoint,
)
from sparsedit_core.checkpoint.records import Description

FACTS = {"num_heads": 4}


def description(path: Path) -> dict[str, object]:
    """What reading the whole file says of it."""
    found = read_checkpoint(path, **FACTS)
    return {item.name: getattr(found, item.name) for item in fields(Description)}


def files(folder: Path) -> dict[str, Path]:
    """A small model in every container, and one whose tensors are joined when it is read."""
    state = small_model().state_dict()
    sparse = small_model("1+1x[1,1,1,0]+0")
    own = folder / "own.safetensors"
    save_checkpoint(own, Loaded(config=sparse.config, schedule=PruningSchedule(0.8, 0.5), model=sparse))
    return {
        "own": own,
        "zip": save(folder / "new.pt", state),
        "pickle": save(folder / "old.pt", state, legacy=True),
        "diffusers": save(folder / "diffusers.pt", flat_to_diffusers(state)),
    }


@pytest.mark.parametrize("kind", ["own", "zip", "pickle", "diffusers"])
def test_the_description_is_that_of_the_whole_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files(tmp_path)[kind]
    wanted = description(path)
    monkeypatch.delattr(load, "_assemble")  # weights would be put together with it
    found = describe_checkpoint(path, **FACTS)
    assert {item.name: getattr(found, item.name) for item in fields(Description)} == wanted
    assert is_mapped(path) == (kind != "pickle")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.pt"
    text.write_text("hello", encoding="utf-8")
    for ask in (describe_checkpoint, is_mapped):
        with pytest.raises(CheckpointError, match="text file"):
            ask(text)
