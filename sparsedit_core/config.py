"""What a backbone is built from: DiT and PixArt share most of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar, get_args

from .layout import SegmentLayout

Semantics = Literal["original", "diffusers"]
Family = Literal["dit", "pixart"]
ALPHA_TOKENS, SIGMA_TOKENS = 120, 300
"""Text tokens of PixArt-alpha and of PixArt-Sigma."""

ConfigT = TypeVar("ConfigT", bound="BackboneConfig")

_MAX_MLP_RATIO = 64
_MAX_SCALE = 1000.0


@dataclass(frozen=True)
class BackboneConfig:
    """What every backbone has: shapes of the dense transformer and, with a layout, how it is made sparse.

    ``input_size``           (height, width) of the latent that the positions belong to; other sizes are possible
    ``learn_sigma``          output has ``2 * in_channels`` channels, the second half interpolates the variance
    ``layout``               ``None`` is the dense model
    ``sparse_side``          side of the sparse token grid used when the caller gives none (official ``semantic_size``)
    ``reinject_positions``   add the positions again where tokens become sparse and dense (the paper's text; the
                             released code does not, so files in its format keep ``False``)
    """

    input_size: tuple[int, int] = (32, 32)
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    learn_sigma: bool = True
    layout: SegmentLayout | None = None
    sparse_side: int = 8
    reinject_positions: bool = False

    family: ClassVar[Family]
    """The backbone's name, as checkpoints store it."""
    _counts: ClassVar[tuple[str, ...]] = (
        "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "sparse_side"
    )  # fmt: skip
    _switches: ClassVar[tuple[str, ...]] = ("learn_sigma", "reinject_positions")

    def __post_init__(self) -> None:
        self._check_values()
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden size {self.hidden_size} cannot be split into {self.num_heads} heads; give a number of heads "
                "that divides it"
            )
        if self.hidden_size % 4:
            raise ValueError(f"hidden size {self.hidden_size} is no multiple of 4, which the 2-D position table needs")
        if any(side % self.patch_size for side in self.input_size):
            raise ValueError(f"input size {self.input_size} is no multiple of the patch size {self.patch_size}")
        if self.layout is not None:
            self.layout.check_depth(self.depth)

    def _check_values(self) -> None:
        """Each value by itself: configs also come out of files."""
        counts = {name: getattr(self, name) for name in self._counts}
        for name, value in (counts | dict(zip(("height", "width"), self.input_size, strict=True))).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of 1 or more")
        for name in self._switches:
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        ratio = self.mlp_ratio
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= _MAX_MLP_RATIO:
            raise ValueError(f"mlp_ratio is {ratio!r}; it must be a number above 0, at most {_MAX_MLP_RATIO}")
        if self.mlp_hidden < 1:
            raise ValueError(f"mlp_ratio {ratio:g} leaves the hidden size {self.hidden_size} no MLP; give a larger one")

    @property
    def out_channels(self) -> int:
        """Channels of the model's output."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Token grid (rows, columns) of ``input_size``."""
        return self.input_size[0] // self.patch_size, self.input_size[1] // self.patch_size

    @property
    def mlp_hidden(self) -> int:
        """Width of the MLP's hidden layer."""
        return int(self.hidden_size * self.mlp_ratio)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values; the layout as its text."""
        return asdict(self) | {"input_size": list(self.input_size), "layout": self.layout and str(self.layout)}

    @classmethod
    def from_json(cls: type[ConfigT], data: Mapping[str, Any]) -> ConfigT:
        """The inverse of :meth:`to_json`; unknown names are an error, so that a newer file is not half understood."""
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(
                f"model config has unknown entries {sorted(unknown)}; the file needs a newer SparseDiT version"
            )
        values = dict(data)
        if "input_size" in values:
            values["input_size"] = (int(values["input_size"][0]), int(values["input_size"][1]))
        if values.get("layout") is not None:
            values["layout"] = SegmentLayout.parse(values["layout"])
        return cls(**values)


@dataclass(frozen=True)
class DiTConfig(BackboneConfig):
    """A class-conditional DiT (Peebles and Xie 2023, table 1) or SparseDiT.

    ``null_class``   the label table has one row more than ``num_classes`` for "no class"
    ``semantics``    ``"diffusers"``: timestep frequencies i/127 and epsilon 1e-5 in the second norm, as the diffusers
                     class computes them; ``"original"``: i/128 and 1e-6
    """

    num_classes: int = 1000
    null_class: bool = True
    semantics: Semantics = "original"

    family: ClassVar[Family] = "dit"
    _counts: ClassVar[tuple[str, ...]] = (*BackboneConfig._counts, "num_classes")
    _switches: ClassVar[tuple[str, ...]] = (*BackboneConfig._switches, "null_class")

    def _check_values(self) -> None:
        super()._check_values()
        if self.semantics not in get_args(Semantics):
            raise ValueError(f"semantics is {self.semantics!r}; expected one of {', '.join(get_args(Semantics))}")


@dataclass(frozen=True)
class PixArtConfig(BackboneConfig):
    """A text-conditional PixArt-alpha or PixArt-Sigma (Chen et al. 2023, 2024), dense or sparse.

    ``input_size``          latent size of training; its token grid is the ``base_size`` of the positions
    ``position_scale``      the positions' interpolation (``lewei_scale``, ``pe_interpolation``): along a side of n
                            tokens token i has the position i * base / n / scale, at every n
    ``caption_channels``    width of the text encoder's features
    ``caption_tokens``      rows of the stored null caption, 0 if the file has none
    ``micro_conditioning``  picture size and aspect ratio are conditions (PixArt-alpha 1024 px)
    ``qk_norm``             queries and keys of self-attention are normalised
    """

    caption_channels: int = 4096
    caption_tokens: int = ALPHA_TOKENS
    micro_conditioning: bool = False
    qk_norm: bool = False
    position_scale: float = 1.0

    family: ClassVar[Family] = "pixart"
    _counts: ClassVar[tuple[str, ...]] = (*BackboneConfig._counts, "caption_channels")
    _switches: ClassVar[tuple[str, ...]] = (*BackboneConfig._switches, "micro_conditioning", "qk_norm")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_conditioning and self.hidden_size % 3:
            raise ValueError(
                f"hidden size {self.hidden_size} is no multiple of 3, which size and aspect conditions are cut into"
            )

    def _check_values(self) -> None:
        super()._check_values()
        if type(self.caption_tokens) is not int or self.caption_tokens < 0:
            raise ValueError(f"caption_tokens is {self.caption_tokens!r}; it must be a whole number of 0 or more")
        scale = self.position_scale
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1 / _MAX_SCALE <= scale <= _MAX_SCALE:
            raise ValueError(f"position_scale is {scale!r}; it must be a number above 0, such as 0.5, 1, 2 or 4")


CONFIGS: dict[str, type[BackboneConfig]] = {config.family: config for config in (DiTConfig, PixArtConfig)}
"""The config of every family."""


def check_side(side: int, dense: tuple[int, int]) -> int:
    """The side of a sparse grid that was asked for; ``ValueError`` when ``dense`` (rows, columns) has fewer tokens."""
    if side**2 > dense[0] * dense[1]:
        raise ValueError(
            f"sparse side {side} does not fit into the {dense[0]}x{dense[1]} token grid; give the side the model is "
            f"trained with, sparse_side={math.isqrt(dense[0] * dense[1])} or less"
        )
    return side
