"""Checkpoints: every file layout in, our own out (CHECKPOINTS 1 and 4)."""

from .errors import CheckpointError
from .files import is_mapped, read_file
from .formats import diffusers_to_flat, flat_to_diffusers, flat_to_sparsedit, sparsedit_to_flat
from .load import build_model, describe_checkpoint, load_checkpoint, read_checkpoint
from .records import Checkpoint, Latent, Loaded, default_latent
from .save import save_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Latent",
    "Loaded",
    "build_model",
    "default_latent",
    "describe_checkpoint",
    "diffusers_to_flat",
    "flat_to_diffusers",
    "flat_to_sparsedit",
    "is_mapped",
    "load_checkpoint",
    "read_checkpoint",
    "read_file",
    "save_checkpoint",
    "sparsedit_to_flat",
]
