"""Showing things in ComfyUI: pictures as IMAGE, a line of text on a node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from comfy_api.latest import io
from PIL.Image import Image
from torch import Tensor


def to_image(picture: Image) -> Tensor:
    """A Pillow picture as ComfyUI's IMAGE: (1, H, W, 3) float32 in 0..1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]


_shown: set[str] = set()  # ids of nodes with a text: a blank takes up room, so it is sent only to wipe another


def show_text(text: str, node: type[io.ComfyNode]) -> None:
    """Write ``text`` on ``node``, "" wipes it off; nothing happens where no server runs (scripts, tests)."""
    if node.hidden is None:
        return
    number = str(node.hidden.unique_id)
    if text or number in _shown:
        show_on(number, text)
    (_shown.add if text else _shown.discard)(number)


@contextmanager
def told_on(node: type[io.ComfyNode]) -> Iterator[None]:
    """A ``ValueError`` of the block is also written on ``node``, which must declare ``unique_id`` as hidden.

    ComfyUI itself keeps the sentence of an error in a run behind "View details".
    """
    show_text("", node)
    try:
        yield
    except ValueError as error:
        show_text(str(error), node)
        raise


def show_on(node_id: str, text: str) -> None:
    """Write ``text`` on the node of that id; nothing happens where no server runs."""
    module = sys.modules.get("server")  # not imported: outside a server that fails on ComfyUI 0.3.64
    server = module and getattr(module.PromptServer, "instance", None)  # set when the server is made
    if server is not None:
        server.send_progress_text(text or " ", node_id)  # browsers ignore an empty one
