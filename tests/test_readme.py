"""What the README says is there: its commands, its nodes, its Python."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sparsedit_core.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_are_one_line_each_and_install_without_e() -> None:
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert [line.rpartition(" && ")[2] for line in lines] == [".venv/bin/sparsedit demo", ".venv/bin/pytest"]
    assert not any(" -e" in line for line in lines)


def test_every_command_and_node_is_listed() -> None:
    commands = {module.__name__.rpartition(".")[2] for module in COMMANDS}
    assert {name for name in commands if f"`{name}" not in README} == set()
    ids = {
        match
        for path in (ROOT / "nodes").glob("*.py")
        for match in re.findall(r'node_id="(SparseDiT\w+)"', path.read_text(encoding="utf-8"))
    }
    assert len(ids) == 18
    assert {name for name in ids if f"`{name}`" not in README} == set()


def test_links_into_the_project_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    checks = "assert out.shape == (2, 3, 64, 64) and cost.total > 2e11"
    lines = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{example}\n{checks}"
    done = subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
