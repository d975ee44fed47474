"""SparseDiT for ComfyUI: the entry point that ComfyUI looks for; the nodes are in ``nodes/``."""

from importlib.util import find_spec
from pathlib import Path

if find_spec("comfy_api") is not None:  # pytest imports a root __init__.py too, where there is no ComfyUI
    from .nodes import comfy_entrypoint

    __all__ = ["comfy_entrypoint"]

if (Path(__file__).parent / "web").is_dir():
    WEB_DIRECTORY = "./web"
