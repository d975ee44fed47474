"""A folder of pictures to shards of latents or pixels, shard after shard, so that nothing done is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ...checkpoint import Latent
from ...text_encoder import TextEncoder
from ...vae import Autoencoder
from .crop import UndecodableError, read_picture
from .folder import Picture, PictureFolder, caption
from .order import sample_draw
from .shard_source import FEATURES, LENGTHS, tensor_names
from .shards import INDEX, Content, Index, Progress, Shard, damage, read_index, write_index, write_shard

logger = logging.getLogger("sparsedit")

_SHARD = "shard-{:05d}.safetensors"


@dataclass(frozen=True)
class EncodeOptions:
    """What the shards hold.

    ``size``        side of the square pictures in pixels
    ``content``     "pixels", "mean", "sample" or "moments" (see :class:`~.shards.Index`)
    ``flip``        mirror half of the samples: latents of the mirrored pictures are stored too
    ``shard_size``  files listed for one shard; those that do not decode leave it smaller
    ``seed``        of the draws of "sample"
    ``half``        store latents in float16
    """

    size: int = 256
    content: Content = "mean"
    flip: bool = False
    shard_size: int = 1000
    seed: int = 0
    half: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.shard_size < 1:
            raise ValueError(f"size={self.size} and shard_size={self.shard_size} must be 1 or more")


@dataclass(frozen=True)
class _Item:
    """A picture that was read."""

    name: str
    label: int
    text: str | None
    pixels: Tensor


def encode_folder(
    folder: PictureFolder,
    out: Path,
    options: EncodeOptions,
    autoencoder: Autoencoder | None,
    latent: Latent,
    *,
    text: TextEncoder | None = None,
    batch: int = 16,
    workers: int = 4,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Index:
    """Encode every picture of ``folder`` into shards in ``out`` and return their index.

    ``latent`` is the space of the samples; without an ``autoencoder`` it is that of pixels. ``text`` encodes the
    captions; pictures without one are then left out like files that do not decode. ``settings`` are further facts
    that the content depends on (the encoders' checksums): a resume with others is refused. ``record`` goes into the
    index as it is. ``workers`` threads read pictures; progress counts files.

    With ``resume`` finished shards whose checksums are right stay as they are; a damaged one is reported and made
    again. Files that do not decode are left out and counted. Raises ``ValueError`` where ``out`` holds an encoding and
    ``resume`` is not set, where none of the files decodes, and for latents that are not finite.
    """
    _check(folder, out, options, autoencoder, latent)
    facts = {**asdict(options), "latent": latent.to_json(), "folder": folder.fingerprint(), **(settings or {})}
    side = options.size // latent.factor
    index = Index(
        latent=latent,
        input_size=(side, side),
        content=options.content,
        flip=options.flip,
        num_classes=folder.num_classes,
        class_names=folder.class_names,
        shards=(),
        complete=False,
        caption_channels=None if text is None else text.width,
        caption_tokens=0 if text is None else text.length,
        settings=facts,
        record=dict(record or {}),
    )
    done = _begin(out, index, resume)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        encoder = _Encoder(folder.root, options, autoencoder, latent, text, batch, pool, progress or _silent)
        for number, start in enumerate(range(0, len(folder.pictures), options.shard_size)):
            part, name = folder.pictures[start : start + options.shard_size], _SHARD.format(number)
            if name in done:
                encoder.progress(len(part))
                continue
            tensors, lists = encoder.shard(part, start)
            try:
                done[name] = write_shard(out / name, tensors, lists)
            except SafetensorError as error:
                raise ValueError(f"cannot write {out / name} ({error}); go on with --resume") from error
            index = replace(index, shards=tuple(done[name] for name in sorted(done)))
            write_index(out, index)
    index = replace(index, shards=tuple(done[name] for name in sorted(done)))
    if index.count == 0:
        raise ValueError(
            f"none of the {len(folder.pictures)} files in {folder.root} could be read as a picture (the first: "
            f"{index.skipped_first[0]})"
        )
    index = replace(index, complete=True)
    write_index(out, index)
    return index


def _check(
    folder: PictureFolder, out: Path, options: EncodeOptions, autoencoder: Autoencoder | None, latent: Latent
) -> None:
    if out.resolve().is_relative_to(folder.root.resolve()):
        raise ValueError(f"the output {out} lies inside the folder of pictures {folder.root}; give another place")
    if (autoencoder is None) != (options.content == "pixels") or (autoencoder is None) != (latent.kind == "pixel"):
        have = "no autoencoder" if autoencoder is None else "an autoencoder"
        raise ValueError(f"content {options.content!r} in {latent.kind} space does not go with {have}")
    if autoencoder is not None and (latent.channels, latent.factor) != (autoencoder.channels, autoencoder.factor):
        raise ValueError(f"{latent} is not the space of an autoencoder of {autoencoder.channels} channels")
    if options.size % latent.factor:
        raise ValueError(f"size={options.size} is no multiple of {latent.factor}, the autoencoder's pixels per latent")


def _begin(out: Path, index: Index, resume: bool) -> dict[str, Shard]:
    """The shards that need no work, by name; an index exists from here on."""
    started = (out / INDEX).exists()
    if started and not resume:
        raise ValueError(f"{out} holds an encoding already; go on with it by --resume, or give another folder")
    out.mkdir(parents=True, exist_ok=True)
    for leftover in (*out.glob(".shard-*.tmp"), *out.glob(f".{INDEX}.*.tmp")):  # of a run that was killed as it wrote
        leftover.unlink()
    if not started:
        write_index(out, index)
        return {}
    before = read_index(out)
    changed = sorted(key for key in {*before.settings, *index.settings} if _differs(before, index, key))
    if changed:
        told = "; ".join(_change(key, before.settings.get(key), index.settings.get(key)) for key in changed)
        raise ValueError(f"{out} was encoded with other settings ({told}); repeat them, or give another output folder")
    damaged = damage(out, before.shards, full=True)
    for name, what in damaged.items():
        logger.warning("the shard %s %s; it is made again", out / name, what)
    return {shard.file: shard for shard in before.shards if shard.file not in damaged}


def _differs(before: Index, now: Index, key: str) -> bool:
    return key not in before.settings or key not in now.settings or before.settings[key] != now.settings[key]


def _change(key: str, before: object, now: object) -> str:
    if key == "folder":
        return "the pictures are not the same files"
    return f"{key} was {before!r}, now {now!r}"


@dataclass(frozen=True)
class _Encoder:
    """What turns the files of one shard into tensors; ``latent`` is the space, ``batch`` the pictures at a time."""

    root: Path
    options: EncodeOptions
    autoencoder: Autoencoder | None
    latent: Latent
    text: TextEncoder | None
    batch: int
    pool: ThreadPoolExecutor
    progress: Progress

    def shard(self, part: Sequence[Picture], start: int) -> tuple[dict[str, Tensor], dict[str, list[Any]]]:
        """Tensors and lists of one shard; picture ``start`` + i of the folder is the i-th of ``part``."""
        side = self.options.size // self.latent.factor
        kind = torch.uint8 if self.autoencoder is None else torch.float16 if self.options.half else torch.float32
        none = torch.empty(0, self.latent.channels, side, side, dtype=kind)
        rows = {name: [none] for name in tensor_names(self.options.content, self.options.flip)}
        lists: dict[str, list[Any]] = {"names": [], "captions": [], "skipped": []}
        labels: list[int] = []
        spoken: list[tuple[Tensor, int]] = []
        for first, read in self._read_ahead(part):
            good = [(start + first + place, item) for place, item in enumerate(read) if isinstance(item, _Item)]
            lists["skipped"] += [item for item in read if not isinstance(item, _Item)]
            if good:
                pixels = torch.stack([item.pixels for _, item in good])
                for name, value in self._tensors(pixels, [number for number, _ in good]).items():
                    rows[name].append(_finite(value.to("cpu", kind), [item.name for _, item in good]))
                spoken += self._captions([item for _, item in good])
            labels += [item.label for _, item in good]
            lists["names"] += [item.name for _, item in good]
            lists["captions"] += [item.text for _, item in good]
            self.progress(len(read))
        tensors = {name: torch.cat(parts) for name, parts in rows.items()}
        if self.text is not None:
            empty = torch.empty(0, self.text.width, dtype=torch.float16)
            tensors[FEATURES] = torch.cat([empty, *(features for features, _ in spoken)])
            tensors[LENGTHS] = torch.tensor([length for _, length in spoken], dtype=torch.int64)
        return tensors | {"labels": torch.tensor(labels, dtype=torch.int64)}, lists

    def _captions(self, items: Sequence[_Item]) -> list[tuple[Tensor, int]]:
        """Features (l, C) float16 of the tokens that count, and l, of every caption."""
        if self.text is None:
            return []
        found = self.text([item.text or "" for item in items])
        rows = [features[mask].half() for features, mask in zip(found.features, found.mask, strict=True)]
        for item, row in zip(items, rows, strict=True):
            if not bool(torch.isfinite(row).all()):
                raise ValueError(f"the text encoder made NaN or infinite features of the caption of {item.name}")
        return [(row, len(row)) for row in rows]

    def _read_ahead(self, part: Sequence[Picture]) -> Iterator[tuple[int, list[_Item | tuple[str, str]]]]:
        """(number of the first, what was read) of every batch; the next one is read while this one is worked on."""
        waiting: list[Future[_Item | tuple[str, str]]] = []
        for first in range(0, len(part) + self.batch, self.batch):
            chunk = part[first : first + self.batch]
            following = [self.pool.submit(self._read, picture) for picture in chunk]
            if waiting:
                yield first - self.batch, [future.result() for future in waiting]
            waiting = following

    def _read(self, picture: Picture) -> _Item | tuple[str, str]:
        """A picture with its caption, or its name and why it cannot be used."""
        found = _read(self.root, picture, self.options.size)
        if self.text is not None and isinstance(found, _Item) and not found.text:
            return picture.name, "it has no caption"
        return found

    def _tensors(self, pixels: Tensor, numbers: Sequence[int]) -> dict[str, Tensor]:
        """What is stored of pictures (B, 3, S, S) uint8; their numbers in the folder seed the draws of "sample"."""
        if self.autoencoder is None:
            return {"pixels": pixels}
        images = pixels.float() / 127.5 - 1
        result: dict[str, Tensor] = {}
        for salt, prefix in enumerate(("", "flipped_") if self.options.flip else ("",)):
            mean, deviation = self.autoencoder.posterior(images.flip(-1) if prefix else images)
            if self.options.content == "sample":
                draws = [sample_draw(self.options.seed, 2 * number + salt)[1] for number in numbers]
                noise = torch.stack([torch.randn(mean.shape[1:], generator=draw) for draw in draws])
                mean = mean + deviation * noise.to(mean.device)
            result[f"{prefix}latents"] = mean
            if self.options.content == "moments":
                result[f"{prefix}deviations"] = deviation
        return result


def _read(root: Path, picture: Picture, size: int) -> _Item | tuple[str, str]:
    """A picture with its caption, or its name and why it cannot be read."""
    try:
        return _Item(picture.name, picture.label, caption(root, picture.name), read_picture(root / picture.name, size))
    except UndecodableError as error:
        return picture.name, str(error)
    except UnicodeDecodeError:
        return picture.name, "its caption is not UTF-8"


def _finite(values: Tensor, names: Sequence[str]) -> Tensor:
    wrong = (~torch.isfinite(values.flatten(1)).all(dim=1)).nonzero()
    if len(wrong):
        raise ValueError(
            f"the autoencoder made NaN or infinite latents of {names[int(wrong[0])]}; compute in float32 (dtype) and "
            "store float32 (half)"
        )
    return values


def _silent(_: int) -> None:
    """Nobody watches."""
