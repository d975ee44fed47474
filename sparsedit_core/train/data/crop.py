"""From a picture file to the square that a model is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

_MAX_RATIO = 100  # long side over short side: beyond, the resized picture could fill the memory


class UndecodableError(ValueError):
    """A file that is no picture, or a damaged one; the message is the reason."""


def read_picture(path: Path, side: int) -> Tensor:
    """A file as RGB, (3, side, side) uint8: turned as its EXIF says, then :func:`center_crop`.

    Transparency is dropped, 16-bit greys are rounded down to 8 bits, of an animation the first frame is taken. Raises
    :class:`UndecodableError` where the content cannot be read, and ``OSError`` where the disk or the permission fails.
    """
    try:
        with Image.open(path) as image:
            image.load()
            picture = center_crop(_rgb(ImageOps.exif_transpose(image)), side)
    except OSError as error:
        if error.errno is not None:  # the system's, not the picture's
            raise
        raise UndecodableError(_reason(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged picture can fail in any way
        raise UndecodableError(_reason(error)) from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def center_crop(image: Image.Image, side: int) -> Image.Image:
    """The middle square, ``side`` pixels wide, scaled as ADM and DiT do (Dhariwal and Nichol 2021, data loading).

    The picture is halved with a box filter while its short side is at least twice as long, then brought to ``side`` by
    bicubic interpolation, then cropped; an odd pixel is left at the bottom and at the right.
    """
    width, height = image.size
    while min(width, height) >= 2 * side:
        width, height = width // 2, height // 2
        image = image.resize((width, height), Image.Resampling.BOX)
    scale = side / min(width, height)
    width, height = round(width * scale), round(height * scale)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _rgb(image: Image.Image) -> Image.Image:
    if max(image.size) > _MAX_RATIO * min(image.size):
        raise UndecodableError(f"its {image.width}x{image.height} pixels are a line, not a picture")
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UndecodableError(f"its pixels are {image.mode} numbers, whose range is unknown")
    return image.convert("RGB")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
