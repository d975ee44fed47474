"""A trained dense DiT as the start of a larger one: larger pictures (patches grow), or more blocks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .checkpoint import Loaded
from .config import DiTConfig
from .dit import DiT


def grow_patches(loaded: Loaded, factor: int = 2) -> Loaded:
    """A pixel model of pictures with ``factor`` times the side that draws the old pictures, enlarged.

    Patches grow with the pictures, so the tokens, their positions and all blocks stay what they are. The new model sees
    the mean over boxes of ``factor`` x ``factor`` pixels, whose noise is ``factor`` times weaker than a pixel's. It
    works at 1 / ``factor`` of the contrast, where signal and noise of the mean are in the old proportion, and is then
    exactly the old one: ``new(x) = repeat(old(factor * mean(x))) / factor``. Detail inside a box is left to training.

    ``ValueError`` for a model that is no rectified flow of pixels (other noise schedules do not scale so) or is sparse
    (grow the dense model first), and for a factor below 2.
    """
    config = loaded.config
    if not isinstance(config, DiTConfig):
        raise ValueError(f"patches grow in DiT models; this is a {config.family}")
    if loaded.latent.kind != "pixel" or loaded.prediction != "flow" or config.layout is not None:
        kind = "dense" if config.layout is None else "sparse"
        raise ValueError(
            f"patches grow in dense rectified-flow models of pixels; this one is {kind}, predicts "
            f"{loaded.prediction} and works on {loaded.latent.kind}s"
        )
    if factor < 2:
        raise ValueError(f"the growth factor is {factor}; give a whole number of at least 2")
    height, width = config.input_size
    grown = replace(config, input_size=(height * factor, width * factor), patch_size=config.patch_size * factor)
    state = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    # the mean over a box, times factor
    kernel = state["x_embedder.proj.weight"]
    state["x_embedder.proj.weight"] = _repeat(kernel, factor, (2, 3)) / factor
    for name in ("weight", "bias"):
        key = f"final_layer.linear.{name}"
        state[key] = _grow_output(state[key], config.patch_size, factor) / factor
    with torch.device("meta"):
        model = DiT(grown)
    model.load_state_dict(state, assign=True)
    model.pos_embed.requires_grad_(False)
    latent = replace(loaded.latent, scale=loaded.latent.scale / factor)
    return replace(loaded, model=model.train(loaded.model.training), config=grown, latent=latent)


def grow_depth(loaded: Loaded, depth: int) -> Loaded:
    """A model of ``depth`` blocks with the same output: old blocks spread evenly, new ones between that do nothing yet.

    A new block is a copy of the old one before it with both gates of its modulation zero, so that training opens it
    (the identity start of adaLN-Zero). ``ValueError`` for a model that is sparse, of another family or not shallower.
    """
    config = loaded.config
    if not isinstance(config, DiTConfig) or config.layout is not None or depth <= config.depth:
        kind = f"{config.family}, {config.depth} blocks, {config.layout or 'dense'}"
        raise ValueError(f"the depth of a dense DiT can grow to more blocks; asked for {depth}, the model is {kind}")
    state = {key: value for key, value in loaded.model.state_dict().items() if not key.startswith("blocks.")}
    places = [number * depth // config.depth for number in range(config.depth)]
    for place in range(depth):
        number = max(old for old in range(config.depth) if places[old] <= place)
        for key, value in loaded.model.blocks[number].state_dict().items():
            state[f"blocks.{place}.{key}"] = value
            if places[number] < place and key.startswith("adaLN_modulation."):
                state[f"blocks.{place}.{key}"] = _closed(value)
    deeper = replace(config, depth=depth)
    with torch.device("meta"):
        model = DiT(deeper)
    model.load_state_dict({key: value.clone() for key, value in state.items()}, assign=True)
    model.pos_embed.requires_grad_(False)
    return replace(loaded, model=model.train(loaded.model.training), config=deeper)


def _closed(rows: Tensor) -> Tensor:
    """The rows of a modulation (shift, scale, gate of attention and of MLP) with zeros for the gates."""
    parts = list(rows.chunk(6))
    parts[2], parts[5] = torch.zeros_like(parts[2]), torch.zeros_like(parts[5])
    return torch.cat(parts)


def _grow_output(rows: Tensor, patch: int, factor: int) -> Tensor:
    """Output rows, one for each (row, column, channel) of a patch, with every pixel's repeated over its box."""
    pixels = rows.reshape(patch, patch, -1, *rows.shape[1:])
    return _repeat(pixels, factor, (0, 1)).flatten(0, 2)


def _repeat(values: Tensor, factor: int, dims: tuple[int, int]) -> Tensor:
    for dim in dims:
        values = values.repeat_interleave(factor, dim)
    return values
