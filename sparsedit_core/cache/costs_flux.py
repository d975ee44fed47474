"""What the sub-layers of a FLUX cost at each level of a plan, in executed MACs, and what keeping their outputs takes.

Of N image tokens a share s is computed, of T text tokens all. So are reference pictures' tokens (Kontext): they cost
what text tokens cost, but for the layers outside the blocks.

* ``double.I.self`` joint attention: queries, keys and values are made for all (one fused layer makes them); the queries
  of text and of s N attend to all; the output layers run on the same. Its text is kept and reused with it.
* ``double.I.mlp`` the image's MLP on s N; the text's own runs always and counts as outside.
* ``single.I.block`` one layer makes queries, keys, values and the MLP's input of all tokens; text and s N attend to all
  and go through the output layer.

Level 0 costs nothing. Modulation, embedders and the final layer are outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..tokens import Grid
from .costs import Costs
from .plan import LEVELS, rows_at

TEXT_TOKENS = 256
"""Text tokens of a short prompt: ComfyUI's encoder fills up to as many."""
_FREQUENCIES = 256  # width of the features of a time or guidance


@dataclass(frozen=True)
class FluxShape:
    """The sizes of a FLUX.1.

    ``inputs`` and ``outputs`` features of an image token before and after the network; ``context`` those of a text
    token; ``vector`` those of the pooled text; ``guidance`` whether it embeds a guidance scale.
    """

    hidden_size: int
    mlp_hidden: int
    depth: int
    depth_single: int
    inputs: int
    outputs: int
    context: int
    vector: int
    guidance: bool


def flux_names(shape: FluxShape) -> tuple[str, ...]:
    """The sub-layers in the order of the forward pass."""
    double = [f"double.{number}.{part}" for number in range(shape.depth) for part in ("self", "mlp")]
    return (*double, *(f"single.{number}.block" for number in range(shape.depth_single)))


@lru_cache(maxsize=256)
def flux_costs(shape: FluxShape, grid: Grid, text: int = TEXT_TOKENS, reference: int = 0) -> Costs:
    """The costs on an image grid (rows, columns) with ``text`` tokens read and ``reference`` tokens of other pictures.

    Costs are of one picture and one evaluation.
    """
    N, D, H = grid[0] * grid[1], shape.hidden_size, shape.mlp_hidden
    always = text + reference  # computed whenever a sub-layer runs at all
    total, levels = N + always, range(len(LEVELS))

    def joint(rows: int) -> int:
        return total * 3 * D * D + 2 * (rows + always) * total * D + (rows + always) * D * D if rows else 0

    def single(rows: int) -> int:
        into, out = D * (3 * D + H), D * (D + H)
        return total * into + (rows + always) * (2 * total * D + out) if rows else 0

    attention = tuple(joint(rows_at(level, N)) for level in levels)
    mlp = tuple(2 * D * H * rows_at(level, N) + (2 * D * H * reference if level else 0) for level in levels)
    block = tuple(single(rows_at(level, N)) for level in levels)
    outside = (
        (N + reference) * D * (shape.inputs + shape.outputs)
        + text * shape.context * D
        + (1 + shape.guidance) * (_FREQUENCIES + D) * D
        + (shape.vector + D) * D
        + 2 * D * D  # the final layer's modulation
        + shape.depth * (12 * D * D + 2 * D * H * text)
        + shape.depth_single * 3 * D * D
    )
    return Costs(flux_names(shape), (attention, mlp) * shape.depth + (block,) * shape.depth_single, outside)


def flux_bytes(
    shape: FluxShape, grid: Grid, text: int, rows: int, itemsize: int, names: Sequence[str], reference: int = 0
) -> dict[str, int]:
    """Bytes that the kept outputs of the sub-layers ``names`` take, for ``rows`` pictures evaluated together.

    Text is kept with a sub-layer whose attention makes it; ``itemsize`` bytes of a number.
    """
    tokens = grid[0] * grid[1] + reference
    return {
        name: (tokens + (0 if name.endswith(".mlp") else text)) * shape.hidden_size * rows * itemsize for name in names
    }
