"""The pictures of the help pages, made by the nodes themselves: ``python .ci/help_pictures.py [NAME ...]``.

Runs the bundled models through the pack in the first ComfyUI that is found, on the CPU, in two minutes, and writes
``web/images/help_NAME.png``, all of them or those named. Run it where the package is installed, or with
``PYTHONPATH=.``. The seconds in the pictures are those of the machine that made them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from comfy_env import find_comfyui  # noqa: E402
from comfy_server import Server, base_folder  # noqa: E402

LARGEST = 120_000  # bytes of a picture
COLOURS = 255  # of a picture's palette
CLASSES, PICTURES_AT_ONCE = "striped star, checkered disc, striped ring", 12
SCHEDULE = {
    "preset": "custom", "rate_noise": 0.86, "rate_clean": 0.61, "hold_fraction": 0.25, "hold": "noise",
    "curve": "linear", "steps": 4, "points": "", "levels": 6, "start_percent": 0.0, "end_percent": 0.8,
    "preview_tokens": 16,
}  # fmt: skip
SAMPLER = {"seed": 1, "steps": 20, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
# by the number of the node that makes it: the picture's file, and which of the node's outputs it is
PICTURES = {"schedule": ("schedule", 1), "report": ("report", 2), "compare": ("compare", 4),
            "map": ("token_map", 0), "grid": ("schedule_grid", 0), "plan": ("cache_plan", 1)}  # fmt: skip


def workflow() -> dict[str, Any]:
    """One graph with every node that draws: dense and sparse from the same noise, a sheet of schedules, a plan."""

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    def loader(name: str) -> dict[str, Any]:
        return node("SparseDiTLoadCheckpoint", checkpoint=f"bundled: {name}", weight_dtype="default")

    guided = {"positive": ["classes", 0], "negative": ["classes", 1]}
    graph = {
        "sparse": loader("sparsedit"),
        "dense": loader("dense"),
        "vae": node("VAELoader", vae_name="pixel_space"),
        "classes": node("SparseDiTClassLabel", classes=CLASSES, model=["sparse", 0]),
        "noise": node("EmptyChromaRadianceLatentImage", width=64, height=64, batch_size=PICTURES_AT_ONCE),
        "schedule": node("SparseDiTPruningSchedule", **SCHEDULE, model=["sparse", 0], latent=["noise", 0]),
        "scheduled": node("SparseDiTApplySchedule", model=["sparse", 0], schedule=["schedule", 0]),
        "dense run": node("KSampler", model=["dense", 0], latent_image=["noise", 0], **guided, **SAMPLER),
        "dense report": node("SparseDiTReport", model=["dense", 0], latent=["dense run", 0]),
        "dense pictures": node("VAEDecode", samples=["dense report", 0], vae=["vae", 0]),
        "dense shown": node("PreviewImage", images=["dense pictures", 0]),
    }
    graph |= {
        "sparse run": node("KSampler", model=["scheduled", 0], latent_image=["noise", 0], **guided, **SAMPLER),
        "report": node("SparseDiTReport", model=["scheduled", 0], latent=["sparse run", 0]),
        "sparse pictures": node("VAEDecode", samples=["report", 0], vae=["vae", 0]),
        "compare": node(
            "SparseDiTCompare", images=["first sparse", 0], reference=["first dense", 0], gain=4.0,
            images_name="sparse", reference_name="dense",
        ),
        "map": node(
            "SparseDiTTokenMap", model=["scheduled", 0], latent=["sparse run", 0], image=["first sparse", 0],
            times="1, 0.75, 0.5, 0.25, 0", style="cells",
        ),
        "first sparse": node("ImageFromBatch", image=["sparse pictures", 0], batch_index=0, length=3),
        "first dense": node("ImageFromBatch", image=["dense pictures", 0], batch_index=0, length=3),
        "grid": node(
            "SparseDiTScheduleGrid", model=["sparse", 0], **guided, latent_image=["noise", 0], vae=["vae", 0],
            schedule=["schedule", 0], **SAMPLER, x_values="0.61:0.44, 0.86:0.61, 0.96:0.90",
            y_axis="end_percent", y_values="0.6, 0.8, 1",
        ),
        "calibrated": node(
            "SparseDiTCalibrate", model=["dense", 0], **guided, latent_image=["noise", 0], **SAMPLER, budget=0.5,
            trials=4, selector="age", partly=False,
        ),
        "plan": node(
            "SparseDiTCachePlan", model=["dense", 0], plan=["calibrated", 0], latent=["noise", 0],
            source="rule: uniform", budget=0.5, steps=SAMPLER["steps"], scheduler=SAMPLER["scheduler"],
        ),
    }  # fmt: skip
    for maker, (name, output) in PICTURES.items():
        graph[f"save {name}"] = node("SaveImage", images=[maker, output], filename_prefix=name)
    return graph


def main(*wanted: str) -> None:
    """Write the pictures of these names, without one all; exits where one is too large."""
    names = {name for name, _output in PICTURES.values()}
    if unknown := set(wanted) - names:
        sys.exit(f"no pictures are named {', '.join(sorted(unknown))}; choose of {', '.join(sorted(names))}")
    comfys = find_comfyui()
    if not comfys:
        sys.exit("no ComfyUI found to run the nodes in; set COMFYUI_PATH to a checkout")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        base_folder(base)
        prompts = [dense_first(workflow()), workflow()]  # so that the report can tell the measured speed-up
        with Server(comfys[0], base) as server:
            for prompt in prompts:
                outputs = server.queue(prompt)["outputs"]
        for name in sorted(wanted or names):
            (made,) = outputs[f"save {name}"]["images"]
            write(base / "output" / made["subfolder"] / made["filename"], ROOT / "web" / "images" / f"help_{name}.png")


def dense_first(graph: dict[str, Any]) -> dict[str, Any]:
    """The part of the graph that samples the dense model."""
    names = ("dense", "sparse", "vae", "classes", "noise", "dense run", "dense report", "dense pictures", "dense shown")
    return {name: graph[name] for name in names}


def write(made: Path, target: Path) -> None:
    """Copy a picture with a palette and without metadata."""
    picture = Image.open(made).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(target, optimize=True)
    size = target.stat().st_size
    print(f"{target.relative_to(ROOT)}: {picture.width} x {picture.height} pixels, {size} bytes")
    if size > LARGEST:
        sys.exit(f"{target.name} has {size} bytes, more than {LARGEST}")


if __name__ == "__main__":
    main(*sys.argv[1:])
