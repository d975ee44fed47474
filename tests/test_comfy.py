"""Everything in comfy_inprocess/ inside every ComfyUI that is found, each in a process of its own Python."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest
from comfy_env import ComfyUI, find_comfyui

FOLDER = Path(__file__).resolve().parent / "comfy_inprocess"
SECONDS = 1800
INSTALLED = find_comfyui()

pytestmark = pytest.mark.comfy


def checks() -> list[str]:
    """``file::check_name`` of all checks, read off the files without importing them."""
    names = []
    for file in sorted(FOLDER.glob("*_checks.py")):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        names += [f"{file.stem}::{item.name}" for item in body if is_check(item)]
    return names


def is_check(item: ast.stmt) -> bool:
    return isinstance(item, ast.FunctionDef) and item.name.startswith("check_")


@cache
def results(comfy: ComfyUI, modules: tuple[str, ...], folder: Path) -> dict[str, str]:
    """The outcomes of check files in one ComfyUI; one process for all, because starting it takes the longest."""
    result = folder / f"{comfy.version}.json"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    files = [f"{module}.py" for module in modules]
    command = [comfy.python, str(FOLDER / "run.py"), str(comfy.root), str(result), *files]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    outcomes: dict[str, str] = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    outcomes["end"] = f"exit status {done.returncode}\n{done.stderr[-3000:]}"
    return outcomes


def selected(session: pytest.Session) -> tuple[str, ...]:
    """The check files that the tests of this session are about."""
    names = (item.callspec.params.get("name", "") for item in session.items if hasattr(item, "callspec"))
    known = {name.partition("::")[0] for name in checks()}
    return tuple(sorted({str(name).partition("::")[0] for name in names} & known))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comfy")


@pytest.mark.skipif(not INSTALLED, reason="no ComfyUI found; set COMFYUI_PATH to a checkout to run these")
@pytest.mark.parametrize("name", checks())
@pytest.mark.parametrize("comfy", INSTALLED, ids=str)
def test_in_comfyui(comfy: ComfyUI, name: str, folder: Path, request: pytest.FixtureRequest) -> None:
    outcomes = results(comfy, selected(request.session), folder)
    outcome = outcomes.get(name, f"the check did not run: {outcomes['end']}")
    if outcome.startswith("skip: "):
        pytest.skip(outcome.removeprefix("skip: "))
    assert not outcome, outcome
