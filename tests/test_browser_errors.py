"""Errors as a person meets them: the node is marked and the sentence can be read, in both renderers."""

from __future__ import annotations

from typing import Any

import pytest
from browser_page import Canvas
from test_browser import LOADER, QUICKSTART, SCHEDULE, browser, canvas, pytestmark, servers  # noqa: F401

DENSE = "bundled: dense"


def put_before_apply(canvas: Canvas, kind: str, values: dict[str, Any]) -> None:  # noqa: F811
    """A node between the loader and what takes its MODEL to follow the schedule, in a free place of the quickstart."""
    canvas.ask(
        "([kind, values]) => { const g = window.app.graph, find = t => g.nodes.find(n => n.type === t);"
        " const node = window.LiteGraph.createNode(kind); g.add(node); node.pos = [830, 880];"
        " for (const [name, value] of Object.entries(values)) node.widgets.find(w => w.name === name).value = value;"
        " find('SparseDiTLoadCheckpoint').connect(0, node, node.inputs.findIndex(i => i.name === 'model'));"
        " const apply = find('SparseDiTApplySchedule');"
        " node.connect(0, apply, apply.inputs.findIndex(i => i.name === 'model')) }",
        [kind, values],
    )


def missing_file(canvas: Canvas) -> None:  # noqa: F811
    canvas.set_widget(LOADER, "checkpoint", "gone.safetensors")


def wrong_family(canvas: Canvas) -> None:  # noqa: F811
    canvas.set_widget(LOADER, "checkpoint", DENSE)
    put_before_apply(canvas, "SparseDiTPatchModel", {"checkpoint": "pixart-sparse.safetensors"})


def impossible_layout(canvas: Canvas) -> None:  # noqa: F811
    canvas.set_widget(LOADER, "checkpoint", DENSE)
    put_before_apply(canvas, "SparseDiTConvert", {"layout": "2+4x[1,3,1,1]+2"})


def reversed_rates(canvas: Canvas) -> None:  # noqa: F811
    canvas.set_widget(SCHEDULE, "rate_noise", 0.2)
    canvas.set_widget(SCHEDULE, "rate_clean", 0.6)


def schedule_on_a_dense_model(canvas: Canvas) -> None:  # noqa: F811
    canvas.set_widget(LOADER, "checkpoint", DENSE)


CASES = [
    (missing_file, LOADER, "put it there, or press R"),
    (wrong_family, "SparseDiTPatchModel", "choose the sparse model that was trained from this one"),
    (impossible_layout, "SparseDiTConvert", "has 28 blocks"),
    (reversed_rates, SCHEDULE, "is below rate_clean"),
    (schedule_on_a_dense_model, "SparseDiTApplySchedule", "has no sparse tokens to schedule"),
]


@pytest.mark.parametrize(("make", "kind", "words"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_the_sentence_is_read_and_the_node_is_marked(
    canvas: Canvas, make: Any, kind: str, words: str  # noqa: F811
) -> None:
    page = canvas.page
    canvas.load_file(QUICKSTART)
    make(canvas)
    canvas.show(LOADER, 0.6)
    page.locator("[data-testid='queue-button'], .comfyui-queue-button button").first.click()
    marked = (
        "kind => { const app = window.app, n = app.graph.nodes.find(n => n.type === kind), id = String(n.id);"
        " return Boolean(n.has_errors || app.lastNodeErrors?.[id]"
        " || String(app.lastExecutionError?.node_id) === id) }"
    )
    page.wait_for_function(marked, arg=kind)
    details = page.get_by_role("button", name="View details")
    if not page.get_by_text(words).filter(visible=True).count() and details.count():
        details.first.click()
    page.get_by_text(words).filter(visible=True).first.wait_for()
    canvas.screenshot(f"error_{make.__name__}")
    page.keyboard.press("Escape")
    canvas.errors.clear()
