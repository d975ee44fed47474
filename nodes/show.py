"""Showing things in ComfyUI: pictures as IMAGE, a line of text on a node."""

from __future__ import annotations

import sys

import numpy as np
import torch
from comfy_api.latest import io
from PIL.Image import Image
from torch import Tensor


def to_image(picture: Image) -> Tensor:
    """A Pillow picture as ComfyUI's IMAGE: (1, H, W, 3) float32 in 0..1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]


def show_text(text: str, node: type[io.ComfyNode]) -> None:
    """Write ``text`` on ``node``; nothing happens where no server runs (scripts, tests)."""
    if node.hidden is not None:
        show_on(node.hidden.unique_id, text)


def show_on(node_id: str, text: str) -> None:
    """Write ``text`` on the node of that id; nothing happens where no server runs."""
    module = sys.modules.get("server")  # not imported: outside a server that fails on ComfyUI 0.3.64
    server = module and getattr(module.PromptServer, "instance", None)  # set when the server is made
    if server is not None:
        server.send_progress_text(text, node_id)
