"""Folders of small pictures, some of them broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise_image(seed: int, width: int = 20, height: int = 16) -> Image.Image:
    """A picture like no other."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def save_image(path: Path, seed: int = 0, width: int = 20, height: int = 16) -> Path:
    """A file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_image(seed, width, height).save(path)
    return path


def class_folder(root: Path, classes: dict[str, int]) -> Path:
    """``classes`` says how many pictures each class has; every picture differs."""
    seed = 0
    for name, count in classes.items():
        for number in range(count):
            save_image(root / name / f"{number:03d}.png", seed)
            seed += 1
    return root


def break_image(path: Path) -> Path:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
