"""Small random files under the names that the workflow templates load."""

from __future__ import annotations

import subprocess
from argparse import Namespace
from pathlib import Path

import torch
from comfy_env import ComfyUI
from tiny import random_model

from sparsedit_core.checkpoint import save_checkpoint
from sparsedit_core.config import DiTConfig
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.schedule import PruningSchedule
from sparsedit_core.train.pictures import CLASS_NAMES

VAE_SCRIPT = Path(__file__).resolve().parent / "comfy_inprocess" / "random_vae.py"


def bundled(folder: Path) -> None:
    """The bundled models, where they are not there yet."""
    config = {"input_size": (32, 32), "in_channels": 3, "learn_sigma": False, "hidden_size": 24, "num_heads": 3}
    layouts = {"sparsedit": SegmentLayout.parse("1+1x[1,3,1,1]+1"), "dense": None}
    for name, layout in layouts.items():
        file = folder / f"{name}.safetensors"
        if not file.is_file():
            model = random_model(DiTConfig(depth=8, num_classes=len(CLASS_NAMES), layout=layout, **config))
            schedule = PruningSchedule(0.86, 0.61) if layout else None
            save_checkpoint(file, model, prediction="flow", class_names=CLASS_NAMES, schedule=schedule)


def imagenet(file: Path) -> None:
    """A 1000-class DiT training checkpoint."""
    model = random_model(DiTConfig(hidden_size=48, num_heads=3, depth=2))
    args = Namespace(num_heads=3, num_classes=1000)
    torch.save({"model": model.state_dict(), "ema": model.state_dict(), "opt": {}, "args": args}, file)


def vae(comfy: ComfyUI, file: Path) -> None:
    """A random TAESD, which ComfyUI's VAELoader takes like any VAE."""
    command = [comfy.python, str(VAE_SCRIPT), str(comfy.root), str(file)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
