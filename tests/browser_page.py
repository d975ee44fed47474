"""A page of ComfyUI in a real browser: what the tests do there, in either renderer."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
MILLISECONDS = 90_000  # a busy machine is no failure
NODE = "window.app.graph.nodes.find(n => n.type === kind)"


def chromium() -> str | None:
    """The browser to drive: ``$CHROMIUM_PATH`` or one of the usual names."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM_PATH") or next((path for name in names if (path := shutil.which(name))), None)


def why_not() -> str | None:
    """Why no browser can be driven here, or ``None``."""
    if find_spec("playwright") is None:
        return "playwright is not installed"
    return None if chromium() else "no chromium found; set CHROMIUM_PATH to one to run these"


class Canvas:
    """ComfyUI's page; every question about the graph is asked there."""

    def __init__(self, page: Any, port: int, vue: bool) -> None:
        self.page, self.port, self.vue = page, port, vue
        self.errors: list[str] = []
        page.set_default_timeout(MILLISECONDS)
        page.on("pageerror", lambda error: self._note(f"{error}\n{error.stack}"))
        page.on("console", self._listen)
        settings = {"Comfy.VueNodes.Enabled": vue, "Comfy.TutorialCompleted": True, "Comfy.Workflow.Persist": True}
        body = json.dumps(settings).encode()
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/settings", body)):
            self.open()

    def _listen(self, message: Any) -> None:
        ours = "/extensions/sparsedit" in (message.location.get("url") or "") or "sparsedit" in message.text
        if message.type == "error" and ours:
            self.errors.append(message.text)

    def _note(self, trace: str) -> None:
        """Keep errors that our scripts have to do with; ComfyUI has some of its own."""
        if "/sparsedit/" in trace:
            self.errors.append(trace)

    def open(self) -> None:
        """Load or reload the page."""
        self.page.goto(f"http://127.0.0.1:{self.port}/")
        self.page.wait_for_function(
            # until the last workflow is there again
            "kind => window.LiteGraph?.registered_node_types[kind] && window.app?.graph?.nodes.length"
            " && window.app.extensionManager?.workflow?.activeWorkflow?.changeTracker",
            arg="SparseDiTPruningSchedule",
        )
        self.settle()

    def load(self, workflow: dict[str, Any]) -> None:
        """Open a workflow, as dropping its file does."""
        self.page.evaluate("w => window.app.loadGraphData(w)", workflow)
        count = len(workflow["nodes"])
        self.page.wait_for_function("n => window.app.graph.nodes.length === n", arg=count)

    def load_file(self, file: Path) -> None:
        """Open a workflow file."""
        self.load(json.loads(file.read_text(encoding="utf-8")))

    def ask(self, script: str, arg: Any = None) -> Any:
        """The value of a function of the page."""
        return self.page.evaluate(script, arg)

    def prompt(self) -> Any:
        """What would be queued now."""
        return self.ask("async () => (await window.app.graphToPrompt()).output")

    def workflow(self) -> Any:
        """What would be saved now."""
        return self.ask("async () => (await window.app.graphToPrompt()).workflow")

    def widget(self, kind: str, name: str) -> Any:
        """The value of a widget of the first node of a kind."""
        return self.ask(f"([kind, name]) => {NODE}.widgets.find(w => w.name === name).value", [kind, name])

    def set_widget(self, kind: str, name: str, value: Any) -> None:
        """Set it as the program does when a workflow is loaded."""
        script = f"([kind, name, value]) => {{ {NODE}.widgets.find(w => w.name === name).value = value }}"
        self.ask(script, [kind, name, value])

    def wait_widget(self, kind: str, name: str, value: Any) -> None:
        """Until a widget has a value."""
        script = f"([kind, name, value]) => {NODE}?.widgets.find(w => w.name === name)?.value === value"
        self.page.wait_for_function(script, arg=[kind, name, value])

    def show(self, kind: str, scale: float = 1.0) -> None:
        """Bring the first node of a kind to the left of the view."""
        self.ask(
            f"([kind, scale]) => {{ const n = {NODE}, ds = window.app.canvas.ds; ds.scale = scale;"
            " ds.offset[0] = 120 / scale - n.pos[0]; ds.offset[1] = 120 / scale - n.pos[1];"
            " window.app.canvas.setDirty(true, true) }",
            [kind, scale],
        )
        self.settle()

    def settle(self) -> None:
        """Two frames later."""
        self.ask("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r())))")

    def drag_slider(self, kind: str, name: str, share: float) -> None:
        """Drag a slider of the first node of a kind to a share of its width, with the mouse."""
        if self.vue:
            track = self.page.locator(f"[data-node-id='{self.number(kind)}']").get_by_label(name, exact=True)
            box = (track if track.count() else self._vue_slider(kind, name)).first.bounding_box()
        else:
            box = self._lite_slider(kind, name)
        assert box, f"no slider {name} on the page"
        y = box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + 0.5 * box["width"], y)
        self.page.mouse.down()
        for part in (0.6, 0.4, share):
            self.page.mouse.move(box["x"] + part * box["width"], y)
        self.page.mouse.up()

    def _vue_slider(self, kind: str, name: str) -> Any:
        node = self.page.locator(f"[data-node-id='{self.number(kind)}']")
        row = node.locator(".lg-node-widget, [data-testid='node-widget']").filter(has_text=name)
        return row.locator("[data-slider-impl], [role='slider'] >> xpath=ancestor::*[contains(@class,'slider')][1]")

    def _lite_slider(self, kind: str, name: str) -> dict[str, float]:
        found: dict[str, float] = self.ask(
            f"([kind, name]) => {{ const n = {NODE}, w = n.widgets.find(w => w.name === name);"
            " const { scale, offset } = window.app.canvas.ds, box = window.app.canvas.canvas.getBoundingClientRect();"
            " const place = (v, i) => (v + offset[i]) * scale;"
            " return { x: box.x + place(n.pos[0] + 15, 0), y: box.y + place(n.pos[1] + (w.last_y ?? w.y), 1),"
            " width: (n.size[0] - 30) * scale, height: 20 * scale } }",
            [kind, name],
        )
        return found

    def number(self, kind: str) -> int:
        """The id of the first node of a kind."""
        return int(self.ask(f"kind => {NODE}.id", kind))

    def editor(self) -> Any:
        """The schedule editor's element."""
        return self.page.locator("[data-sparsedit='editor']").first

    def wait_editor(self, state: str) -> None:
        """Until the editor is ``ready``, in ``error`` or ``away``."""
        self.page.wait_for_selector(f"[data-sparsedit='editor'][data-state='{state}']")

    def cost(self) -> str:
        """The line under the picture."""
        return str(self.page.locator("[data-sparsedit='cost']").first.inner_text())

    def wait_cost_other_than(self, before: str) -> None:
        """Until that line has changed."""
        script = "([name, before]) => ![null, before].includes(document.querySelector(name)?.innerText ?? null)"
        self.page.wait_for_function(script, arg=["[data-sparsedit='cost']", before])

    def picture(self) -> str:
        """The editor's picture as a data URL."""
        return str(self.ask("() => document.querySelector('[data-sparsedit=canvas]').toDataURL()"))

    def click_title(self, kind: str) -> None:
        """Click the title of the first node of a kind, which selects it and ends an edit."""
        self.ask("() => document.activeElement?.blur()")
        x, y = self.ask(
            f"kind => {{ const n = {NODE}, {{ scale, offset }} = window.app.canvas.ds,"
            " box = window.app.canvas.canvas.getBoundingClientRect();"
            " return [box.x + (n.pos[0] + 180 + offset[0]) * scale, box.y + (n.pos[1] - 15 + offset[1]) * scale] }",
            kind,
        )
        self.page.mouse.click(x, y)
        self.page.wait_for_function("() => Object.keys(window.app.canvas.selected_nodes).length === 1")

    def screenshot(self, name: str) -> None:
        """Into the folder of ``$SPARSEDIT_SHOTS``, if it is given."""
        if folder := os.environ.get("SPARSEDIT_SHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"{name}_{'vue' if self.vue else 'litegraph'}.png"))
