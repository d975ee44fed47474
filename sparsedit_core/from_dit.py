"""A DiT as the start of a PixArt: the same tokens and blocks, class labels exchanged for captions.

PixArt has one modulation for all blocks, to which each adds a constant table, where every DiT block computes its own
from time and class. The PixArt begins as the DiT without a class: over time, each channel of a block's modulation
becomes ``s * (f(t) + a)``, where f is the same in all blocks, a is the block's table and the factor s goes into the
weights beside it. s and f are the best of that form by least squares (a singular value decomposition), f(t) and the
last layer's modulation are fitted by linear layers on the embedded time. Text is not read yet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import silu

from .checkpoint import Loaded
from .conditions import with_classes
from .config import DiTConfig, PixArtConfig
from .dit import DiT, DiTBlock
from .pixart import PixArt
from .words import initialize_word_table

_TIMES = 401  # a modulation is smooth in time
_RIDGE = 0.1  # of the fits, which otherwise take weights of a hundred for the last per cent
_LARGEST = 8.0  # entry of a table: tables are divided by the factors s, which are kept large enough for it
_PARTS = ((0, "attn.qkv", "attn.proj"), (3, "mlp.fc1", "mlp.fc2"))
"""Of six modulations the first of shift, scale, gate; the layers that the factors of scale and of gate go into."""


def dit_to_pixart(loaded: Loaded, words: tuple[str, ...], caption_tokens: int, *, seed: int = 0) -> Loaded:
    """A dense PixArt for captions of ``words`` (words.py) that begins as ``loaded``, a dense DiT without its classes.

    ``caption_tokens`` are those of the null caption; ``seed`` is that of the layers for text. ``ValueError`` for
    another model, one without a null class, and diffusers' variant of DiT, which embeds time in another way.
    """
    config = with_classes(loaded.config)
    if config.layout is not None or not config.null_class or config.semantics != "original":
        raise ValueError(
            "a PixArt begins as a dense DiT of the original kind that was trained with a null class; this one "
            f"has layout {config.layout}, null class {config.null_class} and is of the {config.semantics} kind"
        )
    model = PixArt(_config(config, len(words), caption_tokens))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model.initialize_weights()
        initialize_word_table(model)
    state, old = model.state_dict(), loaded.model.state_dict()
    state |= {key: old[key].float().clone() for key in state.keys() & old.keys()}
    with torch.no_grad():
        _set_modulations(state, cast(DiT, loaded.model))
    model.load_state_dict(state)
    return replace(loaded, model=model.eval(), config=model.config, class_names=None, words=words)


def _config(config: DiTConfig, channels: int, tokens: int) -> PixArtConfig:
    shared = {name: getattr(config, name) for name in ("input_size", "patch_size", "in_channels", "hidden_size")}
    shared |= {name: getattr(config, name) for name in ("depth", "num_heads", "mlp_ratio", "learn_sigma")}
    return PixArtConfig(**shared, caption_channels=channels, caption_tokens=tokens)


def _set_modulations(state: dict[str, Tensor], model: DiT) -> None:
    """Everything that depends on time: its embedding, the shared modulation, tables, and the layers beside them."""
    times = torch.linspace(0, 1000, _TIMES)
    first, last = model.t_embedder.mlp[0], model.t_embedder.mlp[2]
    hidden: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
    embedded = model.t_embedder(times, first.weight.dtype)
    handle.remove()
    c = embedded + model.y_embedder(torch.tensor([with_classes(model.config).num_classes]), embedded.dtype)
    embedded = _set_time(state, model, hidden[0].double(), model.final_layer.adaLN_modulation(c).double())
    found = torch.stack([cast(DiTBlock, block).adaLN_modulation(c) for block in model.blocks]).double()
    shared, tables = _split(state, found.reshape(*found.shape[:2], 6, -1))
    weight, bias = _fit(silu(embedded), shared.flatten(1))
    state |= {"t_block.1.weight": weight, "t_block.1.bias": bias}
    state |= {f"blocks.{number}.scale_shift_table": table.float() for number, table in enumerate(tables)}


def _set_time(state: dict[str, Tensor], model: DiT, hidden: Tensor, final: Tensor) -> Tensor:
    """The time's embedding (T, D) from the hidden layer (T, D): PixArt adds it to both tables of the last layer.

    It is the least squares of what the output (W its layer) makes of wrong shifts, W (e - shift), and of wrong scales
    of normalised tokens, whose channels are taken as independent.
    """
    shift, scale = final.chunk(2, dim=1)
    weight = model.final_layer.linear.weight.double()
    seen = weight.T @ weight
    alone = torch.diag(torch.diag(seen))
    moving = (shift - shift.mean(0)) @ seen + (scale - scale.mean(0)) @ alone
    wanted = torch.linalg.lstsq(seen + alone, moving.T).solution.T
    fitted, bias = _fit(hidden, wanted)
    state |= {"t_embedder.mlp.2.weight": fitted, "t_embedder.mlp.2.bias": bias}
    embedded = hidden @ fitted.T.double() + bias.double()
    state["final_layer.scale_shift_table"] = torch.stack([(part - embedded).mean(0) for part in (shift, scale)]).float()
    return embedded


def _split(state: dict[str, Tensor], found: Tensor) -> tuple[Tensor, Tensor]:
    """Modulations (N, T, 6, D) as shared ones (T, 6, D) and tables (N, 6, D); their factors go into ``state``."""
    mean = found.mean(dim=1)
    moving = found - mean[:, None]
    shared, tables = torch.empty_like(found[0]), torch.empty_like(mean)
    for first, entering, leaving in _PARTS:
        shift, scale, gate = first, first + 1, first + 2
        together = torch.cat([moving[:, :, shift], moving[:, :, scale]], dim=1)
        factor, both = _factors(together, torch.stack([mean[:, shift], 1 + mean[:, scale]]))
        shared[:, shift], shared[:, scale] = both.chunk(2)
        tables[:, shift], tables[:, scale] = mean[:, shift] / factor, (1 + mean[:, scale]) / factor - 1
        gates, shared[:, gate] = _factors(moving[:, :, gate], mean[None, :, gate])
        tables[:, gate] = torch.where(gates == 0, 0, mean[:, gate] / gates)  # 0 / 0: the layer gives nothing anyhow
        for number, (columns, rows) in enumerate(zip(factor.float(), gates.float(), strict=True)):
            block = f"blocks.{number}"
            state[f"{block}.{entering}.weight"] = state[f"{block}.{entering}.weight"] * columns
            for name, by in (("weight", rows[:, None]), ("bias", rows)):
                state[f"{block}.{leaving}.{name}"] = state[f"{block}.{leaving}.{name}"] * by
    return shared, tables


def _factors(moving: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """For every channel of (N, T, D) the factors (N, D) of mean square 1 and the course (T, D) that fit it best.

    ``means`` (K, N, D) will be divided by the factors.
    """
    left, sizes, right = torch.linalg.svd(moving.permute(2, 0, 1), full_matrices=False)
    factors = left[:, :, 0].T * len(moving) ** 0.5
    course = (sizes[:, :1] * right[:, 0]).T / len(moving) ** 0.5
    sign = torch.where(factors.sum(0) < 0, -1.0, 1.0).double()
    factors, course = factors * sign, course * sign
    least = means.abs().amax(0) / _LARGEST
    return torch.where(factors < 0, -1.0, 1.0) * torch.maximum(factors.abs(), least), course


def _fit(inputs: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias, float32, of the linear layer from (T, D) to (T, O) by least squares with a ridge."""
    inputs = torch.nn.functional.pad(inputs, (0, 1), value=1.0)
    ridge = _RIDGE**0.5 * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    rows = torch.cat([inputs, ridge]), torch.nn.functional.pad(wanted, (0, 0, 0, len(ridge)))
    solution = torch.linalg.lstsq(*rows).solution.float()
    return solution[:-1].T.contiguous(), solution[-1].contiguous()
