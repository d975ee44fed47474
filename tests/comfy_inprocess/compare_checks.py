"""The compare node against closed forms and the core's measures."""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy_pack import node, pack
from load_checks import error_of


def compare(images: torch.Tensor, reference: torch.Tensor, gain: float = 4.0) -> Any:
    """The first four outputs, which the node always had."""
    return node("SparseDiTCompare").execute(images=images, reference=reference, gain=gain).result[:4]


def check_a_constant_difference_has_a_known_psnr() -> None:
    reference = torch.rand(1, 16, 24, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    difference, text, psnr, ssim = compare(reference + 0.1, reference)
    assert math.isclose(psnr, 20.0, abs_tol=1e-4)  # 10 log10(1 / 0.1^2)
    assert 0 < ssim < 1
    torch.testing.assert_close(difference, torch.full_like(reference, 0.4))
    assert text == f"PSNR 20.00 dB, SSIM {ssim:.4f}"


def check_a_batch_is_its_pictures_and_their_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(3, 20, 12, 4, generator=generator), torch.rand(3, 20, 12, 3, generator=generator)
    difference, text, psnr, ssim = compare(a, b, gain=100.0)
    assert difference.shape == (3, 20, 12, 3)
    assert float(difference.max()) == 1
    metrics = pack("sparsedit_core.metrics")
    ours, theirs = (images[..., :3].permute(0, 3, 1, 2) for images in (a, b))
    singles = [(float(metrics.psnr(ours[i : i + 1], theirs[i : i + 1], data_range=1.0)),
                float(metrics.ssim(ours[i : i + 1], theirs[i : i + 1], data_range=1.0))) for i in range(3)]  # fmt: skip
    assert math.isclose(psnr, sum(p for p, _ in singles) / 3, rel_tol=1e-6)
    assert math.isclose(ssim, sum(s for _, s in singles) / 3, rel_tol=1e-6)
    lines = text.splitlines()
    assert lines[:3] == [f"{i}: PSNR {p:.2f} dB, SSIM {s:.4f}" for i, (p, s) in enumerate(singles, 1)]
    assert lines[3].startswith("mean: PSNR")


def check_equal_pictures() -> None:
    a = torch.rand(1, 16, 16, 3)
    difference, text, psnr, ssim = compare(a, a.clone())
    assert psnr == math.inf
    assert math.isclose(ssim, 1.0, abs_tol=1e-9)
    assert not difference.any()
    assert "inf" in text


def check_pictures_that_cannot_be_compared() -> None:
    message = error_of(lambda: compare(torch.zeros(1, 16, 24, 3), torch.zeros(1, 24, 16, 3)))
    assert "1 of 24x16 pixels" in message
    assert "1 of 16x24 pixels" in message
    assert "2 of" in error_of(lambda: compare(torch.zeros(2, 16, 24, 3), torch.zeros(1, 16, 24, 3)))
    assert "11x11" in error_of(lambda: compare(torch.zeros(1, 8, 8, 3), torch.zeros(1, 8, 8, 3)))


def check_the_sheet_is_the_cores_with_the_scale_of_gain() -> None:
    a, b = torch.rand(2, 20, 12, 3), torch.rand(2, 20, 12, 4)
    outputs = node("SparseDiTCompare").define_schema().outputs
    assert [output.display_name for output in outputs] == ["difference", "text", "psnr", "ssim", "sheet"]
    names = {"images_name": "sparse", "reference_name": "dense"}
    output = node("SparseDiTCompare").execute(images=a, reference=b, gain=8.0, **names)
    metrics, core = pack("sparsedit_core.metrics"), pack("sparsedit_core.compare_sheet")
    ours, theirs = (images[..., :3].permute(0, 3, 1, 2) for images in (a, b))
    measures = [measure(ours, theirs, data_range=1.0).tolist() for measure in (metrics.psnr, metrics.ssim)]
    wanted = core.compare_sheet(ours, theirs, list(zip(*measures)), names=("sparse", "dense"), full=0.125)  # noqa: B905
    assert torch.equal(output.result[4], pack("nodes.show").to_image(wanted))
