"""A random TAESD in one file, as VAELoader takes it: ``python random_vae.py COMFYUI_ROOT OUT.safetensors CHANNELS``."""

from __future__ import annotations

import sys
from typing import Any


def main(root: str, file: str, channels: str) -> None:
    sys.path[0] = root
    from comfy.cli_args import args

    args.cpu = True
    import torch
    from comfy.taesd.taesd import Decoder, Encoder
    from safetensors.torch import save_file

    torch.manual_seed(0)
    parts = {"taesd_encoder": Encoder(int(channels)), "taesd_decoder": Decoder(int(channels))}
    for part in parts.values():  # ComfyUI's layers start with whatever is in memory
        for weight in part.parameters():
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.1)
    level(parts["taesd_decoder"], int(channels))
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    save_file(state, file)


def level(decoder: Any, channels: int) -> None:
    """Bring the output for strong noise around grey, so that pictures are neither black nor white."""
    import torch

    last = decoder[-1]
    with torch.no_grad():
        out = decoder(10 * torch.randn(1, channels, 16, 16))
        scale = 0.2 / out.std()
        last.weight.mul_(scale)
        last.bias.sub_(out.mean(dim=(0, 2, 3))).mul_(scale).add_(0.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
