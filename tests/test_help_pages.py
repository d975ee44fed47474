"""Every node has a help page that names all its inputs."""

from __future__ import annotations

import re

import pytest
from comfy_env import PACK

PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (PACK / "web" / "docs").glob("*.md")}
SOURCES = {
    match[1]: text
    for text in (file.read_text(encoding="utf-8") for file in (PACK / "nodes").glob("*.py"))
    if (match := re.search(r'node_id="(\w+)"', text))
}


def test_every_node_has_a_page() -> None:
    assert set(PAGES) == set(SOURCES)


@pytest.mark.parametrize("node", sorted(SOURCES))
def test_the_page_names_every_input(node: str) -> None:
    names = re.findall(r'(?:\.Input|_slider)\(\s*"(\w+)"', SOURCES[node])
    assert names
    table = [line for line in PAGES[node].splitlines() if line.startswith("|")]
    for name in names:
        assert any(name in line.split("|")[1] for line in table), name
