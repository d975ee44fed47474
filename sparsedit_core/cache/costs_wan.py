"""What the sub-layers of a Wan2.1 cost at each level of a plan, in executed MACs, and what keeping their outputs takes.

At a share s of N video tokens of width D, with L text tokens and I of a picture:

* ``I.self``  keys and values of all N; queries have a layer of their own and are made for s N, which attend to all
* ``I.cross`` queries and output of s N; keys and values of text and picture whenever the level is above 0
* ``I.mlp``   s N rows

Level 0 costs nothing. Modulation, embedders and the head are outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from .costs import Costs
from .plan import LEVELS, rows_at

TEXT_TOKENS = 512
"""Text tokens: ComfyUI's encoder fills up to as many."""
IMAGE_FEATURES = 1280
"""Width of a picture's CLIP tokens."""


@dataclass(frozen=True)
class WanShape:
    """The sizes of a Wan2.1.

    ``inputs`` and ``outputs`` features of a token before and after the network; ``context`` those of a text token;
    ``frequencies`` those of a time; ``image`` CLIP tokens of the picture that an image-to-video model starts from, 0
    for text-to-video.
    """

    hidden_size: int
    mlp_hidden: int
    depth: int
    inputs: int
    outputs: int
    context: int
    frequencies: int = 256
    image: int = 0


def wan_names(shape: WanShape) -> tuple[str, ...]:
    """The sub-layers in the order of the forward pass."""
    return tuple(f"{number}.{part}" for number in range(shape.depth) for part in ("self", "cross", "mlp"))


@lru_cache(maxsize=256)
def wan_costs(shape: WanShape, tokens: int, text: int = TEXT_TOKENS) -> Costs:
    """The costs of one video of so many tokens and one evaluation, with ``text`` tokens read and one time for all."""
    N, D, read = tokens, shape.hidden_size, text + shape.image
    shares = [rows_at(level, N) for level in range(len(LEVELS))]
    attention = tuple(2 * (N + rows) * D * D + 2 * rows * N * D if rows else 0 for rows in shares)
    cross = tuple(2 * (rows + read) * D * D + 2 * rows * read * D if rows else 0 for rows in shares)
    mlp = tuple(2 * rows * D * shape.mlp_hidden for rows in shares)
    outside = (
        N * D * (shape.inputs + shape.outputs)
        + text * (shape.context + D) * D
        + (shape.frequencies + D) * D
        + 6 * D * D
        + shape.image * IMAGE_FEATURES * (IMAGE_FEATURES + D)
    )
    return Costs(wan_names(shape), (attention, cross, mlp) * shape.depth, outside)


def wan_bytes(shape: WanShape, tokens: int, rows: int, itemsize: int, names: Sequence[str]) -> dict[str, int]:
    """Bytes that the kept outputs of ``names`` take for ``rows`` videos together, ``itemsize`` those of a number."""
    return dict.fromkeys(names, tokens * shape.hidden_size * rows * itemsize)
