"""Saved pictures: core's files and names, and a record of the run that a reader gets back."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from comfy_pack import node, pack
from load_checks import error_of
from PIL import Image
from sampling import sample
from scheduled import apply, load, schedule

WORKFLOW = {
    "id": "w", "nodes": [{"id": 1, "type": "KSampler", "widgets_values": [1, "fixed"]}], "links": [],
    "extra": {"ds": {"scale": 0.8, "offset": [1.5, 2]}}, "version": 0.4,
}  # fmt: skip
PROMPT = {"1": {"class_type": "KSampler", "inputs": {"seed": 1}}}


@contextmanager
def prompt_of(extra: Any = None) -> Iterator[Any]:
    """The node as ComfyUI prepares it for a run: a class of its own with hidden inputs."""
    save = node("SparseDiTSaveImage")
    clone = type(save.__name__, (save,), {})
    clone.hidden = SimpleNamespace(prompt=PROMPT, extra_pnginfo=extra, unique_id="9")
    yield clone


def saved(images: Any, prefix: str, report: str = "", extra: Any = None) -> list[Path]:
    """The files of one run of the node."""
    import folder_paths

    with prompt_of(extra) as clone:
        output = clone.execute(images=images, filename_prefix=prefix, **({"report": report} if report else {}))
    assert output.result[0] is images
    results = output.ui.as_dict()["images"]
    assert {result["type"] for result in results} == {"output"}
    return [Path(folder_paths.get_output_directory(), result["subfolder"], result["filename"]) for result in results]


def texts(file: Path) -> dict[str, str]:
    with Image.open(file) as picture:
        picture.load()
        return dict(picture.text)


def reported() -> tuple[str, Any]:
    """A report as the report node gives it, and the record of its run."""
    model = apply(load(), schedule())
    sample(model, steps=3)
    latent = {"samples": torch.zeros(1, 4, 2, 2)}
    report = node("SparseDiTReport").execute(model=model, latent=latent).result[3]
    attached = pack("nodes.schedule_patch").attached_to(model)
    (run,) = pack("nodes.runs").find(attached.token, attached.signature)
    return report, run


def check_the_chunk_is_the_record_of_the_run() -> None:
    report, run = reported()
    extra = {"workflow": copy.deepcopy(WORKFLOW)}
    (file,) = saved(torch.rand(1, 8, 8, 3), "record", report, extra)
    record = json.loads(texts(file)["sparsedit"])
    assert record["version"] == pack("sparsedit_core").__version__
    (entry,) = record["runs"]
    expected = run.to_json()
    assert entry["evaluations"] == len(expected.pop("evaluations")) == 3
    assert {name: entry[name] for name in expected} == expected
    back = pack("sparsedit_core.schedule").PruningSchedule.from_json(entry["schedule"])
    assert back == run.schedule
    assert json.loads(texts(file)["workflow"])["extra"]["sparsedit"] == record
    assert extra == {"workflow": WORKFLOW}, "what ComfyUI shares with other nodes is not touched"


def check_the_workflow_comes_back() -> None:
    for extra in (WORKFLOW["extra"], {}, None):
        sent = {**WORKFLOW, "extra": extra}
        if extra is None:
            del sent["extra"]
        (file,) = saved(torch.rand(1, 8, 8, 3), "workflow", reported()[0], {"workflow": sent, "other": [1, 2]})
        chunks = texts(file)
        workflow = json.loads(chunks["workflow"])
        del workflow["extra"]["sparsedit"]
        assert workflow == {**sent, "extra": extra or {}}
        assert json.loads(chunks["prompt"]) == PROMPT
        assert json.loads(chunks["other"]) == [1, 2]


def check_without_a_report_the_version_is_told() -> None:
    (file,) = saved(torch.rand(1, 8, 8, 3), "plain")
    chunks = texts(file)
    assert json.loads(chunks["sparsedit"]) == {"version": pack("sparsedit_core").__version__}
    assert set(chunks) == {"prompt", "sparsedit"}, "no workflow is made up for prompts without one"


def check_disable_metadata_writes_none() -> None:
    from comfy.cli_args import args

    args.disable_metadata = True
    try:
        (file,) = saved(torch.rand(1, 8, 8, 3), "bare", reported()[0], {"workflow": WORKFLOW})
    finally:
        args.disable_metadata = False
    assert texts(file) == {}


def check_files_are_those_of_core() -> None:
    """Pixels, folder, counter, %placeholders%: next to what core's Save Image writes for the same pictures."""
    import nodes

    images = torch.rand(3, 8, 12, 3, generator=torch.Generator().manual_seed(0))
    ours = [*saved(images, "a/of %width%x%height%"), *saved(images[:1], "a/of %width%x%height%")]
    assert [file.name for file in ours] == [f"of 12x8_{number:05}_.png" for number in (1, 2, 3, 4)]
    core = nodes.SaveImage()
    for batch in (images, images[:1]):
        shown = core.save_images(batch, "b/of %width%x%height%")["ui"]["images"]
        assert {image["subfolder"] for image in shown} == {"b"}
    for file in ours:
        twin = file.parent.parent / "b" / file.name
        with Image.open(file) as picture, Image.open(twin) as other:
            assert picture.tobytes() == other.tobytes()
            assert picture.size == (12, 8)


def check_a_report_that_is_none_is_refused() -> None:
    for wrong in ("a table", "{}", "[]", '{"runs": 3}', '{"runs": [{"macs": 1}]}', '{"runs": ["x"]}'):
        message = error_of(lambda wrong=wrong: saved(torch.rand(1, 8, 8, 3), "never", wrong))
        assert "connect the json output of SparseDiT Report" in message
