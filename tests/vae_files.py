"""A tiny random AutoencoderKL of diffusers, written in every key layout that is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

FACTOR = 4


def tiny_vae(channels: int = 4, **config: Any) -> Any:
    """Three levels of 32 channels, one layer each, random weights; factor 4."""
    from diffusers import AutoencoderKL

    shape: dict[str, Any] = {
        "block_out_channels": (32, 32, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": channels,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKL(**(shape | config)).requires_grad_(False).eval()


def original_state(vae: Any) -> dict[str, Tensor]:
    """The weights as latent-diffusion names them: written from its module tree, the other way round than the reader."""
    last = len(vae.config.block_out_channels) - 1
    result = {}
    for key, value in vae.state_dict().items():
        words = key.split(".")
        if "down_blocks" in words:
            at = words.index("down_blocks")
            words[at] = "down"
        if "up_blocks" in words:
            at = words.index("up_blocks")
            words[at : at + 2] = ["up", str(last - int(words[at + 1]))]
        name = ".".join(words)
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("resnets", "block").replace("conv_norm_out", "norm_out")
        name = name.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        name = name.replace("conv_shortcut", "nin_shortcut").replace("group_norm", "norm")
        name = name.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
        name = name.replace("mid_block.attentions.0.to_", "mid.attn_1.").replace("mid_block.attentions.0", "mid.attn_1")
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name):
            value = value[:, :, None, None]
        result[name] = value.contiguous()
    return result


def older_state(vae: Any) -> dict[str, Tensor]:
    """The weights under the names of older diffusers files, those of sd-vae-ft-ema."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    result = {}
    for key, value in vae.state_dict().items():
        for new, old in names.items():
            key = key.replace(f".{new}.", f".{old}.")
        result[key] = value
    return result


def save_vae(path: Path, vae: Any, layout: str = "diffusers") -> Path:
    """A file of one layout: diffusers, older, original, checkpoint (a whole Stable Diffusion file)."""
    state = {"diffusers": vae.state_dict, "older": lambda: older_state(vae)}.get(layout, lambda: original_state(vae))()
    if layout == "checkpoint":
        state = {f"first_stage_model.{key}": value for key, value in state.items()}
        state["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(3)
        state["cond_stage_model.encoder.down.0.weight"] = torch.zeros(3)
    elif layout == "original":
        state["loss.logvar"] = torch.zeros(())
    save_file(state, path)
    return path
