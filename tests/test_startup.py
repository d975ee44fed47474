"""Loading the pack in a real ComfyUI imports no training code; how long it takes is .ci/startup.py's to say."""

from __future__ import annotations

import importlib.util

import pytest
from comfy_env import PACK, ComfyUI, find_comfyui

INSTALLED = find_comfyui()
SCRIPT = PACK / ".ci" / "startup.py"
spec = importlib.util.spec_from_file_location("startup", SCRIPT)
assert spec is not None
assert spec.loader is not None
startup = importlib.util.module_from_spec(spec)
spec.loader.exec_module(startup)


@pytest.mark.comfy
@pytest.mark.skipif(not INSTALLED, reason="no ComfyUI found; set COMFYUI_PATH to a checkout to run these")
@pytest.mark.parametrize("comfy", INSTALLED, ids=str)
def test_no_training_code(comfy: ComfyUI) -> None:
    modules = startup.measure(comfy)[2]
    assert any(name.endswith(".sparsedit_core.schedule") for name in modules)
    assert startup.training_code(modules) == []


@pytest.mark.parametrize(
    "name", ["pack.sparsedit_core.train", "pack.sparsedit_core.train.engine", "accelerate.utils", "diffusers"]
)
def test_training_code_is_known(name: str) -> None:
    assert startup.training_code([name]) == [name]


def test_other_modules_are_not_training_code() -> None:
    assert startup.training_code(["pack.sparsedit_core.train_facts", "pack.nodes", "acceleratedthing"]) == []
