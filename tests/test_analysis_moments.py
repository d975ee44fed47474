"""The inputs of an analysis: the forward process by its ends, and the sampler's own path by its recurrence."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from cli_models import save_latents, save_pixels

from sparsedit_core import load_checkpoint
from sparsedit_core.analysis.moments import noised, predict, sparse_grid_at, trajectory
from sparsedit_core.checkpoint import Loaded
from sparsedit_core.diffusion import Diffusion
from sparsedit_core.sampling import evaluation_times, initial_noise
from sparsedit_core.schedule import PruningSchedule


@pytest.fixture
def flow(tmp_path: Path) -> Loaded:
    return load_checkpoint(save_pixels(tmp_path / "flow.safetensors"))


@pytest.fixture
def eps(tmp_path: Path) -> Loaded:
    return load_checkpoint(save_latents(tmp_path / "eps.safetensors"))


def images(loaded: Loaded, count: int = 2) -> torch.Tensor:
    shape = (count, loaded.config.in_channels, *loaded.config.input_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(5))


def test_flow_goes_from_image_to_noise(flow: Loaded) -> None:
    x0, noise = images(flow), initial_noise(flow, 2, seed=3)
    clean, middle, noisy = noised(flow, x0, torch.tensor([1, 2]), (0.0, 0.25, 1.0), seed=3)
    torch.testing.assert_close(clean.x, x0)
    torch.testing.assert_close(noisy.x, noise)
    torch.testing.assert_close(middle.x, 0.75 * x0 + 0.25 * noise)
    assert middle.t.tolist() == [250.0, 250.0]
    assert (middle.time, middle.y.tolist()) == (0.25, [1, 2])


def test_eps_takes_the_nearest_timestep(eps: Loaded) -> None:
    x0, noise = images(eps), initial_noise(eps, 2)
    found = noised(eps, x0, torch.tensor([0, 9]), (0.5, 1.0))
    assert [one.t.tolist() for one in found] == [[500, 500], [999, 999]]
    assert [one.time for one in found] == [500 / 999, 1.0]
    signal = Diffusion().alphas_cumprod[500].float()
    torch.testing.assert_close(found[0].x, signal.sqrt() * x0 + (1 - signal).sqrt() * noise)
    assert predict(eps.model, found[0]).shape == x0.shape  # learned variance left out


def test_bad_samples_are_refused(flow: Loaded) -> None:
    good, labels = images(flow), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"samples are .* but the model works on"):
        noised(flow, good[:, :2], labels, (0.5,))
    with pytest.raises(ValueError, match=r"classes of this model are 0 \.\. 9, found \[10\]"):
        noised(flow, good, torch.tensor([0, 10]), (0.5,))
    with pytest.raises(ValueError, match=r"time 1\.5 is outside"):
        noised(flow, good, labels, (0.5, 1.5))
    with pytest.raises(ValueError, match="no diffusion time"):
        trajectory(flow, labels, ())


def test_a_trajectory_is_the_euler_path(flow: Loaded) -> None:
    labels, calls = torch.tensor([3, 4, 5]), []
    times = evaluation_times("flow", 4)
    found = trajectory(flow, labels, times, steps=4, seed=7, progress=calls.append)
    assert tuple(one.time for one in found) == times == (1.0, 0.75, 0.5, 0.25)
    torch.testing.assert_close(found[0].x, initial_noise(flow, 3, seed=7))
    for now, after in pairwise(found):
        torch.testing.assert_close(after.x, now.x - 0.25 * predict(flow.model, now))
    assert (sum(calls), found[0].y.tolist()) == (12, [3, 4, 5])


def test_wanted_times_take_the_nearest_evaluation_once(eps: Loaded) -> None:
    visited = evaluation_times("eps", 5)
    found = trajectory(eps, torch.tensor([0]), (visited[1] + 0.01, 0.999, visited[1] - 0.01), steps=5)
    assert [one.time for one in found] == [visited[1], visited[0]]
    assert not eps.model._forward_pre_hooks


def test_the_grid_is_the_schedules(tmp_path: Path) -> None:
    sparse = load_checkpoint(save_pixels(tmp_path / "sparse.safetensors", "1+1x[1,1,1,0]+1"))
    (moment,) = trajectory(sparse, torch.tensor([0]), (1.0,), steps=2)
    dense = sparse.model.token_grid(*moment.x.shape[-2:])
    assert sparse.schedule is not None
    assert sparse_grid_at(sparse, moment) == sparse.schedule.grid(1.0, dense)
    other = PruningSchedule(rate_noise=0.5, rate_clean=0.5)
    assert sparse_grid_at(sparse, moment, other) == other.grid(1.0, dense) != sparse.schedule.grid(1.0, dense)
