"""PSNR and SSIM against closed forms."""

import math

import pytest
import torch

from sparsedit_core.metrics import SIGMA, WINDOW, gaussian_window, psnr, ssim


def picture(seed=0, count=3, side=20):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_of_a_constant_shift_is_closed_form():
    a = picture()
    shift = torch.tensor([0.1, 0.01, 0.5]).view(-1, 1, 1, 1)
    expected = [20 * math.log10(2 / s) for s in (0.1, 0.01, 0.5)]
    assert psnr(a, a + shift).tolist() == pytest.approx(expected, abs=1e-3)
    assert psnr(a / 2, (a + shift) / 2, data_range=1.0).tolist() == pytest.approx(expected, abs=1e-3)


def test_equal_pictures():
    a = picture()
    assert torch.isinf(psnr(a, a)).all()
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 3, abs=1e-12)


def test_window_is_the_gaussian_of_the_paper():
    window = gaussian_window()
    assert len(window) == WINDOW == 11
    assert SIGMA == 1.5
    assert float(window.sum()) == pytest.approx(1)
    assert float(window[5] / window[8]) == pytest.approx(math.exp(9 / 4.5))


def test_ssim_of_flat_pictures_is_the_luminance_term():
    a, b = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), -0.25)
    c1 = (0.01 * 2) ** 2
    expected = (2 * 0.5 * -0.25 + c1) / (0.25 + 0.0625 + c1)
    assert float(ssim(a, b)) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_one_window_is_the_formula():
    a, b = picture(1, 1, 11), picture(2, 1, 11)
    weight = torch.outer(gaussian_window(), gaussian_window())
    values = []
    for x, y in zip(a[0].double(), b[0].double(), strict=True):
        mx, my = (weight * x).sum(), (weight * y).sum()
        vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
        cov = (weight * (x - mx) * (y - my)).sum()
        c1, c2 = 0.02**2, 0.06**2
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert float(ssim(a, b)) == pytest.approx(float(sum(values) / 3), abs=1e-12)


def test_ssim_falls_with_noise_and_is_symmetric():
    a = picture(3, 1, 32)
    noise = picture(4, 1, 32)
    near, far = ssim(a, a + 0.1 * noise), ssim(a, a + noise)
    assert 1 > float(near) > float(far)
    assert float(ssim(a + noise, a)) == pytest.approx(float(far), abs=1e-12)


def test_errors_name_the_shapes():
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\) and \(1, 3, 16, 17\)"):
        psnr(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(torch.zeros(1, 3, 8, 16), torch.zeros(1, 3, 8, 16))
