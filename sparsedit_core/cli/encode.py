"""``encode``: a folder of pictures to shards of latents or pixels for training; ``--verify`` checks such shards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..checkpoint import Latent
from ..checkpoint.records import SD_LATENT_SCALE
from ..text_encoder import TextEncoder
from ..train.data.encode import EncodeOptions, encode_folder
from ..train.data.folder import PictureFolder, scan_folder
from ..train.data.shard_source import ShardSource
from ..train.data.shards import Content, Index, file_sha256
from ..train.source import PIXELS
from ..vae import Autoencoder, autoencoder_file, load_autoencoder
from . import options, text
from .files import check_folder, command_line, to_json, versions
from .progress import bar

SUMMARY = "turn a folder of pictures into shards of latents, once, for training"
EXAMPLE = "sparsedit encode imagenet/train imagenet-256 --vae sd-vae-ft-ema.safetensors --size 256 --flip"


def arguments(parser: argparse.ArgumentParser) -> None:
    """FOLDER, OUT, what is stored, and how."""
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, help="pictures, one sub-folder per class or flat; captions in NAME.txt"
    )
    parser.add_argument("out", metavar="OUT", nargs="?", type=Path, help="the folder to write, for train --data")
    parser.add_argument("--verify", action="store_true", help="compare the shards in FOLDER with their checksums")
    parser.add_argument("--flat", action="store_true", help="all pictures are one class, sub-folders or not")
    parser.add_argument("--resume", action="store_true", help="go on after an interruption; damaged shards are remade")
    group = parser.add_argument_group("what is stored")
    space = group.add_mutually_exclusive_group()
    space.add_argument("--vae", type=Path, metavar="FILE", help="AutoencoderKL: .safetensors, or a diffusers folder")
    space.add_argument("--pixels", action="store_true", help="the pictures themselves, for models of pixels")
    drawn = group.add_mutually_exclusive_group()
    drawn.add_argument("--moments", action="store_true", help="mean and deviation: training draws from them as DiT's")
    drawn.add_argument("--sample", action="store_true", help="one draw from the posterior (default: its mean)")
    group.add_argument("--size", type=options.positive, default=256, metavar="N", help="side in pixels (default 256)")
    group.add_argument("--flip", action="store_true", help="the mirrored picture too; training takes either")
    group.add_argument("--half", action="store_true", help="store latents in float16: half the space")
    group.add_argument(
        "--channels", type=options.positive, default=4, metavar="N", help="latent channels wanted (default 4)"
    )
    group.add_argument(
        "--latent-scale",
        type=float,
        metavar="S",
        help=f"factor from latents to what a model sees (default: the folder's config.json; {SD_LATENT_SCALE} for 4 "
        f"channels, SDXL has 0.13025; {PIXELS.scale:g} for pixels)",
    )
    group.add_argument(
        "--text-encoder", type=Path, metavar="DIR", help="T5 folder: store the captions' features too, for a PixArt"
    )
    group.add_argument(
        "--text-tokens",
        type=options.positive,
        default=TextEncoder.LENGTH,
        metavar="N",
        help=f"longest caption in tokens (default {TextEncoder.LENGTH}, as PixArt-alpha; Sigma has 300)",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws of --sample (default 0)")
    group = parser.add_argument_group("how")
    counts = {"batch": (16, "pictures at a time"), "shard-size": (1000, "files per shard"), "workers": (4, "readers")}
    for name, (default, what) in counts.items():
        told = f"{what} (default {default})"
        group.add_argument(f"--{name}", type=options.positive, default=default, metavar="N", help=told)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Encode, or verify."""
    if args.verify:
        _verify(args)
        return
    if args.out is None:
        raise ValueError("give the folder to write, OUT, after the folder of pictures (or --verify for shards)")
    if args.vae is None and not args.pixels:
        raise ValueError("give the autoencoder, --vae FILE, or --pixels for models that work on pictures themselves")
    if args.pixels and (args.moments or args.sample or args.half):
        raise ValueError("--moments, --sample and --half are about latents; --pixels stores pictures of 8 bits")
    options.set_threads(args)
    check_folder(args.out)
    folder = scan_folder(args.folder, flat=args.flat)
    content: Content = "moments" if args.moments else "sample" if args.sample else "mean"
    autoencoder, latent, facts = None, PIXELS, {}
    if args.pixels:
        content = "pixels"
        if args.latent_scale is not None:
            latent = Latent(3, args.latent_scale, 1, "pixel")
    else:
        autoencoder = load_autoencoder(
            args.vae, device=args.device, dtype=options.DTYPES[args.dtype], channels=args.channels
        )
        latent = _latent(autoencoder, args.latent_scale, args.vae)
        facts = {"vae": file_sha256(autoencoder_file(args.vae)), "dtype": args.dtype}
    record = {"command": command_line(args.argv), "versions": versions()}
    spoken = None
    if args.text_encoder is not None:
        spoken = TextEncoder(args.text_encoder, length=args.text_tokens, device=args.device)
        facts |= {"text_encoder": spoken.checksum(), "text_tokens": args.text_tokens}
        record |= {"text_encoder": args.text_encoder.name}
    wanted = EncodeOptions(args.size, content, args.flip, args.shard_size, args.seed, args.half)
    with bar(len(folder.pictures), "encoding", "pictures") as progress:
        index = encode_folder(
            folder,
            args.out,
            wanted,
            autoencoder,
            latent,
            text=spoken,
            batch=args.batch,
            workers=args.workers,
            resume=args.resume,
            settings=facts,
            record=record if args.vae is None else record | {"vae": args.vae.name},
            progress=progress,
        )
    print(to_json(_facts(args.out, index)) if args.json else _text(args.out, index, folder))


def _latent(autoencoder: Autoencoder, scale: float | None, path: Path) -> Latent:
    if autoencoder.shift:
        raise ValueError(
            f"{path.name} shifts its latents by {autoencoder.shift:g} before scaling, which no DiT here is trained on; "
            "give an autoencoder of Stable Diffusion 1, 2 or XL"
        )
    if scale is None:
        scale = autoencoder.scale
    if scale is None and autoencoder.channels == 4:
        scale = SD_LATENT_SCALE
    if scale is None:
        raise ValueError(
            f"{path.name} has {autoencoder.channels} latent channels and does not say how they are scaled; give "
            "--latent-scale, the scaling_factor of its config.json"
        )
    return Latent(autoencoder.channels, scale, autoencoder.factor)


def _verify(args: argparse.Namespace) -> None:
    source = ShardSource(args.folder if args.out is None else args.out)
    total = sum(shard.bytes for shard in source.index.shards)
    with bar(total, "verifying", "bytes") as progress:
        source.verify(progress)
    if args.json:
        print(to_json(_facts(source.folder, source.index) | {"verified": True}))
        return
    print(f"{source.folder}: {len(source.index.shards)} shards, {source.index.count} pictures, all checksums right")


def _facts(out: Path, index: Index) -> dict[str, Any]:
    return {
        "folder": out.name,
        "pictures": index.count,
        "skipped": index.skipped,
        "skipped_first": list(index.skipped_first),
        "classes": index.num_classes,
        "class_names": None if index.class_names is None else list(index.class_names),
        "content": index.content,
        "flip": index.flip,
        "caption_channels": index.caption_channels,
        "latent": index.latent.to_json(),
        "input_size": list(index.input_size),
        "shards": len(index.shards),
        "bytes": sum(shard.bytes for shard in index.shards),
        "fingerprint": index.fingerprint,
    }


def _text(out: Path, index: Index, folder: PictureFolder) -> str:
    rows, columns = index.input_size
    size = sum(shard.bytes for shard in index.shards)
    mirrored = ", mirrored too" if index.flip else ""
    pairs = [
        ("wrote", f"{len(index.shards)} shards of {size / 1e6:.1f} MB in all, in {out}"),
        ("pictures", f"{index.count} of {len(folder.pictures)} files"),
        ("classes", str(index.num_classes) if index.class_names else "none: every picture has label 0"),
        ("samples", f"{index.latent.channels}x{rows}x{columns} {index.latent.kind}s ({index.content}{mirrored})"),
        ("scale", f"{index.latent.scale:g}"),
    ]
    if index.caption_channels is not None:
        pairs.append(("captions", f"features of width {index.caption_channels}, at most {index.caption_tokens} tokens"))
    if index.skipped:
        more = "" if index.skipped <= 10 else f" and {index.skipped - 10} more"
        pairs.append(("skipped", f"{index.skipped} files that cannot be used: {'; '.join(index.skipped_first)}{more}"))
    return text.facts(pairs)
