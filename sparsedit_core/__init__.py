"""SparseDiT and DiffSparse: diffusion transformers that compute fewer tokens. Pure PyTorch, no ComfyUI."""

from .checkpoint import (
    Checkpoint,
    CheckpointError,
    Latent,
    Loaded,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from .config import DiTConfig, PixArtConfig
from .convert import convert_dense, default_layout
from .cost import MODELS, Cost, macs
from .dit import DiT
from .layout import SegmentLayout
from .pixart import PixArt
from .schedule import PRESETS, PruningSchedule
from .schedule_cost import ScheduleCost, schedule_macs

__version__ = "0.1.0"

__all__ = [
    "MODELS",
    "PRESETS",
    "Checkpoint",
    "CheckpointError",
    "Cost",
    "DiT",
    "DiTConfig",
    "Latent",
    "Loaded",
    "PixArt",
    "PixArtConfig",
    "PruningSchedule",
    "ScheduleCost",
    "SegmentLayout",
    "__version__",
    "convert_dense",
    "default_layout",
    "load_checkpoint",
    "macs",
    "read_checkpoint",
    "save_checkpoint",
    "schedule_macs",
]
