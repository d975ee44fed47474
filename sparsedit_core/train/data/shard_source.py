"""Training samples out of shards: files are mapped and only the rows of a batch are read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...conditions import Captions, Conditions, joined
from .order import EpochOrder, sample_draw
from .shards import HEADER, Progress, Shard, check, read_index

FEATURES, LENGTHS = "text_features", "text_lengths"
"""Names of two tensors: the features (sum of lengths, C) of all captions, one after the other, and their lengths."""


@dataclass
class _Open:
    """A mapped shard: its handle, labels (count,) and the places where the captions' features end (count,).

    Names, captions and skipped files are in its header.
    """

    handle: Any
    labels: Tensor
    ends: Tensor | None = None

    def facts(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = json.loads(self.handle.metadata()[HEADER])
        return found


class ShardSource:
    """A :class:`~..source.Source` of the shards that ``sparsedit encode`` writes.

    Epochs are permutations by (seed, epoch). Mirroring and the draw from the posterior, where the shards hold them,
    belong to the number of the sample, so every epoch has its own. With ``captions`` samples have the features of their
    texts instead of labels, if the shards hold any. Opening checks that all shards are there and have
    their size; :meth:`verify` compares checksums.
    """

    def __init__(self, folder: str | os.PathLike[str], *, seed: int = 0, captions: bool = False) -> None:
        self.folder, self.seed = Path(folder), seed
        self.index = index = read_index(self.folder)
        if not index.complete:
            raise ValueError(
                f"the encoding in {folder} was interrupted after {len(index.shards)} shards; run its command again "
                "with --resume"
            )
        check(self.folder, index.shards, full=False)
        if index.count == 0:
            raise ValueError(f"the shards in {folder} hold no picture; encode the pictures again")
        self.latent, self.input_size = index.latent, index.input_size
        if captions and index.caption_channels is None:
            raise ValueError(
                f"the shards in {folder} hold no text features, which a PixArt is trained on; encode the pictures with "
                "--text-encoder DIR"
            )
        self.num_classes = 0 if captions else index.num_classes
        self.class_names = None if captions else index.class_names
        self.caption_channels = index.caption_channels if captions else None
        self.caption_tokens = index.caption_tokens if captions else 0
        self.count: int | None = index.count
        self.fingerprint = index.fingerprint
        self._ends = np.cumsum([shard.count for shard in index.shards])
        self._order = EpochOrder(index.count, seed)
        self._opened: dict[int, _Open] = {}

    def batch(self, first: int, size: int) -> tuple[Tensor, Conditions]:
        """Samples ``first`` .. ``first + size - 1``: (size, C, H, W) float32, already scaled, and labels or captions.
        """
        samples = torch.empty(size, self.latent.channels, *self.input_size)
        labels = torch.empty(size, dtype=torch.int64)
        spoken: list[Captions] = []
        for place, (shard, row) in enumerate(self._rows(first, size)):
            samples[place] = self._sample(shard, row, first + place)
            labels[place] = self._open(shard).labels[row]
            if self.caption_channels is not None:
                spoken.append(self._spoken(shard, row))
        return samples.mul_(self.latent.scale), joined(spoken) if spoken else labels

    def captions(self, first: int, size: int) -> list[str | None]:
        """The captions of the same samples; ``None`` for a picture without one."""
        return self._facts("captions", first, size)

    def names(self, first: int, size: int) -> list[str]:
        """The files that the same samples were made from, as paths inside the encoded folder."""
        return self._facts("names", first, size)

    def verify(self, progress: Progress | None = None) -> None:
        """Compare every shard with its checksum; ``ValueError`` names the damaged ones. Progress is in bytes."""
        check(self.folder, self.index.shards, full=True, progress=progress)

    def _facts(self, name: str, first: int, size: int) -> list[Any]:
        headers: dict[int, list[Any]] = {}
        result = []
        for shard, row in self._rows(first, size):
            if shard not in headers:
                headers[shard] = self._open(shard).facts()[name]
            result.append(headers[shard][row])
        return result

    def _rows(self, first: int, size: int) -> Iterator[tuple[int, int]]:
        """(shard, row in it) of every sample."""
        indices = self._order.indices(first, size)
        shards = np.searchsorted(self._ends, indices, side="right")
        for index, shard in zip(indices.tolist(), shards.tolist(), strict=True):
            yield shard, index - int(self._ends[shard]) + self.index.shards[shard].count

    def _sample(self, shard: int, row: int, number: int) -> Tensor:
        mirrored, noise = self.index.flip, None
        if self.index.flip or self.index.content == "moments":
            coin, noise = sample_draw(self.seed, number)
            mirrored &= coin
        if self.index.content == "pixels":
            picture = self._read(shard, "pixels", row).float() / 127.5 - 1
            return picture.flip(-1) if mirrored else picture
        prefix = "flipped_" if mirrored else ""
        sample = self._read(shard, f"{prefix}latents", row).float()
        if self.index.content == "moments":
            deviation = self._read(shard, f"{prefix}deviations", row).float()
            sample = sample + deviation * torch.randn(sample.shape, generator=noise)
        return sample

    def _spoken(self, shard: int, row: int) -> Captions:
        opened = self._open(shard)
        assert opened.ends is not None
        start, end = int(opened.ends[row - 1]) if row else 0, int(opened.ends[row])
        features = opened.handle.get_slice(FEATURES)[start:end].float()
        return Captions(features[None], torch.ones(1, end - start, dtype=torch.bool))

    def _read(self, shard: int, name: str, row: int) -> Tensor:
        part: Tensor = self._open(shard).handle.get_slice(name)[row : row + 1]
        return part[0]

    def _open(self, number: int) -> _Open:
        if number not in self._opened:
            shard = self.index.shards[number]
            try:
                self._opened[number] = self._check(shard, safe_open(self.folder / shard.file, "pt"))
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"the shard {self.folder / shard.file} cannot be read ({error}); make it again with the command "
                    "that encoded it and --resume"
                ) from error
        return self._opened[number]

    def _check(self, shard: Shard, handle: Any) -> _Open:
        """Shapes and labels are what the index promises, found out once per shard."""
        labels = handle.get_tensor("labels")
        if labels.shape != (shard.count,) or labels.dtype != torch.int64:
            raise ValueError(f"labels {tuple(labels.shape)} {labels.dtype}, expected {shard.count} int64")
        wrong = [label for label in labels.tolist() if not 0 <= label < self.index.num_classes]
        if wrong:
            raise ValueError(f"label {wrong[0]} is outside 0 .. {self.index.num_classes - 1}")
        wanted = [shard.count, self.latent.channels, *self.input_size]
        for name in tensor_names(self.index.content, self.index.flip):
            shape = list(handle.get_slice(name).get_shape())
            if shape != wanted:
                raise ValueError(f"{name} of shape {shape}, expected {wanted}")
        return _Open(handle, labels, None if self.caption_channels is None else self._ends_of(shard, handle))

    def _ends_of(self, shard: Shard, handle: Any) -> Tensor:
        lengths: Tensor = handle.get_tensor(LENGTHS)
        shape = list(handle.get_slice(FEATURES).get_shape())
        if lengths.shape != (shard.count,) or lengths.dtype != torch.int64 or int(lengths.min()) < 1:
            raise ValueError(f"{LENGTHS} {tuple(lengths.shape)} {lengths.dtype}, expected {shard.count} int64 above 0")
        if shape != [int(lengths.sum()), self.caption_channels]:
            raise ValueError(f"{FEATURES} of shape {shape}, expected {[int(lengths.sum()), self.caption_channels]}")
        return lengths.cumsum(0)


def tensor_names(content: str, flip: bool) -> list[str]:
    """The tensors of a shard beside its labels, each (count, C, H, W)."""
    if content == "pixels":
        return ["pixels"]
    names = ["latents", "deviations"] if content == "moments" else ["latents"]
    return names + [f"flipped_{name}" for name in names] if flip else names
