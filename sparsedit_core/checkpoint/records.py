"""What a checkpoint is once it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor

from ..backbone import Backbone
from ..config import ALPHA_TOKENS, BackboneConfig, Family, PixArtConfig
from ..diffusion.model_time import Prediction
from ..layout import SegmentLayout
from ..schedule import PruningSchedule
from .detect import Format

SD_LATENT_SCALE = 0.18215  # the Stable Diffusion 1 autoencoder, of every released DiT and PixArt-alpha
SDXL_LATENT_SCALE = 0.13025  # PixArt-Sigma


@dataclass(frozen=True)
class Latent:
    """The space a model works in.

    ``channels``  channels of x; ``scale``  factor from autoencoder latents to x; ``factor``  pixels per latent along
    a side; ``kind``  ``"latent"`` needs an autoencoder, ``"pixel"`` is the picture itself in -1..1.
    """

    channels: int = 4
    scale: float = SD_LATENT_SCALE
    factor: int = 8
    kind: Literal["latent", "pixel"] = "latent"

    def __post_init__(self) -> None:
        if self.kind not in ("latent", "pixel"):
            raise ValueError(f"latent kind is {self.kind!r}; expected 'latent' or 'pixel'")
        if self.channels < 1 or self.factor < 1 or not self.scale > 0:
            raise ValueError(f"{self} is no picture space; channels and factor are 1 or more, scale is above 0")

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Latent:
        """The inverse of :meth:`to_json`."""
        return cls(int(data["channels"]), float(data["scale"]), int(data["factor"]), data["kind"])


def default_latent(config: BackboneConfig) -> Latent:
    """For files that do not say: 3 channels are pixels, anything else latents of Stable Diffusion 1, of SDXL for
    PixArt-Sigma.

    A PixArt counts as Sigma unless it has size conditioning or the text tokens of alpha.
    """
    alpha = not isinstance(config, PixArtConfig) or config.micro_conditioning or config.caption_tokens == ALPHA_TOKENS
    if not alpha and config.in_channels == 4:
        return Latent(4, SDXL_LATENT_SCALE)
    return Latent(3, 1.0, 1, "pixel") if config.in_channels == 3 else Latent(config.in_channels)


@dataclass
class Description:
    """Everything about a checkpoint but its weights.

    ``format``       file layout: "dit", "sparsedit", "diffusers_dit", "pixart", "diffusers_pixart", "sparsedit_core"
                     (ours)
    ``schedule``     the schedule the model was trained with, or None
    ``prediction``   "eps": noise (every file but ours); "flow": velocity of rectified flow
    ``class_names``  one name per class, or None
    ``words``        vocabulary of a PixArt whose captions are words of a table (words.py), or None
    ``metadata``     free entries of our own files
    """

    config: BackboneConfig
    format: Format = "sparsedit_core"
    schedule: PruningSchedule | None = None
    prediction: Prediction = "eps"
    latent: Latent = field(default_factory=Latent)
    class_names: tuple[str, ...] | None = None
    words: tuple[str, ...] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        """The backbone: "dit" or "pixart"."""
        return self.config.family

    @property
    def layout(self) -> SegmentLayout | None:
        """The roles of the blocks; ``None`` for a dense model."""
        return self.config.layout


@dataclass(kw_only=True)
class Checkpoint(Description):
    """A file's weights under our flat keys, no module built."""

    state: dict[str, Tensor]


@dataclass(kw_only=True)
class Loaded(Description):
    """A model in eval mode and what its file says about it."""

    model: Backbone
