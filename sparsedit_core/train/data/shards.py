"""A set of encoded pictures on disk: safetensors shards, each with its labels, and one ``index.json``.

The index names every shard with its size and SHA-256. What belongs to single pictures (names, captions, files that were
skipped) lies as JSON in the header of their shard: it stays with its tensors under one checksum, and the index, which
is written anew after every shard, stays small for a million pictures.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors.torch import save
from torch import Tensor

from ...atomic import replacing
from ...checkpoint import Latent
from ...checkpoint.errors import listed

FORMAT, VERSION, INDEX, HEADER = "sparsedit_core.shards", 1, "index.json", "sparsedit"
Content = Literal["pixels", "mean", "sample", "moments"]
Progress = Callable[[int], object]
"""Called with the number of pictures (or bytes) done since the last call."""

_BLOCK = 1 << 22


@dataclass(frozen=True)
class Shard:
    """One file: its name, its pictures, its bytes and their SHA-256; ``skipped`` files of its part did not decode."""

    file: str
    count: int
    bytes: int
    sha256: str
    skipped: int = 0
    skipped_first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    """What ``index.json`` says.

    ``latent``, ``input_size``  space and (rows, columns) of a sample
    ``content``   "pixels": uint8 pictures; "mean": the posterior's mode; "sample": one draw of it; "moments": its mean
                  and deviation, from which training draws
    ``flip``      half of the samples are mirrored: latents have a second tensor for it, pixels are turned when read
    ``caption_channels``  width of the captions' features, which are float16; ``None`` where there are none;
                  ``caption_tokens``  their tokens at most
    ``complete``  false while shards are missing
    ``settings``  everything that the content depends on, compared by a resume; ``record``  where it came from
    """

    latent: Latent
    input_size: tuple[int, int]
    content: Content
    flip: bool
    num_classes: int
    class_names: tuple[str, ...] | None
    shards: tuple[Shard, ...]
    complete: bool
    caption_channels: int | None = None
    caption_tokens: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Pictures in all shards."""
        return sum(shard.count for shard in self.shards)

    @property
    def skipped(self) -> int:
        """Files that did not decode."""
        return sum(shard.skipped for shard in self.shards)

    @property
    def skipped_first(self) -> tuple[str, ...]:
        """The first ten of them, each with its reason."""
        return tuple(name for shard in self.shards for name in shard.skipped_first)[:10]

    @property
    def fingerprint(self) -> str:
        """Of all that samples are made from: the shards' checksums and how they are read."""
        what = [self.latent.to_json(), self.content, self.flip, self.num_classes, [s.sha256 for s in self.shards]]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values."""
        facts = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return facts | {"count": self.count, "skipped": self.skipped, "skipped_first": list(self.skipped_first)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Index:
        """The inverse of :meth:`to_json`; ``KeyError``, ``TypeError`` or ``ValueError`` for what is none."""
        content, names = data["content"], data["class_names"]
        if content not in get_args(Content):
            raise ValueError(f"content {content!r} is unknown")
        shards = []
        for entry in data["shards"]:
            shard = Shard(**(entry | {"skipped_first": tuple(entry["skipped_first"])}))
            if Path(shard.file).name != shard.file or shard.count < 0 or shard.bytes < 0:
                raise ValueError(f"the shard {shard} is none")
            shards.append(shard)
        rows, columns = (int(side) for side in data["input_size"])
        index = cls(
            latent=Latent.from_json(data["latent"]),
            input_size=(rows, columns),
            content=content,
            flip=bool(data["flip"]),
            num_classes=int(data["num_classes"]),
            class_names=None if names is None else tuple(map(str, names)),
            shards=tuple(shards),
            complete=bool(data["complete"]),
            caption_channels=None if data.get("caption_channels") is None else int(data["caption_channels"]),
            caption_tokens=int(data.get("caption_tokens", 0)),
            settings=dict(data["settings"]),
            record=dict(data["record"]),
        )
        if names is not None and len(names) != index.num_classes:
            raise ValueError(f"{len(names)} class names belong to {index.num_classes} classes")
        return index


def read_index(folder: Path) -> Index:
    """The index of a folder of shards; ``FileNotFoundError`` without one, ``ValueError`` where it is none of ours."""
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"there is no {INDEX} in {folder}; sparsedit encode makes one of a folder of pictures")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or (data.get("format"), data.get("version")) != (FORMAT, VERSION):
            found = (data.get("format"), data.get("version")) if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"it is {found}, expected {FORMAT} version {VERSION}")
        return Index.from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} is no index of shards ({error}); encode the pictures again") from error


def write_index(folder: Path, index: Index) -> None:
    """Replace the index of a folder; it appears complete or not at all."""
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_shard(path: Path, tensors: dict[str, Tensor], facts: Mapping[str, Any]) -> Shard:
    """Write one shard; the checksum is that of the bytes in memory, so that what the disk garbles is found.

    ``facts`` are lists with one entry per picture (``names``, ``captions``) and ``skipped``: [name, reason] pairs.
    """
    content = save(tensors, metadata={HEADER: json.dumps(facts)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    skipped = [f"{name}: {reason}" for name, reason in facts["skipped"]]
    digest = hashlib.sha256(content).hexdigest()
    return Shard(path.name, len(tensors["labels"]), len(content), digest, len(skipped), tuple(skipped[:10]))


def file_sha256(path: Path, progress: Progress | None = None) -> str:
    """The SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def damage(folder: Path, shards: Sequence[Shard], *, full: bool, progress: Progress | None = None) -> dict[str, str]:
    """Shards that are not as the index says, each with what was found; ``full`` compares checksums, else sizes."""
    found: dict[str, str] = {}
    for shard in shards:
        path = folder / shard.file
        try:
            size = os.stat(path).st_size
            if size != shard.bytes:
                found[shard.file] = f"has {size} bytes, expected {shard.bytes}"
            elif full and file_sha256(path, progress) != shard.sha256:
                found[shard.file] = "does not have the checksum of the index"
        except OSError as error:
            found[shard.file] = f"cannot be read ({error.strerror})"
    return found


def check(folder: Path, shards: Sequence[Shard], *, full: bool, progress: Progress | None = None) -> None:
    """``ValueError`` that names the shards which :func:`damage` finds."""
    found = damage(folder, shards, full=full, progress=progress)
    if found:
        raise ValueError(
            f"{len(found)} of {len(shards)} shards in {folder} are damaged: "
            f"{listed([f'{name} {what}' for name, what in found.items()])}; make them again with the command that "
            "encoded them and --resume"
        )
