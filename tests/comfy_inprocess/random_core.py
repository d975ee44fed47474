"""Small random FLUX.1 and Wan2.1 files for core's loaders: ``python random_core.py COMFYUI_ROOT MODELS CONFIG``.

All are of core's own classes, with the sizes of CONFIG, under the names that the workflow templates load. FLUX's T5 is
:mod:`random_t5`'s.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

WORDS = (
    "a", "bird", "and", "two", "ships", "on", "the", "quick", "brown", "water", "under", "six", "jolly", "foxes",
)  # fmt: skip
MARKER = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight"  # what CLIPLoader knows UMT5-XXL by, unused otherwise


def main(root: str, models: str, config: str) -> None:
    sys.path[0] = root
    from comfy.cli_args import args

    args.cpu = True
    import torch
    from safetensors.torch import save_file

    sizes = json.loads(Path(config).read_text("utf-8"))
    torch.manual_seed(0)
    files = {
        "diffusion_models/flux1-schnell": flux(sizes["flux"], sizes["clip_l"]["hidden_size"]),
        "diffusion_models/wan2.1_t2v_1.3B_fp16": wan(sizes["wan2.1"]),
        "text_encoders/clip_l": clip(root, sizes["clip_l"]),
        "text_encoders/umt5_xxl_fp8_e4m3fn_scaled": umt5(root, sizes["umt5"]),
        "vae/wan_2.1_vae": vae(sizes["wan_vae"]),
    }
    for name, state in files.items():
        save_file(state, f"{models}/{name}.safetensors")


def flux(sizes: dict[str, Any], pooled: int) -> Any:
    """Two double and two single blocks; without guidance, which makes it a schnell."""
    import comfy.ldm.flux.model as flux

    settings = {
        "in_channels": 16, "out_channels": 16, "vec_in_dim": pooled, "mlp_ratio": 4.0, "depth": 2,
        "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True,
        "guidance_embed": False, **sizes,
    }  # fmt: skip
    if "txt_ids_dims" in flux.FluxParams.__dataclass_fields__:
        settings["txt_ids_dims"] = []
    return randomized(flux.Flux, **settings)


def wan(sizes: dict[str, Any]) -> Any:
    """Two blocks with one head."""
    from comfy.ldm.wan.model import WanModel

    own = {"in_dim": 16, "out_dim": 16, "dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2}
    return randomized(WanModel, model_type="t2v", **own, **sizes)


def vae(sizes: dict[str, Any]) -> Any:
    """The VAE of Wan2.1."""
    from comfy.ldm.wan.vae import WanVAE

    settings = {"z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}
    return filled(WanVAE(**settings, **sizes))


def clip(root: str, sizes: dict[str, Any]) -> Any:
    """The text encoder of CLIP-L."""
    from comfy.clip_model import CLIPTextModel

    return randomized(CLIPTextModel, json.loads(_config(root, "../sd1_clip_config.json")) | sizes)


def umt5(root: str, sizes: dict[str, Any]) -> Any:
    """UMT5 and a tokenizer of a few words, which its file holds."""
    import comfy.text_encoders.t5 as t5
    import sentencepiece
    import torch

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 20), model_writer=written, vocab_size=sizes["vocab_size"], pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    state = randomized(t5.T5, json.loads(_config(root, "umt5_config_xxl.json")) | sizes)
    pieces = torch.tensor(list(written.getvalue()), dtype=torch.uint8)
    return {**state, "spiece_model": pieces, MARKER: torch.zeros(10240, 4096, dtype=torch.float8_e4m3fn)}


def _config(root: str, name: str) -> str:
    return (Path(root) / "comfy" / "text_encoders" / name).read_text("utf-8")


def randomized(kind: Any, *arguments: Any, **settings: Any) -> Any:
    """The weights of a network that takes type, device and layers as core's do."""
    import comfy.ops
    import torch

    layers = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.manual_cast}
    return filled(kind(*arguments, **settings, **layers))


def filled(network: Any) -> Any:
    """All weights random: core's layers start with whatever is in memory."""
    import torch

    for name, weight in network.named_parameters():
        if weight.dim() > 1 and "modulation" not in name:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        else:
            gain = any(part in name for part in ("norm", "gamma", "scale")) and not name.endswith("bias")
            torch.nn.init.normal_(weight, 1.0 if gain else 0.0, 0.1)
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
