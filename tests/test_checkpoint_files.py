"""Files that are no checkpoint, or not a safe one: one sentence each, and nothing in them runs."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import save, small_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsedit_core.checkpoint import CheckpointError, load_checkpoint, read_checkpoint, save_checkpoint


class Reduces:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def refusal(path: Path, **keywords: Any) -> str:
    """The message of the error, which is one line and names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


CONTENTS = {
    "empty": (b"", "is empty"),
    "text": (b"hello\nthis is text\n", "a text file"),
    "json": (b'{"weights": 1}', "a text file"),
    "html": (b"\n<!DOCTYPE html><html><body>login</body></html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 12\n", "git-lfs pointer"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
    "noise": (bytes(range(1, 256)) * 20, "not a checkpoint"),
    "half pickle": (b"\x80\x02}q", "truncated"),
    "header beyond the end": (struct.pack("<Q", 5000) + b'{"a":', "truncated safetensors"),
    "string of a million TB": (b"\x80\x04\x8e" + struct.pack("<Q", 2**60), "truncated"),
    "broken header": (struct.pack("<Q", 10) + b'{"a": nul}' + b"0" * 9, "damaged"),
    "no tensors": (struct.pack("<Q", 2) + b"{}", "no tensors"),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", CONTENTS)
def test_files_that_are_no_checkpoint(name: str, suffix: str, tmp_path: Path) -> None:
    content, words = CONTENTS[name]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    assert words in refusal(path)


def test_folder_and_absent_file(tmp_path: Path) -> None:
    save(tmp_path / "inside.pt", {})
    assert "for example inside.pt" in refusal(tmp_path)
    assert "no file" in refusal(tmp_path / "absent.pt")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("part", [0.001, 0.3, 0.9, 0.999])
def test_truncated_pickles(part: float, legacy: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", small_model().state_dict(), legacy=legacy)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "truncated" in refusal(path, num_heads=4)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.999])
def test_truncated_safetensors(part: float, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, small_model())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "truncated" in refusal(path)


def test_renamed_files_load_by_content(tmp_path: Path) -> None:
    model = small_model()
    save_checkpoint(tmp_path / "own.safetensors", model)
    os.replace(tmp_path / "own.safetensors", tmp_path / "own.pt")
    save(tmp_path / "pickle.safetensors", model.state_dict())
    save(tmp_path / "old.safetensors", model.state_dict(), legacy=True)
    for name in ("own.pt", "pickle.safetensors", "old.safetensors"):
        state = read_checkpoint(tmp_path / name, num_heads=4).state
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_a_compressed_archive_is_inflated_not_mapped(tmp_path: Path) -> None:
    model = small_model()
    plain = save(tmp_path / "plain.pt", model.state_dict())
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    state = read_checkpoint(tmp_path / "model.pt", num_heads=4).state
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


HOSTILE = {
    "system": (os.system, ("exit 1",), f"{os.name if os.name == 'nt' else 'posix'}.system"),
    "builtin": (eval, ("1",), "builtins.eval"),
    "attribute": (getattr, (1, "real"), "builtins.getattr"),
    "import": (__import__, ("os",), "builtins.__import__"),
    "torch": (torch.load, ("other.pt",), "torch.serialization.load"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_args_are_refused_by_name(name: str, legacy: bool, tmp_path: Path) -> None:
    function, arguments, named = HOSTILE[name]
    content = {"ema": small_model().state_dict(), "args": Reduces(function, *arguments)}
    path = save(tmp_path / "model.pt", content, legacy=legacy)
    assert f"names {named}" in refusal(path, num_heads=4)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_plain_pickles_never_run(protocol: int, tmp_path: Path) -> None:
    path, witness = tmp_path / "model.pt", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Reduces(os.mkdir, str(witness)), protocol=protocol))
    assert "mkdir" in refusal(path)
    assert not witness.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_path_in_the_args_is_refused_by_name(legacy: bool, tmp_path: Path) -> None:
    content = {"ema": small_model().state_dict(), "args": argparse.Namespace(results=Path("results"))}
    message = refusal(save(tmp_path / "model.pt", content, legacy=legacy), num_heads=4)
    assert type(Path()).__name__ in message


def test_namespace_is_allowed_only_during_the_call(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", {"ema": small_model().state_dict(), "args": argparse.Namespace(num_heads=4)})
    assert load_checkpoint(path).config.num_heads == 4
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_namespace_stays_allowed_where_another_allowed_it(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", {"ema": small_model().state_dict(), "args": argparse.Namespace(num_heads=4)})
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        load_checkpoint(path)
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    finally:
        others = [item for item in torch.serialization.get_safe_globals() if item is not argparse.Namespace]
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def test_a_legacy_file_with_an_endless_string_is_damaged(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", {"weight": torch.zeros(2)}, legacy=True)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    assert path.read_bytes().startswith(magic)
    path.write_bytes(magic + b"\x80\x04\x8e" + struct.pack("<Q", 2**60))
    assert "damaged" in refusal(path)


def test_other_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    assert "torch.save did not write" in refusal(tmp_path / "arrays.npz")
    torch.jit.save(torch.jit.script(torch.nn.SiLU()), tmp_path / "program.pt")
    assert "TorchScript" in refusal(tmp_path / "program.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [(torch.zeros(3), "holds a Tensor"), ([1], "holds a list"), ({"a": 1}, "no tensors"), ({}, "no tensors")],
)
def test_pickles_without_a_state_dict(content: Any, words: str, tmp_path: Path) -> None:
    assert words in refusal(save(tmp_path / "model.pt", content))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**20), st.binary(min_size=1, max_size=16), st.sampled_from([".pt", ".safetensors", "legacy"]))
def test_damaged_bytes_load_or_give_the_one_error(tmp_path: Path, where: int, what: bytes, kind: str) -> None:
    path = tmp_path / ("model.safetensors" if kind == ".safetensors" else "model.pt")
    if kind == ".safetensors":
        save_checkpoint(path, small_model())
    else:
        save(path, small_model().state_dict(), legacy=kind == "legacy")
    data = bytearray(path.read_bytes())
    start = where % min(len(data), 6000)  # headers, pickles and the first tensors
    data[start : start + len(what)] = what
    path.unlink()
    path.write_bytes(data)
    error = None
    try:
        load_checkpoint(path, num_heads=4)
    except CheckpointError as caught:
        error = caught
    assert "\n" not in str(error)
