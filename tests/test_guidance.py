"""Classifier-free guidance, and diffusion time for whoever chooses the token grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsedit_core.diffusion import combine_guidance, diffusion_time, with_conditions, with_guidance, with_labels

X, T, Y = torch.ones(2, 4, 2, 2), torch.tensor([7, 7]), torch.tensor([1, 3])


def labelled(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Noise and variance channels that all hold the label."""
    return torch.cat([x, x], dim=1) * y.to(x.dtype).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(("channels", "guided"), [(3, 3), (None, 4), (9, 4)])
def test_guided_channels(channels: int | None, guided: int) -> None:
    found = with_guidance(labelled, Y, 10, 2.0, channels=channels)(X, T)
    assert found.shape == (2, 8, 2, 2)
    assert found[:, 0, 0, 0].tolist() == [10 + 2 * (1 - 10), 10 + 2 * (3 - 10)]
    assert bool((found[:, :guided] == found[:, :1]).all())
    assert found[:, guided:, 0, 0].tolist() == [[1.0] * (8 - guided), [3.0] * (8 - guided)]


def test_one_evaluation_on_the_doubled_batch() -> None:
    seen: list[tuple[list[int], list[int]]] = []

    def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        seen.append((t.tolist(), y.tolist()))
        return x

    with_guidance(model, Y, 10, 2.0)(X, T)
    with_guidance(model, Y, torch.tensor([4, 5]), 2.0)(X, T)
    assert seen == [([7] * 4, [1, 3, 10, 10]), ([7] * 4, [1, 3, 4, 5])]


def test_scale_one_runs_only_the_conditional_half() -> None:
    assert torch.equal(with_guidance(labelled, Y, 10, 1.0)(X, T), with_conditions(labelled, Y)(X, T))
    assert torch.equal(with_labels(labelled, Y)(X, T), labelled(X, T, Y))  # the name before there were captions


def test_bad_guidance_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="2 labels for a batch of 1"):
        with_guidance(labelled, Y, 10, 2.0)(X[:1], T[:1])
    with pytest.raises(ValueError, match="cannot guide 5 channels"):
        combine_guidance(X, X, 2.0, 5)


def test_diffusion_time() -> None:
    assert diffusion_time(torch.tensor([999, 999])) == 1.0
    assert diffusion_time(0) == 0.0
    assert diffusion_time(torch.tensor([500.0]), "flow") == 0.5
    assert diffusion_time(torch.tensor([1000.0]), "flow") == 1.0
    assert diffusion_time(torch.tensor([999]).bfloat16()) == 1.0
    with pytest.raises(ValueError, match="split it by timestep"):
        diffusion_time(torch.tensor([0, 999]))
    with pytest.raises(ValueError, match="outside 0"):
        diffusion_time(1500)
    with pytest.raises(ValueError, match="'eps' or 'flow'"):
        diffusion_time(3, "v")  # type: ignore[arg-type]
