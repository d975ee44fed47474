"""A picture saved by SparseDiT Save Image, dropped on ComfyUI's page: the graph is back exactly, in both renderers."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from browser_page import Canvas
from PIL import Image
from test_browser import QUICKSTART, SCHEDULE, browser, canvas, pytestmark, servers  # noqa: F401

DROP = """async ([text, name]) => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  const options = { dataTransfer: data, bubbles: true, cancelable: true, clientX: 30, clientY: 900 };
  for (const kind of ["dragenter", "dragover", "drop"])
    window.app.canvas.canvas.dispatchEvent(new DragEvent(kind, options));
}"""
SAVE = """() => {
  const g = window.app.graph, find = kind => g.nodes.find(n => n.type === kind);
  const node = window.LiteGraph.createNode("SparseDiTSaveImage");
  g.add(node);
  node.pos = [60, 1300];
  const slot = name => node.inputs.findIndex(i => i.name === name), report = find("SparseDiTReport");
  find("VAEDecode").connect(0, node, slot("images"));
  report.connect(report.outputs.findIndex(o => o.name === "json"), node, slot("report"));
}"""
RUN = """() => new Promise((done, fail) => {
  const { api } = window.app;
  api.addEventListener("execution_success", () => done(), { once: true });
  api.addEventListener("execution_error", event => fail(new Error(JSON.stringify(event.detail))), { once: true });
  window.app.queuePrompt(0, 1);
})"""


def test_a_dropped_picture_brings_its_graph_back(canvas: Canvas) -> None:  # noqa: F811
    canvas.page.unroute_all()
    canvas.load_file(QUICKSTART)
    canvas.ask(SAVE)
    canvas.set_widget("KSampler", "steps", 2)
    canvas.set_widget(SCHEDULE, "rate_clean", 0.53)
    canvas.show(SCHEDULE)
    canvas.wait_editor("ready")
    after_the_run = canvas.ask("() => window.app.graph.nodes.find(n => n.type === 'KSampler').widgets[1].value")
    assert after_the_run == "fixed", "a seed that changes after the run could not be compared"
    before, prompt = graph(canvas.workflow()), canvas.prompt()
    canvas.ask(RUN)
    file = newest(Path(canvas.server.base) / "output" / "SparseDiT")
    with Image.open(file) as picture:
        assert {"prompt", "workflow"} < set(picture.info), sorted(picture.info)
        assert canvas.server.base.as_posix() not in picture.info["prompt"], "a shared picture tells where files lie"
    canvas.ask("() => window.app.graph.clear()")
    assert canvas.ask("() => window.app.graph.nodes.length") == 0
    canvas.ask(DROP, [base64.b64encode(file.read_bytes()).decode(), file.name])
    canvas.page.wait_for_function("n => window.app.graph.nodes.length === n", arg=len(before["nodes"]))
    assert graph(canvas.workflow()) == before
    assert canvas.prompt() == prompt
    canvas.show(SCHEDULE)
    canvas.wait_editor("ready")
    canvas.screenshot("dropped_picture")
    assert canvas.errors == []


def newest(folder: Path) -> Path:
    """The picture that the run has saved."""
    return max(folder.glob("picture_*.png"), key=lambda file: file.stat().st_mtime_ns)


def graph(workflow: dict[str, Any]) -> dict[str, Any]:
    """Nodes with their values and places, and links: all that a graph is but where the view is."""
    names = ("id", "type", "pos", "size", "mode", "title", "color", "widgets_values")
    nodes = {node["id"]: {name: node.get(name) for name in names} for node in workflow["nodes"]}
    return {"nodes": nodes, "links": sorted(workflow["links"])}
