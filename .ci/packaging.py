"""Run with the Python of a fresh installation: only ``sparsedit_core`` may be importable, and from its own folder."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

OUTSIDE = """
import importlib.util, sys
found = importlib.util.find_spec("sparsedit_core")
assert found is not None and found.origin.startswith(sys.prefix), f"sparsedit_core is {found}"
assert importlib.util.find_spec("nodes") is None, "a top-level module `nodes` would shadow ComfyUI's"
import sparsedit_core
assert not {"comfy", "nodes"} & set(sys.modules)
"""


def main() -> None:
    """Exit with a message at the first thing that is wrong."""
    files = metadata.files("sparsedit") or []
    tops = {file.parts[0] for file in files if ".." not in file.parts}
    extra = {name for name in tops if name != "sparsedit_core" and not name.endswith(".dist-info")}
    if extra:
        sys.exit(f"the installation also puts {sorted(extra)} at the top; see [tool.setuptools] in pyproject.toml")
    packed = {Path(*file.parts).as_posix() for file in files}
    models = ("dense", "sparsedit", "pixart-dense", "pixart-sparsedit", "judge")
    for name in ("py.typed", *(f"bundled/{model}.safetensors" for model in models)):
        if f"sparsedit_core/{name}" not in packed:
            sys.exit(f"sparsedit_core/{name} is missing from the installation; see package-data in pyproject.toml")
    with tempfile.TemporaryDirectory() as empty:
        subprocess.run([sys.executable, "-c", OUTSIDE], check=True, cwd=empty)
    if importlib.util.find_spec("torch") is None:
        sys.exit("torch is missing")


if __name__ == "__main__":
    main()
