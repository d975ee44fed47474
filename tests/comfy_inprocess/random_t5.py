"""A tiny random T5 that CLIPLoader takes for T5-XXL: ``python random_t5.py COMFYUI_ROOT OUT.safetensors CONFIG.json``.

The encoder is core's own class with the sizes of CONFIG; the tokenizer stays the real one, so the words count.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

MARKER = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight"  # what CLIPLoader knows T5-XXL by, unused otherwise


def main(root: str, file: str, changes: str) -> None:
    sys.path[0] = root
    from comfy.cli_args import args

    args.cpu = True
    import comfy.ops
    import comfy.text_encoders.t5 as t5
    import torch
    from safetensors.torch import save_file

    config = json.loads((Path(root) / "comfy" / "text_encoders" / "t5_config_xxl.json").read_text("utf-8"))
    config |= json.loads(Path(changes).read_text("utf-8"))
    torch.manual_seed(0)
    model = t5.T5(config, torch.float32, "cpu", comfy.ops.manual_cast)
    for name, weight in model.named_parameters():
        if name.endswith("layer_norm.weight"):
            torch.nn.init.ones_(weight)
        else:
            torch.nn.init.normal_(weight, std=1.0 if name == "shared.weight" else 0.1)
    marker = torch.zeros(10240, 4096, dtype=torch.float8_e4m3fn)
    save_file({**model.state_dict(), MARKER: marker}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
