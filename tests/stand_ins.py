"""Small random files under the names that the workflow templates load."""

from __future__ import annotations

import json
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path

import torch
from comfy_env import ComfyUI
from tiny import random_model

from sparsedit_core.checkpoint import save_checkpoint
from sparsedit_core.config import DiTConfig, PixArtConfig
from sparsedit_core.convert import convert_dense
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.pixart import PixArt
from sparsedit_core.schedule import PruningSchedule
from sparsedit_core.tokens import sincos_table
from sparsedit_core.train.pictures import CLASS_NAMES

SCRIPTS = Path(__file__).resolve().parent / "comfy_inprocess"
T5_SIZES = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2}
CORE_SIZES = {
    "t5": T5_SIZES,
    "clip_l": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2},
    "umt5": {**T5_SIZES, "vocab_size": 120},
    "flux": {"hidden_size": 128, "num_heads": 1, "context_in_dim": T5_SIZES["d_model"]},
    "wan2.1": {"text_dim": T5_SIZES["d_model"]},
    "wan_vae": {"dim": 8},
}
"""What :func:`core` changes of core's sizes; head sizes are core's."""


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


def vae(comfy: ComfyUI, file: Path, channels: int = 4) -> None:
    """A random TAESD of so many latent channels, which ComfyUI's VAELoader takes like any VAE."""
    _script(comfy, "random_vae.py", file, channels)


def pixart(dense: Path, sparse: Path) -> None:
    """A PixArt of 512 pixels as the original files hold it, and a sparse one made from it.

    Width 384, so that the published number of heads fits; the text is as wide as :func:`text_encoder` gives it.
    """
    config = PixArtConfig(
        (64, 64), hidden_size=384, num_heads=6, depth=2, mlp_ratio=1.0, caption_channels=T5_SIZES["d_model"]
    )
    model, generator = PixArt(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.02 if name == "y_embedder.y_embedding" else 0.7 * parameter[0].numel() ** -0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    positions = sincos_table(384, config.grid)
    torch.save({"state_dict": {"pos_embed": positions, **model.state_dict()}}, dense)
    made = convert_dense(model, "0+1x[1,0,1,0]+0", fusion="identity")
    save_checkpoint(sparse, made, schedule=PruningSchedule(0.86, 0.61))


def text_encoder(comfy: ComfyUI, file: Path, pack: Path) -> None:
    """A random T5 of two layers, and in ``pack`` the custom node that gives core's text encoder its sizes."""
    pack.mkdir(parents=True)
    shutil.copy(SCRIPTS / "tiny_t5.py", pack / "__init__.py")
    (pack / "config.json").write_text(json.dumps(T5_SIZES), encoding="utf-8")
    _script(comfy, "random_t5.py", file, pack / "config.json")


def core(comfy: ComfyUI, models: Path, pack: Path) -> None:
    """Random FLUX.1, Wan2.1 and what they need beside the T5 of :func:`text_encoder`, all of core's own classes, and in
    ``pack`` the custom node that gives these classes small sizes."""
    pack.mkdir(parents=True)
    shutil.copy(SCRIPTS / "tiny_core.py", pack / "__init__.py")
    (pack / "config.json").write_text(json.dumps(CORE_SIZES), encoding="utf-8")
    _script(comfy, "random_core.py", models, pack / "config.json")


def _script(comfy: ComfyUI, name: str, *arguments: Path | int) -> None:
    command = [comfy.python, str(SCRIPTS / name), str(comfy.root), *map(str, arguments)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
