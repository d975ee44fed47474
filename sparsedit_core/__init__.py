"""SparseDiT and DiffSparse: diffusion transformers that compute fewer tokens. Pure PyTorch, no ComfyUI."""

from .config import DiTConfig
from .convert import convert_dense
from .dit import DiT
from .layout import SegmentLayout

__all__ = ["DiT", "DiTConfig", "SegmentLayout", "convert_dense"]
