"""Key tables: where every tensor of our flat state dict lies in each file layout (CHECKPOINTS 1.1, 1.2, 1.5).

Our flat keys are those of the original DiT, with one ``blocks.N`` list in dense order whose blocks hold
``attn.qkv`` (dense, sparse), ``attn.q`` and ``attn.kv`` (generation, recovery) or ``attn.v`` (pooled). A table maps a
flat key to the file's keys; several of them are concatenated along the rows (q | k | v). Nothing is permuted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..layout import Role, SegmentLayout
from .errors import CheckpointError, listed
from .layouts import DUMBBELL_LISTS, count_blocks, sparsedit_layout

Table = dict[str, tuple[str, ...]]

ATTENTION: dict[Role, tuple[str, ...]] = {
    "pooled": ("v",),
    "generation": ("q", "kv"),
    "sparse": ("qkv",),
    "recovery": ("q", "kv"),
    "dense": ("qkv",),
}
EMBEDDERS = ("x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2")
FINAL = ("final_layer.linear", "final_layer.adaLN_modulation.1")
LABEL_TABLE = "y_embedder.embedding_table.weight"

_DIFFUSERS_EMBEDDERS = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "transformer_blocks.0.norm1.emb.class_embedder.embedding_table",
    "final_layer.linear": "proj_out_2",
    "final_layer.adaLN_modulation.1": "proj_out_1",
}
_DIFFUSERS_BLOCK = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "adaLN_modulation.1": ("norm1.linear",),
}
DIFFUSERS_POSITIONS = "pos_embed.pos_embed"
_DIFFUSERS_COPY = re.compile(
    r"transformer_blocks\.[1-9]\d*\.norm1\.emb\."
    r"(timestep_embedder\.linear_[12]\.(weight|bias)|class_embedder\.embedding_table\.weight)"
)


def dense_roles(depth: int) -> tuple[Role, ...]:
    """The roles of a dense model's blocks."""
    dense: Role = "dense"
    return (dense,) * depth


def block_layers(role: Role) -> tuple[str, ...]:
    """Names of the weighted layers of a block, each with a weight and a bias."""
    fusion = ("merged_layer1", "merged_layer2") if role == "recovery" else ()
    attention = tuple(f"attn.{name}" for name in (*ATTENTION[role], "proj"))
    return (*attention, "mlp.fc1", "mlp.fc2", "adaLN_modulation.1", *fusion)


def flat_keys(roles: Sequence[Role]) -> list[str]:
    """All keys of our flat state dict for blocks of these roles."""
    layers = [
        *EMBEDDERS,
        *(f"blocks.{i}.{name}" for i, role in enumerate(roles) for name in block_layers(role)),
        *FINAL,
    ]
    return ["pos_embed", LABEL_TABLE, *(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))]


def flat_table(roles: Sequence[Role]) -> Table:
    """Our own layout; for dense roles it is the original DiT's."""
    return {key: (key,) for key in flat_keys(roles)}


def sparsedit_prefixes(layout: SegmentLayout) -> tuple[str, ...]:
    """The official name of every block, in the order in which blocks run."""
    names = [f"poolingformer_blocks.{i}" for i in range(layout.bottom)]
    for d, module in enumerate(layout.modules):
        for group, count in zip(DUMBBELL_LISTS, module, strict=True):
            names += [f"dumbbell_blocks.{d}.{group}.{j}" for j in range(count)]
    return (*names, *(f"normal_blocks.{i}" for i in range(layout.top)))


def sparsedit_table(layout: SegmentLayout) -> Table:
    """The official SparseDiT layout."""
    prefixes = sparsedit_prefixes(layout)
    table: Table = {}
    for key in flat_keys(layout.roles):
        if key.startswith("blocks."):
            _, number, rest = key.split(".", 2)
            table[key] = (f"{prefixes[int(number)]}.{rest}",)
        else:
            table[key] = (key,)
    return table


def diffusers_table(depth: int) -> Table:
    """``DiTTransformer2DModel``. Its timestep and label embedders are repeated in every block; block 0's are used."""
    table: Table = {}
    for key in flat_keys(dense_roles(depth)):
        layer, kind = key.rpartition(".")[::2]
        if key == "pos_embed":
            table[key] = (DIFFUSERS_POSITIONS,)
        elif layer.startswith("blocks."):
            _, number, rest = layer.split(".", 2)
            table[key] = tuple(f"transformer_blocks.{number}.{name}.{kind}" for name in _DIFFUSERS_BLOCK[rest])
        else:
            table[key] = (f"{_DIFFUSERS_EMBEDDERS[layer]}.{kind}",)
    return table


def is_diffusers_copy(key: str) -> bool:
    """True for the embedders that diffusers repeats in blocks 1 and on, which nothing reads."""
    return _DIFFUSERS_COPY.fullmatch(key) is not None


def join(state: Mapping[str, Tensor], sources: tuple[str, ...]) -> Tensor:
    """The tensor made of these entries; a single one is passed on without a copy."""
    if len(sources) == 1:
        return state[sources[0]]
    return torch.cat([state[name] for name in sources])


def to_flat(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Our flat state dict; ``CheckpointError`` listing the keys that are missing or left over."""
    table = {key: sources for key, sources in table.items() if sources != (DIFFUSERS_POSITIONS,) or sources[0] in state}
    known = {name for sources in table.values() for name in sources}
    missing = [name for name in known if name not in state]
    unexpected = [name for name in state if name not in known and not is_diffusers_copy(name)]
    if missing or unexpected:
        raise CheckpointError(f"missing keys: {listed(sorted(missing))}; unexpected keys: {listed(sorted(unexpected))}")
    return {key: join(state, sources) for key, sources in table.items()}


def from_flat(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """The file's state dict of this table; joined tensors are split into equal rows."""
    result: dict[str, Tensor] = {}
    for key, sources in table.items():
        for name, part in zip(sources, state[key].chunk(len(sources)), strict=True):
            result[name] = part
    return result


def sparsedit_to_flat(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official SparseDiT state dict to our flat keys (shares memory)."""
    return to_flat(state, sparsedit_table(sparsedit_layout(state)))


def flat_to_sparsedit(state: Mapping[str, Tensor], layout: SegmentLayout) -> dict[str, Tensor]:
    """Our flat keys to the official SparseDiT state dict (shares memory)."""
    return from_flat(state, sparsedit_table(layout))


def diffusers_to_flat(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers DiT state dict to our flat keys, without ``pos_embed``, which that layout does not store."""
    return to_flat(state, diffusers_table(count_blocks(state, "transformer_blocks")))


def flat_to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense flat keys to the diffusers layout: embedders repeated in every block, no position table."""
    depth = count_blocks(state, "blocks")
    result = from_flat(state, {k: v for k, v in diffusers_table(depth).items() if k != "pos_embed"})
    embedders = {key: value for key, value in result.items() if key.startswith("transformer_blocks.0.norm1.emb.")}
    for number in range(1, depth):
        result |= {key.replace(".0.", f".{number}.", 1): value for key, value in embedders.items()}
    return result
