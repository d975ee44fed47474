"""A custom node pack for test servers: core's "pixart" text encoder with the sizes of config.json beside this file.

Core's loader has the sizes of T5-XXL, 4.7 billion weights, written into it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.text_encoders.pixart_t5 as pixart_t5

CONFIG = json.loads((Path(__file__).parent / "config.json").read_text("utf-8"))
NODE_CLASS_MAPPINGS: dict[str, Any] = {}


class TinyT5(pixart_t5.T5XXLModel):  # type: ignore[misc]
    """The same with other sizes."""

    def __init__(self, model_options: dict[str, Any] | None = None, **keywords: Any) -> None:
        super().__init__(model_options={**(model_options or {}), "t5xxl_model_config": CONFIG}, **keywords)


pixart_t5.T5XXLModel = TinyT5
