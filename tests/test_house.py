"""The two houses: the core never imports the nodes or ComfyUI and needs neither; every file is plain and short."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE, NODES, TESTS = ROOT / "sparsedit_core", ROOT / "nodes", ROOT / "tests"

CORE_IMPORTS = {"torch", "safetensors", "einops", "numpy", "PIL", "tqdm"}
COMFYUI = {"comfy", "comfy_api", "comfy_api_nodes", "comfy_execution", "comfy_extras", "execution", "folder_paths"}
COMFYUI |= {"latent_preview", "node_helpers", "nodes", "server"}

# what registry checkers refuse anywhere in a pack; in two parts, so that this file does not hold them
FORBIDDEN = [f"nn.{layer}(" for layer in ("Linear", "LayerNorm", "Conv2d", "Embedding")]
FORBIDDEN += ["torch." + name for name in ("autocast(", "amp.autocast", "cuda.amp.autocast")] + [".cu" + "da("]
CORE_LINES, TEST_LINES = 300, 400


def python_files(*folders: Path) -> list[Path]:
    files = [path for folder in folders for path in folder.rglob("*.py") if "__pycache__" not in path.parts]
    return sorted([*files, *ROOT.glob("*.py")])


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, module) of every import statement of a file, those inside functions too; level 0 is absolute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_core_imports_only_what_it_may() -> None:
    wrong = []
    for path in python_files(CORE):
        if path.parent == ROOT:
            continue
        depth = len(path.relative_to(CORE).parts)
        for level, module in imports(path):
            first = module.partition(".")[0]
            if level > depth:
                wrong.append(f"{named(path)} leaves the core: {'.' * level}{module}")
            elif level == 0 and first not in CORE_IMPORTS and first not in sys.stdlib_module_names:
                wrong.append(f"{named(path)} imports {module}")
    assert not wrong, wrong


def test_core_and_nodes_use_relative_imports_for_each_other() -> None:
    for path in python_files(CORE, NODES):
        for level, module in imports(path):
            first = module.partition(".")[0]
            assert not (level == 0 and first == "sparsedit_core"), f"{named(path)} imports {module} absolutely"
            if path.is_relative_to(CORE):
                assert first not in COMFYUI or level > 0, f"{named(path)} imports ComfyUI's {module}"


def run_python(code: str) -> str:
    """Run code in a fresh interpreter of this environment, outside the checkout, and return what it printed."""
    lines = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, cwd=tempfile.gettempdir(), timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_core_loads_no_comfyui_and_no_training() -> None:
    loaded = run_python("import sparsedit_core\nprint('\\n'.join(sys.modules))").split()
    assert not {name.partition(".")[0] for name in loaded} & COMFYUI
    assert not [name for name in loaded if name.startswith(("sparsedit_core.train", "sparsedit_core.cli", "nodes"))]


def test_the_public_names_of_the_contract_exist() -> None:
    names = ("load_checkpoint", "save_checkpoint", "SegmentLayout", "PruningSchedule", "convert_dense", "macs")
    run_python("import sparsedit_core as sd\n" + "\n".join(f"sd.{name}" for name in names))


@pytest.mark.parametrize("path", python_files(CORE, NODES, TESTS), ids=named)
def test_a_file_is_plain_short_and_passes_registry_checkers(path: Path) -> None:
    content = path.read_bytes()
    assert content.isascii(), "non-ASCII characters"
    assert b"\r" not in content, "carriage returns"
    text = content.decode()
    assert not [word for word in FORBIDDEN if word in text]
    limit = TEST_LINES if path.is_relative_to(TESTS) else CORE_LINES
    assert len(text.splitlines()) <= limit, f"more than {limit} lines"


@pytest.mark.parametrize("path", python_files(CORE, NODES), ids=named)
def test_no_run_time_code_is_made_from_text(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"exec", "eval"}, f"{node.func.id} in line {node.lineno}"


def test_only_the_command_line_prints() -> None:
    for path in python_files(CORE, NODES):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prints = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]
        assert not prints or "cli" in path.parts, f"{named(path)} prints in lines {prints}"
