"""Calling a MODEL: one evaluation, or a run of ComfyUI's sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def evaluate(model: Any, x: Tensor, t: Tensor, y: Tensor, **keywords: Any) -> Tensor:
    """The diffusion model's output for x (B, C, H, W), as ComfyUI calls it, weights loaded and patched."""
    import comfy.model_management as mm

    mm.load_models_gpu([model], force_full_load=True)
    inner = model.model
    dtype = inner.manual_cast_dtype or inner.get_dtype()
    with torch.no_grad():
        out = inner.diffusion_model(x.to(dtype), t, transformer_options={}, y=y, **keywords)
    return out.float()


def cancelled(model: Any, stop: int, run: Callable[[Any], object]) -> Any:
    """Give ``run`` a clone of the model whose evaluation number ``stop`` is cancelled; return it once that happened."""
    import comfy.model_management as mm
    from comfy.patcher_extension import WrappersMP

    seen: list[None] = []

    def cancel(executor: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(None)
        if len(seen) == stop:
            raise mm.InterruptProcessingException()
        return executor(*args, **kwargs)

    stopped = model.clone()
    stopped.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "cancel", cancel)
    try:
        run(stopped)
    except mm.InterruptProcessingException:
        return stopped
    raise AssertionError("the run was not cancelled")


def sample(
    model: Any,
    labels: Any = (1,),
    *,
    size: tuple[int, int] = (16, 16),
    batch: int = 1,
    steps: int = 4,
    cfg: float = 3.0,
    sampler: str = "euler",
    scheduler: str = "normal",
    denoise: float = 1.0,
    seed: int = 5,
    hooks: Any = None,
    conditions: tuple[Any, Any] | None = None,
    latent: Tensor | None = None,
    **keywords: Any,
) -> Tensor:
    """The latent of a run with classifier-free guidance, as KSampler makes it.

    ``conditions`` are the positive and negative CONDITIONING instead of ``labels``, ``latent`` the picture to start
    from instead of an empty one.
    """
    import comfy.hooks
    import comfy.sample

    channels = model.model.latent_format.latent_channels
    latent = torch.zeros(batch, channels, *size) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed)
    labelled = [[torch.zeros(1, 1, 1), {"class_label": torch.tensor(list(labels))}]]
    positive, negative = conditions or (labelled, [[torch.zeros(1, 1, 1), {}]])
    if hooks is not None:
        positive, negative = (comfy.hooks.set_hooks_for_conditioning(c, hooks) for c in (positive, negative))
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, scheduler, positive, negative, latent, denoise=denoise, seed=seed,
        disable_pbar=True, **keywords,
    )  # fmt: skip
