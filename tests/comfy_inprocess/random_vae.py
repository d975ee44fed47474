"""A random TAESD in one file, as VAELoader takes it: ``python random_vae.py COMFYUI_ROOT OUT.safetensors``."""

from __future__ import annotations

import sys


def main(root: str, file: str) -> None:
    sys.path[0] = root
    from comfy.cli_args import args

    args.cpu = True
    import torch
    from comfy.taesd.taesd import Decoder, Encoder
    from safetensors.torch import save_file

    torch.manual_seed(0)
    parts = {"taesd_encoder": Encoder(4), "taesd_decoder": Decoder(4)}
    save_file({f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
