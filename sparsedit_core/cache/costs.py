"""What a sub-layer costs at each level of a plan, in executed MACs, and what keeping its output takes in memory.

Of a self-attention at a share s of N tokens, with keys and values from M tokens of width C:

* queries are made for all N where one layer makes them together with keys and values (dense and sparse blocks): half
  of a fused weight is never cut out, it may be quantised or elsewhere. Generation and recovery blocks have a layer for
  queries alone, which runs on the s N;
* keys and values are made for all M, the selected queries attend to all of them; the output layer runs on s N;
* a Poolingformer's attention is one token: it is computed at every level above 0.

Of the reading of the text: queries, scores and output of s N tokens; the text's keys and values whenever the level is
above 0 (they are not kept from step to step). Of the MLP: s N rows. Level 0 costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..checkpoint import Loaded
from ..config import BackboneConfig, PixArtConfig
from ..cost import caption_length, macs
from ..layout import Role, SegmentLayout
from ..tokens import Grid, default_sparse_grid
from .plan import FULL, LEVELS, CachePlan, rows_at


@dataclass(frozen=True)
class Costs:
    """Executed MACs of one picture and one evaluation.

    ``sublayers``  their names, in the order of the forward pass
    ``macs``       [sub-layer][level]
    ``outside``    what every evaluation computes whatever the plan: embedders, modulation, fusion, pooling, final layer
    """

    sublayers: tuple[str, ...]
    macs: tuple[tuple[int, ...], ...]
    outside: int

    @property
    def dense(self) -> int:
        """MACs with every sub-layer in full: those of the model without a cache."""
        return self.at([FULL] * len(self.sublayers))

    def at(self, levels: Sequence[int]) -> int:
        """MACs of an evaluation with these levels."""
        return self.outside + sum(each[level] for each, level in zip(self.macs, levels, strict=True))


@lru_cache(maxsize=256)
def sublayer_costs(
    config: BackboneConfig, dense: Grid, sparse: Grid | None = None, caption_tokens: int | None = None
) -> Costs:
    """The costs on the token grid ``dense`` (rows, columns), and ``sparse`` for a model with a layout."""
    length = caption_length(config, caption_tokens)
    size = dense[0] * config.patch_size, dense[1] * config.patch_size
    total = macs(config, size, sparse_grid=sparse, factor=1, caption_tokens=length or None)
    names: list[str] = []
    table: list[tuple[int, ...]] = []
    for number, (role, own, context) in enumerate(_blocks(config, dense, sparse)):
        parts = {"self": [_attention(config, role, level, own, context) for level in range(len(LEVELS))]}
        if isinstance(config, PixArtConfig):
            parts["cross"] = [_reading(config, rows_at(level, own), length) for level in range(len(LEVELS))]
        weights = 2 * config.hidden_size * config.mlp_hidden
        parts["mlp"] = [weights * rows_at(level, own) for level in range(len(LEVELS))]
        names += [f"{number}.{part}" for part in parts]
        table += [tuple(values) for values in parts.values()]
    return Costs(tuple(names), tuple(table), total.total - sum(row[FULL] for row in table))


def model_costs(
    loaded: Loaded, size: tuple[int, int] | None = None, caption_tokens: int | None = None
) -> Costs:
    """The costs of a model at a picture ``size`` (height, width) in pixels, ``None`` for its own; of a sparse one on
    its own side."""
    config, factor = loaded.config, loaded.latent.factor
    height, width = config.input_size if size is None else (side // factor for side in size)
    dense = loaded.model.token_grid(height, width)
    sparse = None if config.layout is None else default_sparse_grid(dense, config.sparse_side)
    return sublayer_costs(config, dense, sparse, caption_tokens)


def sublayer_names(config: BackboneConfig) -> tuple[str, ...]:
    """The sub-layers of a model: attention, reading of the text (PixArt) and MLP of every block."""
    parts = ("self", "cross", "mlp") if isinstance(config, PixArtConfig) else ("self", "mlp")
    return tuple(f"{number}.{part}" for number in range(config.depth) for part in parts)


def sublayer_tokens(config: BackboneConfig, dense: Grid, sparse: Grid | None = None) -> dict[str, int]:
    """Tokens of every sub-layer's output; 1 of a Poolingformer's attention."""
    tokens = {}
    blocks = _blocks(config, dense, sparse)
    for name in sublayer_names(config):
        number, part = name.split(".")
        role, own, _ = blocks[int(number)]
        tokens[name] = 1 if role == "pooled" and part == "self" else own
    return tokens


def sublayer_grids(config: BackboneConfig, dense: Grid, sparse: Grid) -> dict[str, Grid]:
    """The grid of every sub-layer's tokens: the dense or the sparse one."""
    blocks, every = _blocks(config, dense, sparse), dense[0] * dense[1]
    return {
        name: dense if blocks[int(name.split(".")[0])][1] == every else sparse for name in sublayer_names(config)
    }


def cache_bytes(
    config: BackboneConfig,
    dense: Grid,
    rows: int,
    itemsize: int,
    *,
    sparse: Grid | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, int]:
    """Bytes that the kept outputs take, by sub-layer; their sum is the memory of a run beside the model.

    ``rows`` pictures evaluated together, both halves of guidance counted; ``itemsize`` bytes of a number (4 for
    float32, 2 for half precision); ``names`` the sub-layers that are kept, all by default.
    """
    tokens = sublayer_tokens(config, dense, sparse)
    wanted = tokens if names is None else names
    return {name: tokens[name] * config.hidden_size * rows * itemsize for name in wanted}


def fit_memory(plan: CachePlan, costs: Costs, sizes: Mapping[str, int], limit: int) -> CachePlan:
    """The plan with as many sub-layers always in full as it takes to keep no more than ``limit`` bytes.

    ``sizes`` are the bytes of every sub-layer that the plan reuses (:func:`cache_bytes`). Those go first that save the
    fewest MACs for their bytes. ``ValueError`` for a limit that leaves nothing to reuse.
    """
    reused = plan.reused()
    need = sum(sizes[name] for name in reused)
    if need <= limit:
        return plan
    saved = {
        name: sum(cost[FULL] - cost[level] for level in levels)
        for name, cost, levels in zip(plan.sublayers, costs.macs, zip(*plan.table, strict=True), strict=True)
    }
    dropped: list[str] = []
    for name in sorted(reused, key=lambda name: saved[name] / sizes[name]):
        if need <= limit:
            break
        dropped.append(name)
        need -= sizes[name]
    if len(dropped) == len(reused):
        smallest = min(sizes[name] for name in reused)
        raise ValueError(
            f"the cache may take {limit} bytes but one sub-layer alone takes {smallest}; raise the limit, or sample "
            "fewer pictures at a time"
        )
    return plan.without_reuse(dropped)


def _blocks(config: BackboneConfig, dense: Grid, sparse: Grid | None) -> list[tuple[Role, int, int]]:
    """Role, own tokens and those of keys and values of every block."""
    N = dense[0] * dense[1]
    M = N if sparse is None else sparse[0] * sparse[1]
    blocks: list[tuple[Role, int, int]] = []
    tokens = N
    for role, start, end in (config.layout or SegmentLayout(0, (), config.depth)).runs():
        for _ in range(start, end):
            if role == "generation":
                tokens = M
            context = N if role == "generation" else tokens
            if role == "recovery":
                tokens = N  # the second one of a module starts from dense tokens
            blocks.append((role, tokens, context))
    return blocks


def _attention(config: BackboneConfig, role: Role, level: int, own: int, context: int) -> int:
    C = config.hidden_size
    rows = rows_at(level, own)
    if not rows:
        return 0
    if role == "pooled":
        return 2 * C * C
    queries = rows if role in ("generation", "recovery") else own
    return (queries + 2 * context + rows) * C * C + 2 * rows * context * C


def _reading(config: BackboneConfig, rows: int, length: int) -> int:
    C = config.hidden_size
    return 2 * (rows + length) * C * C + 2 * rows * length * C if rows else 0
