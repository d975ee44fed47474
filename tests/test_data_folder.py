"""Folders of pictures: classes, captions and what is refused; crops against a plain account of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import break_image, class_folder, noise_image, save_image
from PIL import Image

from sparsedit_core.train.data.crop import UndecodableError, center_crop, read_picture
from sparsedit_core.train.data.folder import caption, scan_folder

MAGICS = (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"BM")


def test_classes_are_the_sorted_sub_folders(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.PNG", "a/deep/er/x.jpeg", "a/y.webp", "B/z.bmp", ".hidden/h.png", "a/.dot.png"):
        save_image(tmp_path / name.lower() if name.endswith("PNG") else tmp_path / name)
    (tmp_path / "b/10.png").rename(tmp_path / "b/10.PNG")
    (tmp_path / "a/notes.txt").write_text("no picture")
    (tmp_path / "readme.md").write_text("no picture")
    found = scan_folder(tmp_path)
    assert found.class_names == ("B", "a", "b")
    assert found.num_classes == 3
    expected = [("B/z.bmp", 0), ("a/deep/er/x.jpeg", 1), ("a/y.webp", 1), ("b/10.PNG", 2), ("b/2.png", 2)]
    assert [(picture.name, picture.label) for picture in found.pictures] == expected


def test_flat_folders(tmp_path: Path) -> None:
    save_image(tmp_path / "b.png")
    save_image(tmp_path / "a.png")
    found = scan_folder(tmp_path)
    assert (found.class_names, found.num_classes) == (None, 1)
    assert [(picture.name, picture.label) for picture in found.pictures] == [("a.png", 0), ("b.png", 0)]
    save_image(tmp_path / "sub" / "c.png")
    with pytest.raises(ValueError, match=r"2 pictures beside them \(first a.png\)"):
        scan_folder(tmp_path)
    flat = scan_folder(tmp_path, flat=True)
    assert [picture.name for picture in flat.pictures] == ["a.png", "b.png", "sub/c.png"]
    assert {picture.label for picture in flat.pictures} == {0}


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    save_image(tmp_path / "elsewhere" / "x.png")
    root = tmp_path / "root"
    class_folder(root, {"own": 1})
    try:
        (root / "linked").symlink_to(tmp_path / "elsewhere")
        (root / "own" / "loop").symlink_to(root / "own")
    except OSError:
        pytest.skip("this system makes no links")
    assert [picture.name for picture in scan_folder(root).pictures] == ["linked/x.png", "own/000.png"]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        scan_folder(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no picture"):
        scan_folder(tmp_path)
    class_folder(tmp_path, {"full": 2})
    for name in ("empty", "texts"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"class folder empty, texts of .* \(2 of 3 classes\)"):
        scan_folder(tmp_path)


def test_the_fingerprint_sees_names_labels_and_sizes(tmp_path: Path) -> None:
    root = class_folder(tmp_path, {"a": 2, "b": 2})
    seen = [scan_folder(root).fingerprint()]
    assert scan_folder(root).fingerprint() == seen[0]
    seen.append(scan_folder(root, flat=True).fingerprint())
    break_image(root / "a" / "000.png")
    seen.append(scan_folder(root).fingerprint())
    (root / "b" / "001.png").rename(root / "b" / "002.png")
    seen.append(scan_folder(root).fingerprint())
    assert len(set(seen)) == 4


def test_captions(tmp_path: Path) -> None:
    (tmp_path / "a.b.txt").write_bytes("\ufeff  a gr\u00fcn cat\n".encode())
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa")
    assert caption(tmp_path, "a.b.png") == "a gr\u00fcn cat"
    assert caption(tmp_path, "none.png") is None
    with pytest.raises(UnicodeDecodeError):
        caption(tmp_path, "bad.jpg")


@given(
    seed=st.integers(0, 99),
    side=st.integers(1, 9),
    halvings=st.integers(0, 3),
    extra=st.integers(0, 5),
    tall=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_powers_of_two_are_box_halvings_and_then_a_crop(
    seed: int, side: int, halvings: int, extra: int, tall: bool
) -> None:
    scale, start = 2**halvings, extra // 2
    long, short = (side + extra) * scale, side * scale
    image = noise_image(seed, short, long) if tall else noise_image(seed, long, short)
    rows, columns = image.height // scale, image.width // scale
    means = np.asarray(image).reshape(rows, scale, columns, scale, 3).mean(axis=(1, 3))
    expected = means[start : start + side] if tall else means[:, start : start + side]
    found = np.asarray(center_crop(image, side))
    assert np.abs(found - expected).max(initial=0) <= halvings  # every halving rounds twice


@given(width=st.integers(1, 70), height=st.integers(1, 70), side=st.integers(1, 24))
@settings(max_examples=60, deadline=None)
def test_every_size_gives_the_square_and_keeps_a_flat_colour(width: int, height: int, side: int) -> None:
    found = center_crop(Image.new("RGB", (width, height), (200, 100, 7)), side)
    assert found.size == (side, side)
    assert found.getcolors() == [(side * side, (200, 100, 7))]


def test_a_remaining_scale_is_bicubic() -> None:
    image = noise_image(3, 30, 20)
    expected = image.resize((24, 16), Image.Resampling.BICUBIC).crop((4, 0, 20, 16))
    assert np.array_equal(np.asarray(center_crop(image, 16)), np.asarray(expected))


def test_pictures_become_rgb_of_eight_bits(tmp_path: Path) -> None:
    for mode in ("L", "P", "RGBA", "CMYK", "LA", "1"):
        path = tmp_path / f"{mode}.tif"
        noise_image(1, 8, 8).convert("RGB" if mode == "P" else mode.replace("LA", "L")).convert(mode).save(
            path if mode not in ("LA", "P") else path.with_suffix(".png")
        )
        picture = read_picture(path if path.exists() else path.with_suffix(".png"), 8)
        assert (picture.shape, picture.dtype) == ((3, 8, 8), torch.uint8)
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = read_picture(tmp_path / "deep.png", 8)
    assert torch.equal(found, torch.from_numpy((deep >> 8).astype(np.uint8)).expand(3, 8, 8))


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    image = noise_image(5, 8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise for viewing
    image.save(tmp_path / "turned.png", exif=exif)
    expected = torch.from_numpy(np.array(image.transpose(Image.Transpose.ROTATE_270))).permute(2, 0, 1)
    assert torch.equal(read_picture(tmp_path / "turned.png", 8), expected)


def test_what_does_not_decode(tmp_path: Path) -> None:
    half = break_image(save_image(tmp_path / "half.png"))
    empty = tmp_path / "empty.png"
    empty.touch()
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    numbers = tmp_path / "numbers.tif"
    Image.fromarray(np.ones((8, 8), np.float32)).save(numbers)
    line = save_image(tmp_path / "line.png", width=500, height=2)
    for path in (half, empty, text, numbers, line):
        with pytest.raises(UndecodableError):
            read_picture(path, 8)
    with pytest.raises(FileNotFoundError):  # the disk's failure is no picture's fault
        read_picture(tmp_path / "gone.png", 8)


@given(content=st.binary(max_size=200), magic=st.sampled_from(MAGICS))
@settings(max_examples=100, deadline=None)
def test_no_garbage_escapes_as_another_error(
    content: bytes, magic: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.png"
    path.write_bytes(magic + content)
    with pytest.raises(UndecodableError):
        read_picture(path, 4)
