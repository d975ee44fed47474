"""A sentence of an error in a run is on the node at once, without a click, and gone after a run that went well."""

from __future__ import annotations

from typing import Any

import pytest
from browser_page import Canvas
from test_browser import LOADER, QUICKSTART, browser, canvas, pytestmark, servers  # noqa: F401
from test_browser_errors import DENSE, put_before_apply

RUN = """() => new Promise(done => {
  const { api } = window.app;
  api.addEventListener("execution_success", () => done("success"), { once: true });
  api.addEventListener("execution_error", event => done(event.detail.exception_message), { once: true });
  window.app.queuePrompt(0, 1);
})"""
TOLD = (
    "kind => window.app.graph.nodes.find(n => n.type === kind).widgets.find(w => w.name === '$$node-text-preview')"
    "?.value ?? ''"
)
CUT = """words => [...document.querySelectorAll(".dom-widget *, [data-node-id] *")]
  .filter(e => !e.children.length && e.textContent.includes(words)).map(e => e.closest(".overflow-y-auto"))
  .map(box => box.scrollHeight > box.clientHeight)"""
CASES = [
    ("SparseDiTConvert", {"layout": "2+4x[1,3,1,1]+2"}, {"layout": "1+1x[1,3,1,1]+1"}, "bottom + modules + top = 8"),
    (
        "SparseDiTPatchModel", {"checkpoint": "pixart-sparse.safetensors"}, {"checkpoint": "bundled: sparsedit"},
        "choose the sparse model that was trained from this one",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "wrong", "right", "words"), CASES, ids=[case[0] for case in CASES])
def test_an_error_is_read_on_its_node(
    canvas: Canvas, kind: str, wrong: dict[str, Any], right: dict[str, Any], words: str  # noqa: F811
) -> None:
    canvas.page.unroute_all()
    canvas.load_file(QUICKSTART)
    canvas.set_widget(LOADER, "checkpoint", DENSE)
    canvas.set_widget("KSampler", "steps", 2)
    put_before_apply(canvas, kind, wrong)
    assert words in canvas.ask(RUN)
    canvas.page.wait_for_function(f"([kind, words]) => ({TOLD})(kind).includes(words)", arg=[kind, words])
    canvas.show(kind)
    canvas.page.get_by_text(words).filter(visible=True).first.wait_for()
    assert canvas.ask(CUT, words) == [False]
    canvas.screenshot(f"told_{kind}")
    for name, value in right.items():
        canvas.set_widget(kind, name, value)
    assert canvas.ask(RUN) == "success"
    canvas.page.wait_for_function(f"kind => ({TOLD})(kind).trim() === ''", arg=kind)
    canvas.errors.clear()
