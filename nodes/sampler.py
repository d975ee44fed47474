"""Sampling within a node, as ComfyUI's KSampler does it, and the inputs for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
from comfy_api.latest import io


def sampled(
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    seed: int,
    callback: Callable[[int, Any, Any, int], None],
    options: dict[str, Any],
) -> Any:
    """The samples that ComfyUI's KSampler gives for the same inputs."""
    ratios = {key: value for key, value in latent.items() if key.startswith("downscale_ratio_")}  # of newer ComfyUIs
    image = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)
    noise = comfy.sample.prepare_noise(image, seed, latent.get("batch_index"))
    return comfy.sample.sample(
        model,
        noise,
        positive=positive,
        negative=negative,
        latent_image=image,
        noise_mask=latent.get("noise_mask"),
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
        **options,
    )


def first_of(latent: dict[str, Any]) -> dict[str, Any]:
    """The first picture of a LATENT."""
    per_picture = ("samples", "noise_mask", "batch_index")
    return {key: value[:1] if key in per_picture else value for key, value in latent.items()}


def sampler_inputs(each: str) -> list[io.Input]:
    """seed, steps, cfg, sampler_name, scheduler and denoise, the same for ``each`` of a node's samplings."""
    sampler = comfy.samplers.KSampler
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip=f"Makes the noise, the same one for every {each}.",
        ),
        io.Int.Input(
            "steps", default=20, min=1, max=10000, tooltip=f"Steps of each sampling, the same for every {each}."
        ),
        io.Float.Input(
            "cfg",
            default=4.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Scale of classifier-free guidance. Higher follows the condition more; 1 turns it off and halves "
            "the work.",
        ),
        io.Combo.Input("sampler_name", options=list(sampler.SAMPLERS), tooltip="As in KSampler."),
        io.Combo.Input("scheduler", options=list(sampler.SCHEDULERS), tooltip="Places the steps, as in KSampler."),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Part of the noising that is undone. Lower keeps more of the picture given as latent_image.",
        ),
    ]
