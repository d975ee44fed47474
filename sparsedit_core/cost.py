"""What one evaluation of a dense or sparse DiT or PixArt costs in multiply-accumulates (MACs); 1 MAC = 2 FLOPs.

Three conventions:

``"executed"``    every multiply of a matrix product, convolution or attention that the model's forward
                  runs, the exact savings of PAPERS 1.4 included; half of what torch's ``FlopCounterMode`` counts
``"algorithm"``   the method as published, without those savings: V of a Poolingformer on all tokens and its
                  N x N mean as a matrix, W1 on the upsampled tokens; normalisation, pooling and upsampling
                  counted per element
``"paper"``       like ``"algorithm"``, but without the attention products of generation and recovery blocks:
                  the numbers the paper prints as "FLOPs" (PAPERS 1.3)

The reading of the text (PixArt) is counted in all three, its attention products included. The paper's PixArt-alpha row
of 256 px, 148.73 -> 91.62 G, is met within 0.3 %: 149.12 -> 91.48 with "2+4x[2,2,1,1]+2" on 8x8 tokens (93.0 with no
Poolingformer, 92.2 with one). The paper tells neither layout nor caption length: the caption's own projection, 0.73 G,
in or out moves the dense count from one side of the printed number to the other, so that the row tells no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from .config import ALPHA_TOKENS, SIGMA_TOKENS, BackboneConfig, DiTConfig, PixArtConfig, check_side
from .layout import Role, SegmentLayout
from .tokens import Grid, check_grid, default_sparse_grid

Convention = Literal["executed", "algorithm", "paper"]
Parts = Counter[tuple[str, str]]

NORM, FREQUENCIES = 4, 256  # element-wise operations of a LayerNorm; width of the timestep features

_WIDTHS = {"XL": (1152, 28, 16), "L": (1024, 24, 16), "B": (768, 12, 12), "S": (384, 12, 6)}
MODELS: dict[str, BackboneConfig] = {
    f"DiT-{name}/{patch}": DiTConfig(hidden_size=width, depth=depth, num_heads=heads, patch_size=patch)
    for name, (width, depth, heads) in _WIDTHS.items()
    for patch in (2, 4, 8)
}
_SIZES = {"-256": 32, "": 64, "-1024": 128, "-2K": 256}  # latent sides; without a size 512 px
MODELS |= {
    f"PixArt-XL/2{size}": PixArtConfig(
        input_size=(side, side), position_scale=max(1.0, side / 64), micro_conditioning=side == 128
    )
    for size, side in _SIZES.items()
    if side <= 128
}
MODELS |= {
    f"PixArt-Sigma-XL/2{size}": PixArtConfig(
        input_size=(side, side), position_scale=side / 64, caption_tokens=SIGMA_TOKENS
    )
    for size, side in _SIZES.items()
}
"""The sizes of the DiT paper (ImageNet classes, 256 px) and the released PixArt-alpha and -Sigma (CHECKPOINTS 2)."""


@dataclass(frozen=True)
class Cost:
    """MACs of one image and one evaluation (with classifier-free guidance an image needs two).

    ``parts``  MACs by kind of work: embedding, qkv, attention, projection, text, mlp, modulation, fusion,
               pooling, norm, final
    ``roles``  MACs by the role of the block, and ``"outside"`` for embedders and the final layer
    """

    parts: Mapping[str, int]
    roles: Mapping[str, int]
    convention: Convention
    dense_grid: Grid
    sparse_grid: Grid | None

    @property
    def total(self) -> int:
        """All MACs."""
        return sum(self.parts.values())

    @property
    def flops(self) -> int:
        """All floating-point operations, two per MAC."""
        return 2 * self.total

    def __int__(self) -> int:
        return self.total

    def to_json(self) -> dict[str, Any]:
        """Plain values: ``macs`` and ``flops``, and the MACs by part and role."""
        return {
            "convention": self.convention,
            "macs": self.total,
            "flops": self.flops,
            "dense_grid": list(self.dense_grid),
            "sparse_grid": list(self.sparse_grid) if self.sparse_grid else None,
            "macs_by_part": dict(self.parts),
            "macs_by_role": dict(self.roles),
        }


def macs(
    model: str | BackboneConfig,
    image_size: int | tuple[int, int] | None = None,
    layout: SegmentLayout | str | None = None,
    sparse_side: int | None = None,
    sparse_grid: Grid | None = None,
    convention: Convention = "executed",
    *,
    factor: int | None = None,
    caption_tokens: int | None = None,
) -> Cost:
    """The cost of one image and one evaluation.

    ``model``        a name of :data:`MODELS` or a config; ``layout`` replaces the config's
    ``image_size``   side or (height, width) in pixels; ``None`` is the config's own ``input_size``
    ``sparse_side``  side of the sparse grid, aspect kept on other pictures; ``None`` is the config's, 8
    ``sparse_grid``  the sparse grid itself, instead of a side
    ``factor``       pixels per model input pixel; ``None`` is 1 for 3 channels (pixels), else 8 (latents)
    ``caption_tokens``  text tokens that a PixArt reads, masked ones too; ``None``: see :func:`caption_length`

    ``ValueError`` for an unknown name or convention, a size below one input pixel, a layout of another depth,
    a sparse side or grid that does not fit or has no layout, and captions of a model of classes.
    """
    config = model_config(model, layout)
    if convention not in get_args(Convention):
        raise ValueError(f"convention is {convention!r}; choose one of {', '.join(get_args(Convention))}")
    dense = token_grid(config, image_size, factor=factor)
    sparse = None
    if config.layout is not None:
        side = config.sparse_side if sparse_side is None else check_side(sparse_side, dense)
        sparse = default_sparse_grid(dense, side) if sparse_grid is None else check_grid(sparse_grid, dense)
    elif sparse_grid is not None:
        raise ValueError(
            f"sparse_grid={sparse_grid} was given for a dense model; give a layout or leave it out"
        )
    parts = _count(config, dense, sparse or dense, caption_length(config, caption_tokens), convention)
    return Cost(_sums(parts, 1), _sums(parts, 0), convention, dense, sparse)


def model_config(model: str | BackboneConfig, layout: SegmentLayout | str | None = None) -> BackboneConfig:
    """The config behind a name of :data:`MODELS` (or a config as it is), with ``layout`` if one is given."""
    if isinstance(model, str):
        if model not in MODELS:
            raise ValueError(f"unknown model {model!r}; choose one of {', '.join(MODELS)}")
        model = MODELS[model]
    if layout is None:
        return model
    return replace(model, layout=SegmentLayout.parse(layout) if isinstance(layout, str) else layout)


def caption_length(config: BackboneConfig, wanted: int | None = None) -> int:
    """Text tokens of a caption: those ``wanted``, else the null caption's, else alpha's; 0 of a model of classes."""
    if not isinstance(config, PixArtConfig):
        if wanted is not None:
            raise ValueError(f"captions of {wanted} tokens were given for a model of classes; leave them out")
        return 0
    if wanted is not None and wanted < 1:
        raise ValueError(f"a caption of {wanted} tokens cannot be read; give 1 or more")
    return wanted or config.caption_tokens or ALPHA_TOKENS


def token_grid(
    config: BackboneConfig, image_size: int | tuple[int, int] | None, *, factor: int | None = None
) -> Grid:
    """Dense token grid (rows, columns) of a picture in pixels; parts of a latent pixel are cut off."""
    factor = (1 if config.in_channels == 3 else 8) if factor is None else factor
    if image_size is None:
        size = config.input_size
    else:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        size = height // factor, width // factor
    if min(size) < 1:
        raise ValueError(
            f"image size {image_size} is below one input pixel; give {factor} pixels a side or more"
        )
    return -(-size[0] // config.patch_size), -(-size[1] // config.patch_size)


def _sums(parts: Parts, key: int) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for names, value in parts.items():
        sums[names[key]] += value
    return {name: value for name, value in sums.items() if value}


def _count(config: BackboneConfig, dense: Grid, sparse: Grid, L: int, convention: Convention) -> Parts:
    executed = convention == "executed"
    N, M = dense[0] * dense[1], sparse[0] * sparse[1]
    parts = _outside(config, N, L, executed)
    layout = config.layout or SegmentLayout(0, (), config.depth)
    tokens = N
    for role, start, end in layout.runs():
        if role == "generation":
            tokens = M
            parts += _pooling(config, dense, sparse, executed)
        for _ in range(start, end):
            context = N if role == "generation" else tokens
            if role == "recovery":
                tokens = N  # a second recovery block of a module starts from dense tokens
            parts += _block(config, role, tokens, context, L, convention)
        if role == "recovery" and not executed:
            parts["recovery", "pooling"] += N * config.hidden_size  # upsampling, per element
    return parts


def _outside(config: BackboneConfig, N: int, L: int, executed: bool) -> Parts:
    C, patch = config.hidden_size, config.patch_size**2
    parts = {
        "embedding": N * C * patch * config.in_channels + FREQUENCIES * C + C * C,
        "final": N * C * patch * config.out_channels,
        "modulation": 2 * C * C,
        "norm": 0 if executed else NORM * N * C,
    }
    if isinstance(config, PixArtConfig):
        parts["text"] = L * C * (config.caption_channels + C)
        parts["modulation"] = 6 * C * C  # once for all blocks; the final layer has a table
        if config.micro_conditioning:  # three numbers, embedded like timesteps
            parts["embedding"] += 3 * (FREQUENCIES + C // 3) * (C // 3)
    return Counter({("outside", name): value for name, value in parts.items()})


def _pooling(config: BackboneConfig, dense: Grid, sparse: Grid, executed: bool) -> Parts:
    """Tokens to the sparse grid: two averaging matrices (tokens.pool), or one operation per element."""
    C, (H, W), (h, w) = config.hidden_size, dense, sparse
    if not executed:
        return Counter({("generation", "pooling"): H * W * C})
    once = 0 if dense == sparse else H * w * W * C + h * H * w * C
    return Counter({("generation", "pooling"): once * (2 if config.reinject_positions else 1)})


def _block(config: BackboneConfig, role: Role, n: int, m: int, L: int, convention: Convention) -> Parts:
    """One block on n tokens whose keys and values come from m tokens, and that reads L tokens of text."""
    C = config.hidden_size
    executed, crossed = convention == "executed", role in ("generation", "recovery")
    parts = {"qkv": (n + 2 * m) * C * C, "attention": 2 * n * m * C, "projection": n * C * C}
    if role == "pooled":
        rows = 1 if executed else n
        parts = {"qkv": rows * C * C, "attention": 0 if executed else n * n * C, "projection": rows * C * C}
    elif crossed and convention == "paper":
        parts["attention"] = 0
    if role == "recovery":
        parts["fusion"] = ((m if executed else n) + n) * C * C  # W1 runs on the sparse tokens, W2 on all
    parts["mlp"] = 2 * n * C * config.mlp_hidden
    normed = 2 * n + (m if crossed else 0)
    if isinstance(config, PixArtConfig):
        parts["text"] = 2 * (n + L) * C * C + 2 * n * L * C
        normed += (n + m) * (config.qk_norm and role != "pooled")
    else:
        parts["modulation"] = 6 * C * C
    parts["norm"] = 0 if executed else NORM * C * normed
    return Counter({(role, name): value for name, value in parts.items()})
