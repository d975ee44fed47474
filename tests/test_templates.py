"""The workflow templates: well-formed, equal to their API twins, and run in a real ComfyUI."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_ins
from comfy_env import PACK, ComfyUI, find_comfyui
from comfy_server import Server, base_folder
from PIL import Image

from sparsedit_core.bundled import bundled_path
from sparsedit_core.checkpoint import load_checkpoint

TEMPLATES = sorted((PACK / "workflows").glob("*.json"))
SAVED = {
    "SparseDiT quickstart": (10, {(256, 256)}),
    "SparseDiT schedule tuning sheet": (1, {(972, 810)}),
    "SparseDiT dense against sparse": (2, {(1298, 1776), (1536, 1356)}),
    "SparseDiT img2img": (4, {(256, 256)}),
    "SparseDiT two-pass": (4, {(288, 288)}),
    "SparseDiT convert a dense model": (4, {(256, 256)}),
    "SparseDiT DiT-XL-2 ImageNet": (4, {(256, 256)}),
    "SparseDiT PixArt quickstart": (10, {(256, 256)}),
    "SparseDiT PixArt": (1, {(512, 512)}),
    "SparseDiT PixArt side by side": (3, {(512, 512)}),
    "SparseDiT token cache quickstart": (1, {(1298, 1776)}),
    "SparseDiT token cache PixArt": (10, {(256, 256)}),
    "SparseDiT token cache FLUX": (1, {(256, 256)}),
    "SparseDiT token cache Wan2.1": (1, {(96, 64)}),
}
"""Pictures that a template saves, and their sizes."""
ONE_RUN = [name for name in SAVED if name not in ("SparseDiT schedule tuning sheet", "SparseDiT img2img")]
"""Templates whose report is about a single run of a sampler."""
SMALLER = {
    "EmptySD3LatentImage": {"width": 256, "height": 256},
    "EmptyHunyuanLatentVideo": {"width": 96, "height": 64, "length": 9},
}
"""Sizes that tests run FLUX.1 and Wan2.1 at: attention over those of the templates takes a CPU too long."""
INSTALLED = find_comfyui()
NOTES, BYPASSED = ("Note", "MarkdownNote"), 4
SEED_CONTROL = ("fixed", "randomize", "increment", "decrement")


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def api_twin(template: Path) -> dict[str, Any]:
    return read(template.parent / "api" / template.name)


def smaller(prompt: dict[str, Any]) -> dict[str, Any]:
    for node in prompt.values():
        node["inputs"] |= SMALLER.get(node["class_type"], {})
    return prompt


def test_all_templates_are_there() -> None:
    assert {file.stem for file in TEMPLATES} == set(SAVED)
    assert {file.stem for file in (PACK / "workflows" / "api").glob("*.json")} == set(SAVED)


def test_every_node_is_in_a_template() -> None:
    used = {node["type"] for file in TEMPLATES for node in read(file)["nodes"]}
    sources = [file.read_text(encoding="utf-8") for file in (PACK / "nodes").glob("*.py")]
    ids = {name for text in sources for name in re.findall(r'node_id="(\w+)"', text)}
    assert ids
    assert ids <= used


def test_every_template_has_a_thumbnail() -> None:
    for file in TEMPLATES:
        with Image.open(file.with_suffix(".jpg")) as picture:
            assert min(picture.size) >= 300


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.stem)
def test_nodes_links_and_values_are_those_of_the_api_twin(template: Path) -> None:
    workflow, api = read(template), api_twin(template)
    acting = [node for node in workflow["nodes"] if node["type"] not in NOTES and node["mode"] != BYPASSED]
    nodes = {str(node["id"]): node for node in acting}
    assert {n: node["type"] for n, node in nodes.items()} == {n: item["class_type"] for n, item in api.items()}
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"] if str(link[1]) in nodes}
    for number, node in nodes.items():
        linked = {port["name"]: links[port["link"]] for port in node["inputs"] if port.get("link") in links}
        inputs = api[number]["inputs"]
        assert linked == {name: value for name, value in inputs.items() if isinstance(value, list)}
        values = {name: value for name, value in inputs.items() if not isinstance(value, list)}
        widgets = [value for value in node.get("widgets_values", []) if value not in SEED_CONTROL]
        assert widgets == list(values.values())
        named = node.get("widgets_values_named", values)
        assert {name: named[name] for name in values} == values


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.stem)
def test_nodes_do_not_overlap(template: Path) -> None:
    title = 30
    boxes = [(*node["pos"], *node["size"]) for node in read(template)["nodes"]]
    for i, (x, y, w, h) in enumerate(boxes):
        for X, Y, W, H in boxes[i + 1 :]:
            assert x + w <= X or x >= X + W or y + h <= Y - title or y - title >= Y + H


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.stem)
def test_nothing_is_null_but_open_links(template: Path) -> None:
    """Frontends of ComfyUI 0.3.64 warn about other nulls."""
    assert set(null_names(read(template))) <= {"link", "links"}


def null_names(value: Any, name: str = "") -> Iterator[str]:
    if value is None:
        yield name
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from null_names(item, key)
    for item in value if isinstance(value, list) else ():
        yield from null_names(item, name)


@pytest.fixture(scope="module", params=INSTALLED, ids=str)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    comfy: ComfyUI = request.param
    base = tmp_path_factory.mktemp("server")
    stand_ins.bundled(base_folder(base) / "sparsedit_core" / "bundled")
    models = base / "models"
    stand_ins.imagenet(models / "diffusion_models" / "DiT-XL-2-256x256.pt")
    name = "PixArt-XL-2-512x512"
    stand_ins.pixart(*(models / "diffusion_models" / (name + end) for end in (".pth", "-sparse.safetensors")))
    stand_ins.vae(comfy, models / "vae" / "vae-ft-mse-840000-ema-pruned.safetensors")
    encoder = models / "text_encoders" / "t5xxl_fp16.safetensors"
    stand_ins.text_encoder(comfy, encoder, base / "custom_nodes" / "tiny_t5")
    stand_ins.core(comfy, models, base / "custom_nodes" / "tiny_core")
    stand_ins.vae(comfy, models / "vae" / "ae.safetensors", 16)
    with Server(comfy, base) as running:
        yield running


@pytest.mark.comfy
@pytest.mark.skipif(not INSTALLED, reason="no ComfyUI found; set COMFYUI_PATH to a checkout to run these")
@pytest.mark.parametrize("template", TEMPLATES, ids=lambda file: file.stem)
class TestInComfyUI:
    def test_api_twin_runs(self, server: Server, template: Path) -> None:
        check_outputs(server, template, server.queue(smaller(api_twin(template))))

    def test_template_runs(self, server: Server, template: Path) -> None:
        """The UI file, converted as the browser does; comfy-cli has the converter."""
        convert = pytest.importorskip("comfy_cli.workflow_to_api").convert_ui_to_api
        prompt = convert(read(template), server.get("/object_info"))
        twin = api_twin(template)
        assert {n: item["inputs"] for n, item in prompt.items()} == {n: item["inputs"] for n, item in twin.items()}
        check_outputs(server, template, server.queue(smaller(prompt)))

    def test_another_seed_reports_the_same_but_for_the_seconds(self, server: Server, template: Path) -> None:
        if template.stem not in ONE_RUN:
            pytest.skip("its report is about several runs")
        texts = []
        for seed in (11, 12):
            prompt = smaller(api_twin(template))
            for sampler in (item for item in prompt.values() if item["class_type"] == "KSampler"):
                sampler["inputs"] |= {"seed": seed, "steps": 4}
            (text,) = texts_of(server.queue(prompt))
            lines = [line for line in text.splitlines()[2:] if not re.search("seconds$|measured", line)]
            texts.append(["".join(line.split()[:-1]) for line in lines])
        assert texts[0] == texts[1]
        assert len(texts[0]) == 4 + 2 + ("token cache" in template.stem)


@pytest.mark.comfy
@pytest.mark.skipif(not INSTALLED, reason="no ComfyUI found; set COMFYUI_PATH to a checkout to run these")
class TestCoreModelsInComfyUI:
    """FLUX.1 and Wan2.1 of ComfyUI's own loaders: what the notes of their templates say."""

    def test_without_a_plan_everything_is_computed(self, server: Server) -> None:
        plain, cached = (smaller(api_twin(PACK / "workflows" / "SparseDiT token cache FLUX.json")) for _ in range(2))
        for prompt in (plain, cached):
            prompt["10"]["inputs"]["seed"] = 21
        del plain["8"], plain["9"]["inputs"]["plan"]  # as the browser does with a bypassed node
        core = smaller(api_twin(PACK / "workflows" / "SparseDiT token cache FLUX.json"))
        for number in ("8", "9", "11", "14"):
            del core[number]
        core["10"]["inputs"] |= {"model": ["1", 0], "seed": 21}
        core["12"]["inputs"]["samples"] = ["10", 0]
        pictures = [self.picture(server, server.queue(prompt)) for prompt in (core, plain, cached)]
        assert pictures[0] == pictures[1]
        assert pictures[0] != pictures[2]

    def test_a_calibration_takes_the_place_of_the_rule(self, server: Server) -> None:
        workflow = read(PACK / "workflows" / "SparseDiT token cache Wan2.1.json")
        (node,) = (node for node in workflow["nodes"] if node["type"] == "SparseDiTCalibrate")
        assert node["mode"] == BYPASSED
        values = [value for value in node["widgets_values"] if value not in SEED_CONTROL]
        named = {port["name"] for port in node["inputs"] if "widget" in port}
        links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
        inputs = {port["name"]: links[port["link"]] for port in node["inputs"] if port["link"] is not None}
        inputs |= dict(zip(node["widgets_values_named"], values, strict=True))
        assert named == set(node["widgets_values_named"])
        prompt = smaller(api_twin(PACK / "workflows" / "SparseDiT token cache Wan2.1.json"))
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs | {"steps": 4}}
        prompt["10"]["inputs"]["plan"] = [str(node["id"]), 0]
        prompt["12"]["inputs"]["steps"] = 4
        (text,) = texts_of(server.queue(prompt))
        assert "token cache (calibrate" in text

    def picture(self, server: Server, history: dict[str, Any]) -> bytes:
        assert history["status"]["status_str"] == "success", history["status"]["messages"]
        (image,) = saved_of(history)
        with Image.open(server.base / "output" / image["subfolder"] / image["filename"]) as picture:
            return picture.tobytes()


def test_template_of_the_pack_is_offered(server: Server) -> None:
    assert set(server.get("/workflow_templates")["sparsedit"]) == set(SAVED)


def check_outputs(server: Server, template: Path, history: dict[str, Any]) -> None:
    """Success, the expected saved pictures, a report in words and pictures."""
    assert history["status"]["status_str"] == "success", history["status"]["messages"]
    images = [image for output in history["outputs"].values() for image in output.get("images", [])]
    saved = saved_of(history)
    count, sizes = SAVED[template.stem]
    assert len(saved) == count
    found = set()
    for image in saved:
        with Image.open(server.base / "output" / image["subfolder"] / image["filename"]) as picture:
            found.add(picture.size)
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
    assert found == sizes
    assert len(images) > len(saved)
    (text,) = texts_of(history)
    assert "of dense" in text


def saved_of(history: dict[str, Any]) -> list[dict[str, Any]]:
    images = [image for output in history["outputs"].values() for image in output.get("images", [])]
    return [image for image in images if image["type"] == "output"]


def texts_of(history: dict[str, Any]) -> list[str]:
    return [text for output in history["outputs"].values() for text in output.get("text", []) if "MACs" in text]


def test_the_quickstart_has_the_schedule_that_its_model_was_trained_with() -> None:
    (widgets,) = (
        node["inputs"]
        for node in api_twin(PACK / "workflows" / "SparseDiT quickstart.json").values()
        if node["class_type"] == "SparseDiTPruningSchedule"
    )
    trained = load_checkpoint(bundled_path("sparsedit")).schedule
    assert trained is not None
    names = ("rate_noise", "rate_clean", "hold", "hold_fraction", "curve", "levels")
    assert {name: widgets[name] for name in names} == {name: getattr(trained, name) for name in names}
    assert (widgets["start_percent"], widgets["end_percent"]) == (trained.start, trained.end)
