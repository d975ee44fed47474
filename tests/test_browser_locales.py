"""Other languages and the help pages as a person meets them, in both renderers."""

from __future__ import annotations

import re

from browser_page import Canvas
from locales_tool import texts
from test_browser import QUICKSTART, SCHEDULE, browser, canvas, pytestmark, servers  # noqa: F401

REPORT = "SparseDiTReport"
SET_LOCALE = "async language => await window.app.extensionManager.setting.set('Comfy.Locale', language)"


def test_titles_inputs_outputs_and_tooltips_are_translated(canvas: Canvas) -> None:  # noqa: F811
    language = "zh"
    told = {key.removeprefix(f"{SCHEDULE}."): text for key, text in texts(language).items() if key.startswith(SCHEDULE)}
    try:
        canvas.ask(SET_LOCALE, language)
        canvas.open()
        canvas.load_file(QUICKSTART)
        title, inputs, widgets, outputs = canvas.ask(
            "kind => { const n = window.LiteGraph.createNode(kind);"
            " return [n.title, n.inputs.map(i => [i.name, i.localized_name]),"
            " n.widgets.map(w => [w.name, w.label]), n.outputs.map(o => o.localized_name)] }",
            SCHEDULE,
        )
        assert title == told["display_name"]
        for name, label in [*inputs, *widgets]:
            assert label == told.get(f"inputs.{name}.name", label), name
        assert {name for name, _label in inputs} >= {"model", "latent", "rate_noise"}
        assert outputs == [told["outputs.0.name"], told["outputs.1.name"]]
        canvas.show(SCHEDULE)
        hover(canvas, told["inputs.rate_noise.name"])
        beginning = told["inputs.rate_noise.tooltip"][:12]
        canvas.page.get_by_text(beginning).filter(visible=True).first.wait_for()
        canvas.screenshot(f"language_{language}")
    finally:
        canvas.ask(SET_LOCALE, "en")
        canvas.open()


def test_the_editor_speaks_the_language_of_the_page(canvas: Canvas) -> None:  # noqa: F811
    language, page = "zh", canvas.page
    words = {key.removeprefix("sparsedit."): text for key, text in texts(language).items()}

    def like(key: str) -> re.Pattern[str]:
        """The sentence with anything in place of its figures."""
        return re.compile(re.sub(r"\\\{\w+\\\}", "[^{}]+", re.escape(words[key])))

    try:
        canvas.ask(SET_LOCALE, language)  # as in the settings: ComfyUI makes the nodes anew, the page stays
        canvas.load_file(QUICKSTART)
        canvas.show(SCHEDULE)
        page.locator("[data-sparsedit='cost']").filter(has_text=like("told.cost")).wait_for()
        grids, cost = canvas.cost().splitlines()[0].split("; ")
        assert like("told.grids").fullmatch(grids)
        assert like("told.cost").fullmatch(cost)
        for name in ("save", "delete", "export", "import", "paste"):
            button = page.locator(f"[data-sparsedit='preset-{name}']").first
            assert button.inner_text() == words[f"editor.preset_{name}"]
            assert button.get_attribute("title") == words[f"editor.preset_{name}_tip"]
        canvas.set_widget(SCHEDULE, "rate_noise", 0.9)
        page.locator("[data-sparsedit='message']").filter(has_text=like("told.outside_range")).wait_for()
        label = page.locator("[data-sparsedit='canvas']").first.get_attribute("aria-label")
        assert like("editor.picture").fullmatch(label)
        canvas.screenshot(f"editor_{language}")
        page.route("**/sparsedit/schedule", lambda route: route.abort())
        canvas.set_widget(SCHEDULE, "rate_clean", 0.2)
        canvas.wait_editor("away")
        assert page.locator("[data-sparsedit='message']").first.inner_text() == words["editor.away"]
    finally:
        page.unroute_all()
        canvas.ask(SET_LOCALE, "en")
        canvas.open()
    canvas.load_file(QUICKSTART)
    canvas.wait_editor("ready")
    assert "% of dense MACs, at most" in canvas.cost()
    canvas.errors.clear()  # the aborted requests


def hover(canvas: Canvas, label: str) -> None:  # noqa: F811
    """The mouse over the slider rate_noise of the schedule node."""
    if canvas.vue:
        node = canvas.page.locator(f"[data-node-id='{canvas.number(SCHEDULE)}']")
        node.get_by_text(label, exact=True).first.hover()
        return
    box = canvas._lite_slider(SCHEDULE, "rate_noise")
    for part in (0.4, 0.5):
        canvas.page.mouse.move(box["x"] + part * box["width"], box["y"] + box["height"] / 2)


def test_the_help_page_shows_its_picture(canvas: Canvas) -> None:  # noqa: F811
    canvas.load_file(QUICKSTART)
    canvas.show(REPORT)
    canvas.click_title(REPORT)
    canvas.page.locator("[data-testid='info-button'], .help-button").first.click()
    canvas.page.wait_for_function(
        "() => [...document.querySelectorAll('.node-help-content img')].some(i => i.complete && i.naturalWidth === 900)"
    )
    canvas.screenshot("help")
    canvas.errors.clear()  # the frontend asks for a page in its own language first, which is answered 404
