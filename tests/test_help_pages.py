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


def test_linked_pictures_are_there_and_small() -> None:
    linked = {(name, link) for name, text in PAGES.items() for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)}
    assert linked
    for name, link in linked:
        picture = PACK / "web" / "docs" / link
        assert picture.is_file(), f"{name}: {link}"
        assert picture.stat().st_size < 120_000, link
    assert sum(picture.stat().st_size for picture in (PACK / "web" / "images").glob("help_*.png")) < 1_000_000
