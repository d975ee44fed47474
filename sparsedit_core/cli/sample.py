"""``sample``: pictures of chosen classes or captions."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..checkpoint import Latent, Loaded
from ..checkpoint.records import SDXL_LATENT_SCALE
from ..sampling import Samples, grid_counts, initial_noise
from ..sheets import grid_sheet, to_pictures
from ..units import memory_text
from . import options, text
from .asking import add_asking, asked_from
from .comparing import UNITS
from .files import check_ending, command_line, to_json, write_bytes, write_png
from .progress import sample_with_bar

SUMMARY = "sample pictures from a model"
EXAMPLE = "sparsedit sample bundled:sparsedit --classes all --seed 3 --out pictures.png"

SD1_VAE, SDXL_VAE = "SD 1 VAE", "SDXL VAE"

LATENT_TO_RGB = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
)
"""Rough colours of the four channels of Stable Diffusion 1 latents, the values common previews use."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, what to draw, output, sampling, schedule."""
    parser.add_argument("file", metavar="FILE", help=options.MODEL_HELP)
    add_asking(parser, classes="0-3")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument(
        "--size", type=options.size, metavar="PX", help="512 or WIDTHxHEIGHT (default: the model's own)"
    )
    parser.add_argument("--out", type=Path, default=Path("sample.png"), help="PNG to write (default sample.png)")
    parser.add_argument("--separate", action="store_true", help="one PNG for every picture instead of a sheet")
    options.add_sampling(parser, steps=50, cfg=1.5)
    options.add_schedule(parser)
    options.add_cache(parser)
    options.add_facts(parser)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Sample, write, account."""
    check_ending(args.out, ".png")
    options.set_threads(args)
    loaded = options.open_model(args.file, args, **options.facts(args))
    asked = asked_from(args, loaded)
    noise = initial_noise(loaded, len(asked.names), seed=args.seed, size=args.size)
    settings = options.sample_options(args, loaded, options.schedule_from(args, loaded.schedule))
    settings = replace(settings, cache=options.cache_from(args))
    samples = sample_with_bar(loaded, noise, asked, settings, "sampling", seed=args.seed)
    files = write(args, loaded, samples, asked.names)
    report = {
        "command": command_line(args.argv),
        "files": [path.name for path in files],
        "pictures": len(asked.names),
        "units": UNITS,
        "macs": samples.macs,
        "flops": 2 * samples.macs,
        "seconds": samples.seconds,
        "cache_bytes": samples.cache_bytes if args.cache else None,
        "evaluations": [evaluation.to_json() for evaluation in samples.evaluations],
    }
    print(to_json(report) if args.json else _text(files, samples, loaded, len(asked.names)))


def write(args: argparse.Namespace, loaded: Loaded, samples: Samples, names: list[str]) -> list[Path]:
    """The pictures, and for latent models the latents themselves."""
    if loaded.latent.kind == "pixel":
        zoom = 1 if args.separate or len(names) == 1 else max(1, 128 // samples.images.shape[-1])
        return write_pictures(args, to_pictures(samples.images, zoom=zoom), names, "")
    latents = args.out.with_suffix(".latent")
    content = {"latent_tensor": samples.images, "latent_format_version_0": torch.zeros(0)}
    files = [write_bytes(latents, to_safetensors({key: value.contiguous() for key, value in content.items()}))]
    note = "a rough preview of the latents, not decoded"
    return files + write_pictures(args, to_pictures(view(samples.images, loaded), zoom=4), names, note)


def view(images: Tensor, loaded: Loaded) -> Tensor:
    """Pictures (B, 3, H, W) as they are; of latents a rough preview, in colours of Stable Diffusion 1's, else grey."""
    if loaded.latent.kind == "pixel":
        return images
    images = loaded.latent.scale * images
    if vae_of(loaded) == SD1_VAE:
        return torch.einsum("bchw,cr->brhw", images, torch.tensor(LATENT_TO_RGB))
    return images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)


def vae_of(loaded: Loaded) -> str:
    """The autoencoder that decodes a model's latents, told by their channels and scale."""
    latent = loaded.latent
    for name, scale in ((SD1_VAE, Latent().scale), (SDXL_VAE, SDXL_LATENT_SCALE)):
        if latent.channels == 4 and math.isclose(latent.scale, scale, rel_tol=1e-3):
            return name
    return f"the VAE of these {latent.channels}-channel latents, scaled by {latent.scale:g}"


def write_pictures(args: argparse.Namespace, pictures: list[Image.Image], names: list[str], note: str) -> list[Path]:
    """One picture as it is, several as a sheet or as files that are numbered."""
    out: Path = args.out
    if len(pictures) == 1:
        return [write_png(out, pictures[0])]
    if args.separate:
        paths = [out.with_name(f"{out.stem}-{index:03d}{out.suffix}") for index in range(len(pictures))]
        return [write_png(name, picture) for name, picture in zip(paths, pictures, strict=True)]
    columns = args.each if 4 <= args.each <= 12 else min(10, len(pictures))
    below = f"seed {args.seed}, {args.steps} steps, guidance {args.cfg:g}" + (f"; {note}" if note else "")
    title = Path(args.file.removeprefix("bundled:")).stem
    return [write_png(out, grid_sheet(pictures, names, columns=columns, title=title, below=below))]


def _text(files: list[Path], samples: Samples, loaded: Loaded, count: int) -> str:
    grids = ", ".join(f"{grid} ({number})" for grid, number in grid_counts(samples).items())
    pairs = [
        ("wrote", ", ".join(map(str, files[:4])) + (", ..." if len(files) > 4 else "")),
        ("one picture", f"{text.macs_text(samples.macs)} executed in {len(samples.evaluations)} evaluations"),
        ("time", f"{samples.seconds:.2f} s in the model for {count} pictures"),
    ]
    if samples.cache_bytes:
        share = sum(e.recomputed or 0.0 for e in samples.evaluations) / len(samples.evaluations)
        kept = memory_text(samples.cache_bytes)
        pairs.append(("token cache", f"{100 * share:.1f} % of the sub-layers' outputs recomputed, at most {kept} kept"))
    if grids:
        pairs.append(("sparse grids", f"{grids} evaluations, from noise to image"))
    if loaded.latent.kind == "latent":
        steps = f"put the .latent file into ComfyUI's input folder: Load Latent, then VAE Decode ({vae_of(loaded)})"
        pairs.append(("decoding", steps))
    return text.facts(pairs)
