"""The nodes in a real browser, in both of ComfyUI's renderers: what people do with sliders, presets and workflows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_ins
from browser_page import FLAGS, Canvas, chromium, why_not
from comfy_env import PACK, find_comfyui
from comfy_server import Server, base_folder

INSTALLED = find_comfyui()
REASON = "no ComfyUI found; set COMFYUI_PATH to a checkout to run these" if not INSTALLED else why_not()
TEMPLATES = sorted((PACK / "workflows").glob("*.json"))
QUICKSTART = PACK / "workflows" / "SparseDiT quickstart.json"
BOTH = PACK / "workflows" / "SparseDiT dense against sparse.json"
SCHEDULE, LOADER = "SparseDiTPruningSchedule", "SparseDiTLoadCheckpoint"
NEWEST = (0, 33)  # the first whose Vue renderer is looked at

pytestmark = [pytest.mark.comfy, pytest.mark.skipif(REASON is not None, reason=REASON or "")]


def kinds() -> list[Any]:
    """Every ComfyUI with LiteGraph, the newest with Nodes 2.0 too."""
    found = [pytest.param((comfy, False), id=f"{comfy}-litegraph") for comfy in INSTALLED]
    return [*found, *(pytest.param((comfy, True), id=f"{comfy}-vue") for comfy in INSTALLED[:1])]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function that gives the running server of a ComfyUI."""
    running: dict[str, Server] = {}

    def server(comfy: Any) -> Server:
        if comfy.version not in running:
            base = tmp_path_factory.mktemp("browser")
            stand_ins.bundled(base_folder(base) / "sparsedit_core" / "bundled")
            models = base / "models" / "diffusion_models"
            stand_ins.pixart(models / "pixart.pth", models / "pixart-sparse.safetensors")
            running[comfy.version] = Server(comfy, base).__enter__()
        return running[comfy.version]

    yield server
    for each in running.values():
        each.__exit__()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield made
        made.close()


@pytest.fixture(scope="module", params=kinds())
def canvas(request: pytest.FixtureRequest, servers: Any, browser: Any) -> Iterator[Canvas]:
    comfy, vue = request.param
    server = servers(comfy)
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    page = Canvas(context.new_page(), server.port, vue)
    page.server = server
    yield page
    context.close()


@pytest.fixture
def editing(canvas: Canvas) -> Canvas:
    """The quickstart, with the schedule node in view and its editor ready."""
    canvas.page.unroute_all()
    canvas.load_file(QUICKSTART)
    canvas.show(SCHEDULE)
    canvas.wait_editor("ready")
    return canvas


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.stem)
def test_every_template_opens_whole(canvas: Canvas, template: Path) -> None:
    canvas.load_file(template)
    unknown = canvas.ask("() => window.app.graph.nodes.map(n => n.type).filter(t => !window.LiteGraph"
                         ".registered_node_types[t] && !/Note/.test(t))")
    assert unknown == []
    canvas.settle()
    canvas.screenshot(f"template_{template.stem.replace(' ', '_')}")
    twin = json.loads((template.parent / "api" / template.name).read_text(encoding="utf-8"))
    sent = canvas.prompt()
    assert {n: node["class_type"] for n, node in sent.items()} == {n: node["class_type"] for n, node in twin.items()}
    for number, node in twin.items():
        assert {name: sent[number]["inputs"][name] for name in node["inputs"]} == node["inputs"], node["class_type"]
    assert canvas.errors == []


def test_a_dragged_slider_changes_curve_and_cost(editing: Canvas) -> None:
    cost, picture = editing.cost(), editing.picture()
    assert "% of dense MACs, at most" in cost
    before = editing.widget(SCHEDULE, "rate_clean")
    editing.drag_slider(SCHEDULE, "rate_clean", 0.3)
    editing.wait_cost_other_than(cost)
    assert editing.widget(SCHEDULE, "rate_clean") < before
    assert editing.picture() != picture
    editing.screenshot("dragged")
    sent = next(node for node in editing.prompt().values() if node["class_type"] == SCHEDULE)["inputs"]
    assert sent["rate_clean"] == editing.widget(SCHEDULE, "rate_clean")
    assert "editor" not in sent


def test_the_numbers_are_those_of_the_chosen_checkpoint(editing: Canvas) -> None:
    assert "bundled: sparsedit" in editing.cost()
    editing.set_widget(LOADER, "checkpoint", "bundled: dense")
    editing.page.locator("[data-sparsedit='message']").filter(has_text="dense model").wait_for()


def test_undo_and_redo(editing: Canvas) -> None:
    before = editing.widget(SCHEDULE, "rate_clean")
    editing.drag_slider(SCHEDULE, "rate_clean", 0.3)
    after = editing.widget(SCHEDULE, "rate_clean")
    assert after != before
    editing.click_title(SCHEDULE)
    editing.page.keyboard.press("Control+z")
    editing.wait_widget(SCHEDULE, "rate_clean", before)
    editing.page.keyboard.press("Control+y")
    editing.wait_widget(SCHEDULE, "rate_clean", after)
    editing.wait_editor("ready")


def test_a_copy_has_the_values_and_an_editor_of_its_own(editing: Canvas) -> None:
    editing.drag_slider(SCHEDULE, "rate_clean", 0.35)
    value = editing.widget(SCHEDULE, "rate_clean")
    editing.click_title(SCHEDULE)
    editing.page.keyboard.press("Control+c")
    editing.page.keyboard.press("Control+v")
    two = "kind => window.app.graph.nodes.filter(n => n.type === kind).length === 2"
    editing.page.wait_for_function(two, arg=SCHEDULE)
    values = editing.ask("kind => window.app.graph.nodes.filter(n => n.type === kind)"
                         ".map(n => n.widgets.find(w => w.name === 'rate_clean').value)", SCHEDULE)
    assert values == [value, value]
    editing.page.wait_for_function(
        "() => document.querySelectorAll('[data-sparsedit=editor][data-state=ready]').length === 2")


def test_reloading_the_page_finds_everything_as_it_was(editing: Canvas) -> None:
    editing.drag_slider(SCHEDULE, "rate_clean", 0.4)
    editing.click_title(SCHEDULE)
    value = editing.widget(SCHEDULE, "rate_clean")
    kept = (
        "([kind, value]) => [localStorage, sessionStorage].flatMap(s => Object.values(s)).some(text => {"
        " try { return JSON.parse(JSON.parse(text).data ?? text).nodes.some(n => n.type === kind"
        " && n.widgets_values[2] === value) } catch { return false } })"
    )
    editing.page.wait_for_function(kept, arg=[SCHEDULE, value])
    editing.open()
    editing.wait_widget(SCHEDULE, "rate_clean", value)
    editing.wait_editor("ready")


def test_points_by_mouse_and_keyboard(editing: Canvas) -> None:
    editing.set_widget(SCHEDULE, "rate_noise", 0.9)
    editing.set_widget(SCHEDULE, "rate_clean", 0.3)
    editing.set_widget(SCHEDULE, "curve", "custom")
    editing.page.wait_for_function("() => document.querySelector('[data-sparsedit=canvas]').tabIndex === 0")
    editing.page.wait_for_function("() => /of 16x16/.test(document.querySelector('[data-sparsedit=cost]').innerText)")
    drawn = editing.page.locator("[data-sparsedit='canvas']").first
    box = drawn.bounding_box()
    assert box

    def points() -> list[list[float]]:
        text = str(editing.widget(SCHEDULE, "points"))
        return [[float(number) for number in pair.split(":")] for pair in text.split(",") if pair.strip()]

    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    editing.page.mouse.click(*middle)
    assert len(points()) == 1
    (first,) = points()
    editing.page.mouse.move(*middle)
    editing.page.mouse.down()
    editing.page.mouse.move(middle[0] + 30, middle[1] + 10)
    editing.page.mouse.up()
    (moved,) = points()
    assert moved[0] < first[0]  # to the right is later, nearer to the image
    assert moved[1] > first[1]  # down is fewer tokens
    editing.page.keyboard.press("ArrowRight")
    assert points()[0][0] == pytest.approx(moved[0] - 0.01, abs=1e-9)
    editing.page.keyboard.press("Shift+ArrowUp")
    assert points()[0][1] == pytest.approx(moved[1] - 0.05, abs=1e-9)
    editing.page.keyboard.press("Enter")
    assert len(points()) == 2
    label = str(drawn.get_attribute("aria-label"))
    editing.page.keyboard.press("Tab")  # the points from noise to image, then on through the page
    assert str(drawn.get_attribute("aria-label")) != label
    editing.wait_editor("ready")
    editing.screenshot("points")
    editing.page.keyboard.press("Delete")
    assert len(points()) == 1
    assert editing.ask("() => window.app.graph.nodes.length") > 5  # the key deleted no node
    editing.page.keyboard.press("Backspace")
    assert points() == []


def test_a_preset_is_saved_found_after_a_reload_and_deleted(editing: Canvas) -> None:
    page = editing.page
    editing.drag_slider(SCHEDULE, "rate_clean", 0.25)
    value = editing.widget(SCHEDULE, "rate_clean")
    page.on("dialog", lambda dialog: dialog.accept("My test") if dialog.type == "prompt" else dialog.accept())
    page.locator("[data-sparsedit='preset-save']").first.click()
    answer(page, "My test")
    options = "kind => window.app.graph.nodes.find(n => n.type === kind)?.widgets[0].options.values"
    page.wait_for_function(f"{options}.includes('mine: My test')", arg=SCHEDULE)
    editing.open()
    editing.load_file(QUICKSTART)
    editing.show(SCHEDULE)
    page.wait_for_function(f"{options}.includes('mine: My test')", arg=SCHEDULE)
    assert editing.widget(SCHEDULE, "rate_clean") != value
    editing.set_widget(SCHEDULE, "preset", "mine: My test")
    editing.wait_widget(SCHEDULE, "rate_clean", value)
    editing.wait_widget(SCHEDULE, "preset", "custom")  # a shared workflow needs no preset file
    with page.expect_download() as download:
        page.locator("[data-sparsedit='preset-export']").first.click()
    assert json.loads(Path(download.value.path()).read_text("utf-8"))["schedule"]["rate_clean"] == pytest.approx(value)
    page.locator("[data-sparsedit='preset-delete']").first.click()
    answer(page, None)
    page.wait_for_function(f"{options}.every(name => !name.startsWith('mine'))", arg=SCHEDULE)


def answer(page: Any, words: str | None) -> None:
    """Answer ComfyUI's own dialog, where it has one."""
    dialog = page.locator(".p-dialog, [role='dialog']").last
    dialog.wait_for()
    if words is not None:
        dialog.locator("input").first.fill(words)
    dialog.locator("button").filter(has_text="Confirm").first.click()


def test_a_row_of_the_paper_shows_its_rates(editing: Canvas) -> None:
    editing.set_widget(SCHEDULE, "preset", "512 fast")
    editing.wait_widget(SCHEDULE, "rate_noise", 0.96)
    editing.wait_widget(SCHEDULE, "rate_clean", 0.9)
    assert editing.widget(SCHEDULE, "preset") == "512 fast"


def test_the_editor_says_when_the_server_is_away_and_comes_back(editing: Canvas) -> None:
    editing.page.route("**/sparsedit/schedule", lambda route: route.abort())
    editing.set_widget(SCHEDULE, "rate_clean", 0.2)
    editing.wait_editor("away")
    assert "does not answer" in editing.editor().inner_text()
    editing.screenshot("away")
    editing.page.unroute_all()
    editing.wait_editor("ready")
    editing.errors.clear()  # the aborted requests


def run(canvas: Canvas) -> None:
    """Queue the graph and wait until it ran."""
    canvas.ask("() => { window.finished = null; window.app.api.addEventListener('execution_success', () => "
               "{ window.finished = true }); window.app.api.addEventListener('execution_error', e => "
               "{ window.finished = JSON.stringify(e.detail) }) }")
    canvas.ask("async () => { await window.app.queuePrompt(0, 1) }")
    canvas.page.wait_for_function("() => window.finished", timeout=180_000)
    assert canvas.ask("() => window.finished") is True


def test_the_quickstart_runs_to_picture_and_report(editing: Canvas) -> None:
    editing.set_widget("KSampler", "steps", 3)
    editing.set_widget("KSampler", "seed", 7 + editing.vue)  # not the cached result of the other renderer
    run(editing)
    editing.page.wait_for_function("() => Object.keys(window.app.nodeOutputs).length > 1")
    editing.show("SparseDiTReport", 0.6)
    editing.page.wait_for_function(
        "() => { const n = window.app.graph.nodes.find(n => n.type === 'SparseDiTReport');"
        " return n.imgs?.length || document.querySelector(`[data-node-id='${n.id}'] img`) }")
    editing.screenshot("report")
    assert editing.errors == []


def test_a_measured_figure_is_told_once_both_models_ran(canvas: Canvas) -> None:
    canvas.load_file(BOTH)
    canvas.ask("([kind, values]) => { for (const n of window.app.graph.nodes.filter(n => n.type === kind))"
               " for (const w of n.widgets) w.value = values[w.name] ?? w.value }",
               ["KSampler", {"steps": 10, "seed": 21 + canvas.vue}])
    run(canvas)
    canvas.show(SCHEDULE)
    canvas.page.locator("[data-sparsedit='cost']").filter(has_text="as fast as the dense model").wait_for()
    canvas.screenshot("measured")
    counted, measured = canvas.cost().splitlines()
    assert counted.endswith("faster (bundled: sparsedit)")
    assert re.fullmatch(r"measured here in this session: \d+\.\d\dx as fast as the dense model", measured)
    cut = canvas.ask("() => { const part = name => document.querySelector(`[data-sparsedit=${name}]`),"
                     " box = name => part(name).getBoundingClientRect(), cost = part('cost');"
                     " return [cost.scrollHeight > cost.clientHeight, box('canvas').bottom > box('cost').top,"
                     " box('cost').bottom > box('presets').top, box('presets').bottom > box('editor').bottom] }")
    assert cut == [False] * 4
    assert canvas.errors == []
