"""A custom node pack for test servers: core's FLUX.1 and Wan2.1 with the sizes of config.json beside this file.

Core takes some sizes from a file's weights and has the others, billions of weights, written into it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.ldm.wan.vae as wan_vae
import comfy.model_detection as detection
import comfy.text_encoders.flux as flux
import comfy.text_encoders.wan as wan

CONFIG = json.loads((Path(__file__).parent / "config.json").read_text("utf-8"))
NODE_CLASS_MAPPINGS: dict[str, Any] = {}


class TinyFluxClip(flux.FluxClipModel):  # type: ignore[misc]
    """CLIP-L and T5 with other sizes."""

    def __init__(self, model_options: dict[str, Any] | None = None, **keywords: Any) -> None:
        sizes = {"clip_l_model_config": CONFIG["clip_l"], "t5xxl_model_config": CONFIG["t5"]}
        super().__init__(model_options={**(model_options or {}), **sizes}, **keywords)


class TinyUMT5(wan.UMT5XXlModel):  # type: ignore[misc]
    """The same with other sizes."""

    def __init__(self, model_options: dict[str, Any] | None = None, **keywords: Any) -> None:
        super().__init__(model_options={**(model_options or {}), "umt5xxl_model_config": CONFIG["umt5"]}, **keywords)


class TinyWanVAE(wan_vae.WanVAE):  # type: ignore[misc]
    """The same with other sizes."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords | CONFIG["wan_vae"])


def tiny(detect: Any) -> Any:
    """What core finds out about a file, with the sizes that it does not read from it (of FLUX only in 0.3.64)."""

    def detected(*arguments: Any, **keywords: Any) -> Any:
        found = detect(*arguments, **keywords)
        return found | CONFIG.get(found.get("image_model"), {}) if found else found

    return detected


flux.FluxClipModel = TinyFluxClip
wan.UMT5XXlModel = TinyUMT5
wan_vae.WanVAE = TinyWanVAE
detection.detect_unet_config = tiny(detection.detect_unet_config)
