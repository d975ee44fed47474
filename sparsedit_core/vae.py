"""The autoencoder between pictures and latents: any AutoencoderKL file, run by diffusers (extra ``train``).

Three key layouts are read: diffusers' own, its older one (attention as ``query``, ``key``, ``value``, ``proj_attn``)
and that of the original latent-diffusion code, bare or inside a whole Stable Diffusion checkpoint. Nothing is asked of
a hub: what a model is built from is read off its tensors, or off the folder's ``config.json``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import CheckpointError, read_file
from .checkpoint.errors import listed
from .extras import imported

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
"""Names of the weights in a diffusers folder."""

_PREFIXES = ("first_stage_model.", "vae.", "")  # of a Stable Diffusion checkpoint, of other tools, none
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_GROUPS = 32  # of the group norms; tensors do not tell, and every published AutoencoderKL has it

_ATTENTION = (
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"(\.attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(\.attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(\.attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
)
_ORIGINAL = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
)


@dataclass(frozen=True)
class Autoencoder:
    """An AutoencoderKL in eval mode; its latents are as the network gives them, no scaling factor applied.

    ``channels``  of the latents; ``factor``  pixels per latent along a side
    ``scale``     factor that gives latents unit variance, where a folder's ``config.json`` says it, else ``None``
    ``shift``     what its family subtracts from latents before scaling, 0 for Stable Diffusion 1, 2 and XL
    """

    model: Any
    channels: int
    factor: int
    scale: float | None = None
    shift: float = 0.0

    @torch.no_grad()
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (B, channels, H/factor, W/factor) float32 each, of images (B, 3, H, W)."""
        if images.ndim != 4 or images.shape[1] != 3 or any(side % self.factor for side in images.shape[2:]):
            raise ValueError(
                f"images have shape {tuple(images.shape)}, expected (B, 3, H, W) with sides that are multiples of "
                f"{self.factor}, the autoencoder's factor"
            )
        found = self.model.encode(images.to(self.model.device, self.model.dtype)).latent_dist
        return found.mean.float(), found.std.float()

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Latents of images (B, 3, H, W) in -1..1: a sample of the posterior, or its mode without a generator."""
        mean, deviation = self.posterior(images)
        if generator is None:
            return mean
        noise = torch.randn(mean.shape, generator=generator, device=generator.device)
        return mean + deviation * noise.to(mean.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H * factor, W * factor) float32, about -1..1, of unscaled latents (B, channels, H, W)."""
        if latents.ndim != 4 or latents.shape[1] != self.channels:
            raise ValueError(f"latents have shape {tuple(latents.shape)}, expected (B, {self.channels}, H, W)")
        images: Tensor = self.model.decode(latents.to(self.model.device, self.model.dtype)).sample
        return images.float()


def load_autoencoder(
    path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    channels: int | None = None,
) -> Autoencoder:
    """The autoencoder in a file (``.safetensors``, or a checkpoint of ``torch.save``) or in a diffusers folder.

    ``channels`` are the latent channels wanted, ``None`` for any. Raises ``CheckpointError`` (a ``ValueError``) for a
    file that is damaged, no AutoencoderKL of RGB pictures or one of other channels, and ``ValueError`` where diffusers
    is not installed.
    """
    path = Path(path)
    build = imported("diffusers", "train").AutoencoderKL
    config: dict[str, Any] | None = None
    file = path
    if path.is_dir():
        config, file = _read_config(path), autoencoder_file(path)
    state = {key: value.to(dtype) for key, value in _to_diffusers(_tensors(file), file).items()}
    derived = _derive_config(state, file, grouped=config is None)
    found = int(derived["latent_channels"])
    if channels is not None and found != channels:
        raise CheckpointError(
            f"{file} is an autoencoder of {found} latent channels, expected {channels}; give the autoencoder that the "
            "model was trained with"
        )
    with torch.device("meta"):  # the weights come from the file: no memory and no time for random ones
        model = build(**derived) if config is None else build.from_config(config)
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        lines = [" ".join(line.split()) for line in str(error).splitlines()[1:]]
        reason = " ".join(lines)[:400] or str(error)
        raise CheckpointError(f"the tensors of {file} do not make an AutoencoderKL: {reason}") from error
    model.requires_grad_(False).eval()
    shift = 0.0 if config is None else float(config.get("shift_factor") or 0.0)
    scale = None if config is None or "scaling_factor" not in config else float(config["scaling_factor"])
    factor = 2 ** (len(derived["block_out_channels"]) - 1)
    return Autoencoder(_place(model, device), found, factor, scale, shift)


def autoencoder_file(path: Path) -> Path:
    """The file with the weights: ``path`` itself, or the one in a diffusers folder."""
    if not path.is_dir():
        return path
    for name in WEIGHTS:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"the folder {path} has no {WEIGHTS[0]}; give a diffusers AutoencoderKL folder or a file")


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the folder {folder} has no readable config.json of a diffusers autoencoder") from error
    kind = config.get("_class_name") if isinstance(config, dict) else type(config).__name__
    if kind != "AutoencoderKL":
        raise CheckpointError(f"{folder / 'config.json'} describes {kind!r}, expected 'AutoencoderKL'")
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise CheckpointError(
            f"{folder / 'config.json'} scales every latent channel by itself (latents_mean, latents_std), which no DiT "
            "here is trained on; give an autoencoder with one scaling_factor"
        )
    return dict(config)


def _tensors(file: Path) -> dict[str, Tensor]:
    """The autoencoder's tensors, without prefix; of a whole checkpoint only its part."""
    content = read_file(file).content
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    found = content if isinstance(content, Mapping) else {}
    for prefix in _PREFIXES:
        if f"{prefix}encoder.conv_in.weight" in found:
            return {
                key.removeprefix(prefix): value
                for key, value in found.items()
                if isinstance(value, Tensor) and key.startswith(tuple(prefix + part for part in _PARTS))
            }
    raise CheckpointError(
        f"{file} is no autoencoder: it has no encoder.conv_in.weight (its entries begin {listed(sorted(found)[:3])}); "
        "give an AutoencoderKL file of diffusers or of latent-diffusion"
    )


def _to_diffusers(state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Keys as diffusers names them now; 1x1 convolutions of attention become the linear layers they are."""
    original = any(key.startswith("encoder.down.") for key in state)
    table = (*_ATTENTION, *_ORIGINAL) if original else _ATTENTION
    levels = max((int(match[1]) for key in state if (match := re.match(r"decoder\.up\.(\d+)\.", key))), default=0)
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in table:
            name = re.sub(pattern, replacement, name)
        if original:  # latent-diffusion counts the decoder's levels from the picture, diffusers from the latent
            name = re.sub(r"\.up_blocks\.(\d+)\.", lambda match: f".up_blocks.{levels - int(match[1])}.", name)
        if ".attentions." in name and value.ndim == 4:
            value = value.flatten(1)
        if name in result:
            raise CheckpointError(f"two tensors of {file} are both {name} (one is {key})")
        result[name] = value
    return result


def _derive_config(state: Mapping[str, Tensor], file: Path, *, grouped: bool) -> dict[str, Any]:
    """What diffusers builds the model from, off the shapes; ``grouped``: nothing else tells the group norms."""
    needed = ("encoder.conv_in.weight", "encoder.conv_out.weight", "decoder.conv_in.weight", "decoder.conv_out.weight")
    missing = [key for key in needed if key not in state or state[key].ndim != 4]
    if missing:
        raise CheckpointError(f"{file} is no AutoencoderKL of pictures: {listed(missing)} is missing or no 2-D layer")
    pictures, latent = state[needed[0]].shape[1], state[needed[2]].shape[1]
    moments, out = state[needed[1]].shape[0], state[needed[3]].shape[0]
    if moments != 2 * latent:
        raise CheckpointError(
            f"{file} is no AutoencoderKL: its encoder gives {moments} channels and its decoder takes {latent}, where "
            "mean and variance make twice as many (a VQ autoencoder?)"
        )
    if pictures != 3 or out != 3:
        raise CheckpointError(f"{file} is an autoencoder from {pictures} to {out} channels, expected 3: RGB pictures")
    widths: list[int] = []
    while (key := f"encoder.down_blocks.{len(widths)}.resnets.0.conv1.weight") in state:
        widths.append(state[key].shape[0])
    layers = sum(bool(re.fullmatch(r"encoder\.down_blocks\.0\.resnets\.\d+\.conv1\.weight", key)) for key in state)
    odd = [width for width in widths if width % _GROUPS]
    if not widths or (grouped and odd):
        raise CheckpointError(
            f"{file} has levels of width {widths}, expected multiples of {_GROUPS}; give the diffusers folder with its "
            "config.json, which says how its normalisation is grouped"
        )
    return {
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "block_out_channels": tuple(widths),
        "layers_per_block": layers,
        "latent_channels": latent,
        "norm_num_groups": _GROUPS,
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in state,
    }


def _place(model: Any, device: str | torch.device) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used ({reason}); use --device cpu") from error
