"""What models are trained on: folders of pictures, their shards, the features of fast-DiT, our own pictures."""

from __future__ import annotations

import os
from pathlib import Path

from ..source import ProceduralCaptions, ProceduralSource, Source
from .fast_dit import FastDiTSource, feature_folders
from .folder import PictureFolder, scan_folder
from .shard_source import ShardSource
from .shards import INDEX

__all__ = ["FastDiTSource", "PictureFolder", "ShardSource", "open_source", "scan_folder"]

PROCEDURAL = "procedural"


def open_source(path: str | os.PathLike[str], *, seed: int = 0, captions: bool = False) -> Source:
    """The training samples at ``path``: a folder of shards, one of fast-DiT features, or ``"procedural"``.

    ``seed`` decides the order of every epoch and what is drawn for single samples; with ``captions`` samples have their
    captions instead of labels. Raises ``FileNotFoundError`` where there is nothing and ``ValueError`` for a folder of
    anything else, an unfinished or a damaged one, and for captions of data that have none.
    """
    if os.fspath(path) == PROCEDURAL:
        return ProceduralCaptions(seed) if captions else ProceduralSource(seed)
    folder = Path(path)
    if folder.name == INDEX and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise FileNotFoundError(f'there is no folder {path}; give one, or "{PROCEDURAL}" for the pictures made here')
    if (folder / INDEX).is_file():
        return ShardSource(folder, seed=seed, captions=captions)
    if feature_folders(folder) is not None:
        if captions:
            raise ValueError(
                f"{folder} holds features of fast-DiT, which have class labels and no captions, and a PixArt is "
                "trained on captions; encode the pictures with their texts: sparsedit encode --text-encoder DIR"
            )
        return FastDiTSource(folder, seed=seed)
    raise ValueError(
        f"{folder} holds neither shards ({INDEX}) nor features of fast-DiT (*_features, *_labels); a folder of "
        "pictures is encoded first: sparsedit encode"
    )
