"""Core ComfyUI's dense PixArt beside ours: found on this machine, loaded into this process, given the same weights.

The one place of the core that knows ComfyUI, and only when a benchmark asks: nothing is imported before.
"""

from __future__ import annotations

import configparser
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import BackboneConfig, PixArtConfig
from ..pixart import PixArt

_FILES = ("main.py", "nodes.py", "folder_paths.py", "comfy/model_base.py")
_PYTHONS = (
    ".venv/bin/python", ".venv/Scripts/python.exe", "venv/bin/python", "venv/Scripts/python.exe",
    "../python_embeded/python.exe",
)  # fmt: skip
_BASE = 64  # core rounds the latent's side to a multiple of this for its positions, which below half of it is none
_LIMIT = 1e-4  # largest difference of float32 outputs, over the largest value


def comfyui_folders(pack: Path = Path(__file__)) -> list[Path]:
    """Installations of ComfyUI: $COMFYUI_PATH (one or several), around a custom_nodes folder with the ``pack``,
    comfy-cli's, the usual places."""
    paths = [Path(path) for path in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if path]
    paths += [parent.parent for parent in pack.resolve().parents if parent.name == "custom_nodes"]
    home = Path.home()
    for folder in (".config", "Library/Application Support", "AppData/Local"):
        paths += _comfy_cli(home / folder / "comfy-cli" / "config.ini")
    for place in (home, home / "comfy", home / "Documents" / "comfy"):
        paths += sorted(place.glob("ComfyUI*")) if place.is_dir() else []
    found = dict.fromkeys(path.resolve() for path in paths)
    return [path for path in found if all((path / name).is_file() for name in _FILES)]


def own_pythons(root: Path) -> list[Path]:
    """The Pythons of an installation's own environments."""
    return [root / name for name in _PYTHONS if (root / name).is_file()]


def _comfy_cli(config: Path) -> list[Path]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(config, encoding="utf-8")
    except (configparser.Error, OSError):
        return []
    names = ("default_workspace", "recent_workspace")
    return [Path(parser["DEFAULT"][name]) for name in names if parser["DEFAULT"].get(name)]


@dataclass(frozen=True)
class ComfyUI:
    """Core's PixArt class and layers; ``version`` is the installation's own word."""

    version: str
    model_class: Any
    operations: Any


def load_comfyui(root: Path) -> ComfyUI:
    """Import core's PixArt from an installation; ``ValueError`` where there is none or it cannot run in this Python.

    Attention is torch's fused one (core's own choice on NVIDIA, elsewhere its ``--use-pytorch-cross-attention``), so
    that core is not measured with a slower one than ours.
    """
    if not all((root / name).is_file() for name in _FILES):
        raise ValueError(f"{root} holds no ComfyUI (no {' or no '.join(_FILES)}); give its folder with --comfyui")
    loaded = sys.modules.get("comfy")
    if loaded is not None and not any(Path(path).parent == root.resolve() for path in loaded.__path__):
        raise ValueError(f"another ComfyUI than {root} is loaded in this process; measure each in its own")
    try:
        with _on_path(root.resolve()):
            args = importlib.import_module("comfy.cli_args").args
            args.cpu = args.cpu or not torch.accelerator.is_available()
            args.use_pytorch_cross_attention = True
            model_class = importlib.import_module("comfy.ldm.pixart.pixartms").PixArtMS
            operations = importlib.import_module("comfy.ops").disable_weight_init
            version = importlib.import_module("comfyui_version").__version__
    except ImportError as error:
        own = own_pythons(root)
        python = str(own[0]) if own else "the Python it is installed for"
        raise ValueError(
            f"the ComfyUI in {root} does not run in this Python ({error}); run the benchmark with {python}"
        ) from error
    return ComfyUI(version, model_class, operations)


@contextmanager
def _on_path(root: Path) -> Iterator[None]:
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))


def why_not_core(config: BackboneConfig) -> str | None:
    """Why core's dense PixArt cannot run beside the dense model of this config; ``None`` where it can, or no PixArt."""
    if not isinstance(config, PixArtConfig) or not any(side % _BASE for side in config.input_size):
        return None
    return (
        f"core's PixArt has the positions of ours on multiples of {8 * _BASE} pixels, not on latents of "
        f"{config.input_size[0]}x{config.input_size[1]}; measure at 512 or 1024 pixels"
    )


class CorePixArt(nn.Module):
    """Core's dense PixArt with the very weights of ours, called like ours; the noise alone comes out.

    ``ValueError`` where core's is another model (:func:`why_not_core`).
    """

    def __init__(self, model: PixArt, comfyui: ComfyUI) -> None:
        super().__init__()
        config, weight = model.config, model.x_embedder.proj.weight
        reason = why_not_core(config)
        if reason is not None:
            raise ValueError(reason)
        self.model = comfyui.model_class(
            patch_size=config.patch_size,
            in_channels=config.in_channels,
            hidden_size=config.hidden_size,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            pred_sigma=config.learn_sigma,
            caption_channels=config.caption_channels,
            pe_interpolation=config.position_scale,
            model_max_length=config.caption_tokens,
            micro_condition=config.micro_conditioning,
            qk_norm=config.qk_norm,
            dtype=weight.dtype,
            device="meta",
            operations=comfyui.operations,
        )
        self.model.load_state_dict(model.state_dict(), assign=True)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.model(x, t, y)  # type: ignore[no-any-return]


def difference(core: CorePixArt, ours: PixArt, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """Largest difference of both outputs over the largest value; ``ValueError`` where they are not the same model.

    For float32 models: in half precision core rounds its positions, ours does not.
    """
    found, wanted = core(*inputs), ours(*inputs)[:, : ours.config.in_channels]
    relative = float((found - wanted).abs().max() / wanted.abs().max())
    if not relative <= _LIMIT:  # not a number is no agreement either
        raise ValueError(
            f"core ComfyUI's PixArt and ours differ by {relative:.1e} on the same weights, expected at most "
            f"{_LIMIT:.0e}; their times cannot be compared, so leave core out with --comfyui none"
        )
    return relative
