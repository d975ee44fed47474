"""The live heat map on SparseDiT Cache Plan: it follows the slider, waits for what only a run knows, tells errors."""

from __future__ import annotations

from typing import Any

from browser_page import Canvas
from test_browser import LOADER, browser, canvas, pytestmark, servers  # noqa: F401
from test_browser_told import RUN

NODE = "SparseDiTCachePlan"
FOUND = f"window.app.graph.nodes.find(n => n.type === '{NODE}')"
VIEW = f"{FOUND}?.widgets.find(w => w.name === 'view')?.element"
WORDS = f"() => {VIEW}?.children[1].textContent ?? ''"
PICTURE = f"() => {VIEW}?.children[0].naturalWidth ?? 0"
STATE = f"state => {VIEW}?.dataset.state === state"
GRAPH: dict[str, Any] = {
    "1": {"class_type": LOADER, "inputs": {"checkpoint": "bundled: dense", "weight_dtype": "default"}},
    "2": {
        "class_type": NODE,
        "inputs": {"model": ["1", 0], "source": "rule: toca", "budget": 0.5, "steps": 20, "scheduler": "simple"},
    },
    "3": {
        "class_type": "SparseDiTTokenCache",
        "inputs": {"model": ["1", 0], "plan": ["2", 0], "memory_limit": 0, "start_percent": 0, "end_percent": 1},
    },
    "4": {"class_type": "SparseDiTClassLabel", "inputs": {"model": ["1", 0], "classes": "1"}},
    "5": {"class_type": "EmptyChromaRadianceLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "6": {
        "class_type": "SparseDiTCalibrate",
        "inputs": {
            "model": ["1", 0], "positive": ["4", 0], "negative": ["4", 1], "latent_image": ["5", 0], "seed": 1,
            "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "budget": 0.6,
            "trials": 1, "selector": "age", "partly": False,
        },
    },
    "7": {"class_type": "PreviewImage", "inputs": {"images": ["2", 1]}},
}  # fmt: skip


def load(page: Canvas, *, calibrated: bool) -> None:
    """The graph, the plan by rule or from the calibration."""
    graph = {key: {**node, "inputs": dict(node["inputs"])} for key, node in GRAPH.items()}
    if calibrated:
        graph["2"]["inputs"]["plan"] = ["6", 0]
    page.ask("graph => window.app.loadApiJson(graph, 'plan')", graph)
    page.page.wait_for_function(STATE, arg="ready")


def wait_words(page: Canvas, part: str) -> str:
    page.page.wait_for_function(f"part => ({WORDS})().includes(part)", arg=part)
    return str(page.ask(WORDS))


def test_the_picture_follows_the_slider_of_a_rule(canvas: Canvas) -> None:  # noqa: F811
    canvas.page.unroute_all()
    load(canvas, calibrated=False)
    wait_words(canvas, "50.0 % of dense MACs")
    canvas.page.wait_for_function(f"() => ({PICTURE})() === 900")
    canvas.show(NODE)
    canvas.screenshot("plan_rule")
    canvas.set_widget(NODE, "budget", 0.8)
    wait_words(canvas, "80.0 % of dense MACs")
    canvas.set_widget(NODE, "budget", 0.05)
    canvas.page.wait_for_function(STATE, arg="error")
    assert "give at least" in canvas.ask(WORDS)
    canvas.set_widget(NODE, "budget", 0.5)
    wait_words(canvas, "50.0 % of dense MACs")
    inputs = canvas.prompt()["2"]["inputs"]
    assert set(inputs) == {"model", "source", "budget", "steps", "scheduler"}, "the picture is no input"
    assert not canvas.errors


def test_a_calibration_is_known_after_a_run(canvas: Canvas) -> None:  # noqa: F811
    canvas.page.unroute_all()
    load(canvas, calibrated=True)
    wait_words(canvas, "run the workflow once")
    canvas.set_widget(NODE, "budget", 0.6)
    assert canvas.ask(RUN) == "success"
    first = wait_words(canvas, "% of dense MACs")
    canvas.set_widget(NODE, "budget", 0.45)
    canvas.page.wait_for_function(f"before => ({WORDS})() !== before", arg=first)
    share = float(str(canvas.ask(WORDS)).split(" %")[0])
    assert share <= 45.0
    canvas.show(NODE)
    canvas.screenshot("plan_calibrated")
    assert not canvas.errors
