"""Tiny PixArts: files of ours, MODELs of our loader, and the same weights in ComfyUI's own class."""

from __future__ import annotations

from typing import Any

import files
import sampling
import torch
from comfy_pack import pack, run
from torch import Tensor

WIDTH, HEADS, TEXT, ROWS = 48, 3, 20, 6
SPARSE = "1+1x[1,2,1,1]+1"
IDENTITY = "0+2x[1,1,1,0]+1"  # no Poolingformer
FULL = (8, 8)  # tokens of X
X = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
T = torch.tensor([800.0, 90.0])
CAPTIONS = torch.randn(2, 9, TEXT, generator=torch.Generator().manual_seed(6))


def config(layout: str | None = None, **changes: Any) -> Any:
    """7 blocks with positions of base 32, as ComfyUI's class has them, or those of 1024 px with size conditions."""
    parsed = pack("sparsedit_core.layout").SegmentLayout.parse(layout) if layout else None
    micro = changes.get("micro_conditioning", False)
    values: dict[str, Any] = {
        "input_size": (128, 128) if micro else (64, 64), "position_scale": 2.0 if micro else 1.0,
        "hidden_size": WIDTH, "depth": 7, "num_heads": HEADS, "caption_channels": TEXT, "caption_tokens": ROWS,
        "layout": parsed, "sparse_side": 12,
    }  # fmt: skip
    return pack("sparsedit_core.config").PixArtConfig(**values | changes)


def core(layout: str | None = None, seed: int = 0, **changes: Any) -> Any:
    """The core's model, every weight random."""
    model = pack("sparsedit_core.pixart").PixArt(config(layout, **changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def load(layout: str | None = None, name: str = "pixart.safetensors", *, dtype: str = "fp32", **changes: Any) -> Any:
    """A MODEL of our loader."""
    description = {key: changes.pop(key) for key in ("schedule", "latent", "prediction") if key in changes}
    description.setdefault("latent", pack("sparsedit_core.checkpoint").Latent())  # else 6 text tokens count as Sigma
    files.save(core(layout, **changes), name, **description)
    return run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype=dtype)


def stock(
    seed: int = 0,
    *,
    micro: bool = False,
    dtype: torch.dtype = torch.float32,
    factory: bool = True,
    rows: int = ROWS,
    **settings: Any,
) -> Any:
    """ComfyUI's own dense PixArt with the weights of :func:`core`, as its loaders build it.

    ``settings`` are more of what ComfyUI's detection finds out: ``image_model``, ``pe_interpolation``, ``input_size``.
    """
    state = core(seed=seed, micro_conditioning=micro, caption_tokens=rows).state_dict()
    settings |= {"micro_condition": micro, "model_max_length": rows}
    made = build(state, dtype, settings)
    if factory and hasattr(made, "cached_patcher_init"):
        made.cached_patcher_init = (build, (state, dtype, settings))
    return made


def build(
    state: dict[str, Tensor], dtype: torch.dtype, settings: dict[str, Any], disable_dynamic: bool = False
) -> Any:
    """ComfyUI's loader finds only PixArts of width 1152, so the tiny one is built as it would."""
    import comfy.model_patcher
    import comfy.supported_models

    found = {
        "image_model": "pixart_alpha", "num_heads": HEADS, "patch_size": 2, "hidden_size": WIDTH, "in_channels": 4,
        "depth": 7, "caption_channels": TEXT, **settings,
    }  # fmt: skip
    alpha = found["image_model"] == "pixart_alpha"
    wanted = (comfy.supported_models.PixArtAlpha if alpha else comfy.supported_models.PixArtSigma)(found)
    wanted.set_inference_dtype(dtype, None if dtype == torch.float32 else torch.float32)
    inner = wanted.get_model(state)
    inner.load_model_weights(dict(state), "")
    plain = comfy.model_patcher.ModelPatcher
    patcher = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    return patcher(inner, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def evaluate(model: Any, x: Tensor = X, t: Tensor = T, text: Tensor = CAPTIONS, **keywords: Any) -> Tensor:
    """The network's output, as ComfyUI calls it, weights loaded and patched."""
    import comfy.model_management as mm

    mm.load_models_gpu([model], force_full_load=True)
    inner = model.model
    dtype = inner.manual_cast_dtype or inner.get_dtype()
    with torch.no_grad():
        out = inner.diffusion_model(x.to(dtype), t, text.to(dtype), transformer_options={}, **keywords)
    return out.float()


def text(tokens: int, seed: int = 1, features: int = TEXT, **extra: Any) -> list[list[Any]]:
    """CONDITIONING as CLIP Text Encode makes it, of random features."""
    encoded = torch.randn(1, tokens, features, generator=torch.Generator().manual_seed(seed))
    return [[encoded, {"pooled_output": None, **extra}]]


def sample(model: Any, *, positive: int = 7, negative: int = 4, **keywords: Any) -> Tensor:
    """A run of ComfyUI's sampler on captions of so many tokens."""
    conditions = keywords.pop("conditions", None) or (text(positive), text(negative, seed=2))
    return sampling.sample(model, conditions=conditions, **keywords)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def spied(model: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A clone, and a list of what every call of its network was given."""
    from comfy.patcher_extension import WrappersMP

    calls: list[dict[str, Any]] = []

    def spy(executor: Any, x: Any, t: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append({"shape": tuple(x.shape), "t": float(t[0]), "text": tuple(context.shape), **kwargs})
        return executor(x, t, context, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "spy", spy)
    return clone, calls
