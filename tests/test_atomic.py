"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsedit_core.atomic import replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["model.bin"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ValueError])
def test_a_failure_leaves_the_old_file_and_no_other(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")

    def fails() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fails()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.bin"]


def test_a_failed_rename_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise PermissionError("file in use")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError), replacing(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.bin"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "model.bin") as temporary:
        temporary.write_bytes(b"new")
        temporary.chmod(0o600)  # as safetensors does
    assert (tmp_path / "model.bin").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    disk, folder = tmp_path / "disk", tmp_path / "models"
    disk.mkdir()
    folder.mkdir()
    (disk / "model.bin").write_bytes(b"old")
    try:
        (folder / "link.bin").symlink_to(disk / "model.bin")
    except OSError:
        pytest.skip("this system makes no symbolic links")
    with replacing(folder / "link.bin") as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == disk.resolve()  # a rename works only within one disk
    assert (folder / "link.bin").is_symlink()
    assert (disk / "model.bin").read_bytes() == b"new"
    assert (names(disk), names(folder)) == (["model.bin"], ["link.bin"])


def test_the_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("replace"), rename(*names))[1])
    with replacing(tmp_path / "model.bin") as temporary:
        temporary.write_bytes(b"new")
    assert steps == ["fsync", "replace"]
