"""Rectified flow: the path, the samplers' order of accuracy, the time shift, and the model's time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsedit_core.diffusion import diffusion_time, flow_losses, flow_noise, flow_times, sample_flow

START = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def gaussian_velocity(x: Tensor, t: Tensor, spread: float = 0.5) -> Tensor:
    """Exact velocity for images that are normal with this spread; its path scales the noise by it."""
    time = t.double().reshape(-1, 1, 1, 1) / 1000
    variance = ((1 - time) * spread) ** 2 + time**2
    return x * (time - (1 - time) * spread**2) / variance


def test_the_path_is_straight() -> None:
    x0, noise = torch.randn(2, 3, 3, 4, 4)
    time = torch.tensor([0.0, 0.25, 1.0])
    found = flow_noise(x0, time, noise)
    torch.testing.assert_close(found[0], x0[0])
    torch.testing.assert_close(found[1], 0.75 * x0[1] + 0.25 * noise[1])
    torch.testing.assert_close(found[2], noise[2])


@pytest.mark.parametrize("method", ["euler", "heun"])
@pytest.mark.parametrize("steps", [1, 7])
def test_a_straight_velocity_is_followed_exactly(method: str, steps: int) -> None:
    image = torch.full_like(START, 0.3)
    found = sample_flow(lambda x, t: START - image, START, steps, method=method)
    torch.testing.assert_close(found, image)


def error(method: str, steps: int) -> float:
    return float((sample_flow(gaussian_velocity, START, steps, method=method) - 0.5 * START).abs().max())


def test_order_of_accuracy() -> None:
    assert 1.7 < error("euler", 40) / error("euler", 80) < 2.3
    assert 3.4 < error("heun", 40) / error("heun", 80) < 4.6
    assert error("heun", 20) < error("euler", 40)


def test_heun_evaluates_twice_but_at_the_last_step() -> None:
    seen: list[float] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(diffusion_time(t, "flow"))
        return torch.zeros_like(x)

    sample_flow(model, START, 2, method="heun")
    assert seen == [1.0, 0.5, 0.5]


def test_shift_keeps_the_ends_and_moves_times_towards_noise() -> None:
    even, shifted = flow_times(4), flow_times(4, shift=3.0)
    assert even == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert shifted[0] == 1.0
    assert shifted[-1] == 0.0
    assert all(moved > time for moved, time in zip(shifted[1:-1], even[1:-1], strict=True))
    assert shifted[2] == pytest.approx(0.75)


def test_the_model_is_given_a_thousand_times_the_time() -> None:
    seen: list[list[float]] = []
    reported: list[tuple[int, int, float]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        assert t.dtype == torch.float32
        seen.append(t.tolist())
        return START

    def note(step: int, total: int, t: float, x: Tensor, x0: Tensor) -> None:
        reported.append((step, total, t))
        torch.testing.assert_close(x0, torch.zeros_like(START))

    sample_flow(model, START, 2, callback=note)
    assert seen == [[1000.0, 1000.0], [500.0, 500.0]]
    assert reported == [(0, 2, 1000.0), (1, 2, 500.0)]
    flow_losses(model, START, torch.tensor([0.25, 0.5]), START)
    assert seen[-1] == [250.0, 500.0]


def test_bad_requests_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        sample_flow(gaussian_velocity, START, 0)
    with pytest.raises(ValueError, match="shift is 0"):
        sample_flow(gaussian_velocity, START, 2, shift=0.0)
    with pytest.raises(ValueError, match="'euler' or 'heun'"):
        sample_flow(gaussian_velocity, START, 2, method="rk4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="learn_sigma"):
        sample_flow(lambda x, t: torch.cat([x, x], dim=1), START, 2)
