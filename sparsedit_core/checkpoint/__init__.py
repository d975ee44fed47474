"""Checkpoints: every file layout in, our own out (CHECKPOINTS 1 and 4)."""

from .errors import CheckpointError
from .formats import diffusers_to_flat, flat_to_diffusers, flat_to_sparsedit, sparsedit_to_flat

__all__ = [
    "CheckpointError",
    "diffusers_to_flat",
    "flat_to_diffusers",
    "flat_to_sparsedit",
    "sparsedit_to_flat",
]
