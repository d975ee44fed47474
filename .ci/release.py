"""Builds the archive that the registry would take and tries it: ``python .ci/release.py [FOLDER]``, by default build/.

The archive holds the committed files of HEAD that .comfyignore leaves in, with the same bytes on every machine. It is
unpacked as the only custom node of a fresh base directory, in every ComfyUI found, where the optional libraries of
this project are hidden; all nodes must register. The last line is the verdict, the exit status 1 if anything failed.
"""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from comfy_env import ComfyUI, find_comfyui  # noqa: E402

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
NEEDED = ("__init__.py", "pyproject.toml", "LICENSE", "README.md", "web/images/icon.png", "web/images/banner.png")
HIDDEN = ("accelerate", "diffusers", "tensorboard", "pytest", "hypothesis")
LIMIT = 20 * 2**20
PROBE = """
import asyncio, json, sys
root, base, hidden = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sys.argv[1:] = ["--cpu", "--base-directory", base]
sys.path.insert(0, root)
for name in hidden:
    sys.modules[name] = None  # importing it raises ImportError, as where it is not installed
import comfy.options
comfy.options.enable_args_parsing()
import nodes
before = set(nodes.NODE_CLASS_MAPPINGS)
loaded = asyncio.run(nodes.load_custom_node(base + "/custom_nodes/sparsedit"))
print("RESULT " + json.dumps([bool(loaded), sorted(set(nodes.NODE_CLASS_MAPPINGS) - before)]))
"""


class Wrong(Exception):
    """Why the release must not go out."""


def git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout


def version() -> str:
    """The version in pyproject.toml; the package must say the same."""
    line = next(line for line in git("show", "HEAD:pyproject.toml").decode().splitlines() if line.startswith("version"))
    number = line.split('"')[1]
    module = ast.parse(git("show", "HEAD:sparsedit_core/__init__.py"))
    said = [ast.literal_eval(item.value) for item in module.body if isinstance(item, ast.Assign)
            and [ast.unparse(target) for target in item.targets] == ["__version__"]]  # fmt: skip
    if said != [number]:
        raise Wrong(f"pyproject.toml has version {number}, sparsedit_core.__version__ is {said}; make them equal")
    if f"## {number}" not in git("show", "HEAD:CHANGELOG.md").decode():
        raise Wrong(f"CHANGELOG.md has no section '## {number}'; write it")
    return number


def ignored(name: str, patterns: list[str]) -> bool:
    """Whether .comfyignore leaves a file out: 'folder/' anywhere in the path, or a name with wildcards."""
    parts = name.split("/")
    for pattern in patterns:
        stem = pattern.rstrip("/")
        if "/" in stem or stem.startswith("!"):
            raise Wrong(f"this script reads only plain names in .comfyignore, not {pattern!r}")
        if any(fnmatch.fnmatchcase(part, stem) for part in (parts[:-1] if pattern.endswith("/") else parts)):
            return True
    return False


def build(archive: Path) -> list[str]:
    """Write the zip; the names in it."""
    lines = git("show", "HEAD:.comfyignore").decode().splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    names = [name for name in git("ls-tree", "-rz", "--name-only", "HEAD").decode().split("\0") if name]
    names = sorted(name for name in names if not ignored(name, patterns))
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
            file.writestr(entry, git("show", f"HEAD:{name}"))
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise Wrong(f"the archive lacks {missing}; commit them, or mend .comfyignore")
    if archive.stat().st_size > LIMIT:
        raise Wrong(f"the archive has {archive.stat().st_size} bytes, more than {LIMIT}; see what is in it")
    return names


def try_it(archive: Path, comfy: ComfyUI) -> int:
    """Unpack into a fresh base directory and load it as ComfyUI does; the number of nodes registered."""
    with tempfile.TemporaryDirectory(prefix="sparsedit-release-") as base:
        with zipfile.ZipFile(archive) as file:
            file.extractall(Path(base) / "custom_nodes" / "sparsedit")
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [comfy.python, "-c", PROBE, str(comfy.root), base, json.dumps(HIDDEN)]
        done = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True, timeout=600)
    result = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not result:
        raise Wrong(f"ComfyUI {comfy} ended while loading the pack:\n{done.stderr[-2000:]}")
    loaded, names = json.loads(result[0].removeprefix("RESULT "))
    wanted = sorted(json.loads(git("show", "HEAD:tests/node_ids.json")))
    if not loaded or names != wanted:
        raise Wrong(f"ComfyUI {comfy} registered {names}, expected {wanted}:\n{done.stderr[-2000:]}")
    return len(names)


def main(folder: Path) -> None:
    """Build, build again and compare, try, and say what came of it."""
    try:
        number = version()
        archive = folder / f"sparsedit-{number}.zip"
        names = build(archive)
        first = archive.read_bytes()
        build(archive)
        if archive.read_bytes() != first:
            raise Wrong("two builds differ")
        print(f"{archive}: {len(names)} files, {len(first)} bytes")
        found = find_comfyui()
        if not found:
            raise Wrong("no ComfyUI found to try it in; set COMFYUI_PATH to a checkout")
        for comfy in found:
            print(f"ComfyUI {comfy}: {try_it(archive, comfy)} nodes registered without the extras")
    except Wrong as reason:
        sys.exit(f"NOT READY: {reason}")
    print(f"READY: sparsedit {number}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build")
