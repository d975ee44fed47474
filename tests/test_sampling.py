"""Whole trajectories of the DiT and SparseDiT fixtures, and how the samplers treat noise, seeds and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from golden_files import FORWARD_TOLERANCE, SAMPLING_TOLERANCE, Golden, assert_close, golden
from golden_models import golden_model
from torch import Tensor

from sparsedit_core.diffusion import (
    Diffusion,
    diffusion_time,
    draw_noise,
    sample_ddim,
    sample_ddpm,
    seeded_generators,
    with_conditions,
    with_guidance,
)
from sparsedit_core.dit import DiT
from sparsedit_core.schedule import PruningSchedule

KINDS = {
    "ddim": "10",
    "ddim_eta0.5": "10",
    "ddim_stride": "ddim10",
    "ddim_low": "10,0",
    "ddim_cfg": "10",
    "ddpm": "10",
    "ddpm_low": "10,0",
    "ddpm_cfg": "10",
}
"""Stored trajectories and the respacing they were made with."""

NULL_LABEL = 10


@cache
def fixture(name: str) -> tuple[Golden, DiT]:
    file = golden(name)
    return file, golden_model(file)


def run(file: Golden, model: Callable[..., Tensor], kind: str) -> tuple[Tensor, Tensor]:
    """Samples (11, B, ...) and predicted images (10, B, ...) of our own samplers with the stored noise."""
    y, noise, start = file.input["y"], file.input["noise"], file.input["x_T"]
    model_fn = with_conditions(model, y)
    if kind.endswith("_cfg"):
        model_fn = with_guidance(model, y, NULL_LABEL, float(file.input["cfg_scale"]))
    samples, images = [start], []

    def record(step: int, total: int, t: float, x: Tensor, x0: Tensor) -> None:
        assert total == 10
        assert step == len(images)
        samples.append(x)
        images.append(x0)

    diffusion = Diffusion(KINDS[kind])
    if kind.startswith("ddpm"):
        sample_ddpm(diffusion, model_fn, start, noise=noise, callback=record)
    else:
        eta = 0.5 if kind == "ddim_eta0.5" else 0.0
        sample_ddim(diffusion, model_fn, start, eta=eta, noise=noise, callback=record)
    return torch.stack(samples), torch.stack(images)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dit_d_sampling10", "sparsedit_k_sampling10"])
def test_trajectory_equals_the_original(name: str, kind: str) -> None:
    file, model = fixture(name)
    if f"{kind}/x" not in file.output:
        assert kind == "ddim_eta0.5"
        pytest.skip("this fixture has no trajectory with eta 0.5")
    samples, images = run(file, model, kind)
    assert_close(samples, file.output[f"{kind}/x"], SAMPLING_TOLERANCE, "samples")
    assert_close(images, file.output[f"{kind}/pred_xstart"], SAMPLING_TOLERANCE, "predicted images")


@pytest.mark.parametrize("name", ["dit_a_d64", "sparsedit_a_g1311_p2n2"])
def test_guidance_equals_the_original(name: str) -> None:
    file, model = fixture(name)
    y = file.input["cfg_y"][:2]
    guided = with_guidance(model, y, NULL_LABEL, float(file.input["cfg_scale"]))
    with torch.no_grad():
        found = guided(file.input["cfg_x"][:2], file.input["cfg_t"][:2])
    assert_close(found, file.output["cfg_out"][:2], FORWARD_TOLERANCE)


def test_a_pruning_schedule_rides_in_the_model_function() -> None:
    file, model = fixture("sparsedit_k_sampling10")
    schedule = PruningSchedule(rate_noise=0.9, rate_clean=0.2, levels=None)
    grids: list[tuple[int, int]] = []

    def scheduled(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        grids.append(schedule.grid(diffusion_time(t), model.config.grid))
        return model(x, t, y, sparse_grid=grids[-1])

    model_fn = with_guidance(scheduled, file.input["y"], NULL_LABEL, 4.0)
    found = sample_ddim(Diffusion("10"), model_fn, file.input["x_T"])
    assert bool(found.isfinite().all())
    assert len(grids) == 10
    assert grids == sorted(grids)
    assert grids[0] < grids[-1]


def toy(x: Tensor, t: Tensor) -> Tensor:
    """A model that sees its time and mixes nothing over the batch."""
    return torch.cat([0.1 * x + 1e-4 * t.reshape(-1, 1, 1, 1), torch.zeros_like(x)], dim=1)


@pytest.mark.parametrize("sampler", [sample_ddpm, lambda *a, **k: sample_ddim(*a, eta=1.0, **k)])
def test_a_seeded_picture_does_not_depend_on_its_batch(sampler: Callable[..., Tensor]) -> None:
    def pictures(seeds: list[int]) -> Tensor:
        generators = seeded_generators(seeds)
        start = draw_noise(torch.empty(len(seeds), 3, 4, 4), generators)
        return sampler(Diffusion("5"), toy, start, generator=generators)

    together = pictures([1, 2, 3])
    assert torch.equal(together, pictures([1, 2, 3]))
    assert torch.equal(together[1:2], pictures([2]))
    assert not torch.equal(together[0], together[1])


def test_one_generator_serves_a_whole_batch() -> None:
    def picture(seed: int) -> Tensor:
        start = torch.ones(2, 3, 4, 4)
        return sample_ddpm(Diffusion("5"), toy, start, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(picture(4), picture(4))
    assert not torch.equal(picture(4), picture(5))


def test_ddim_without_eta_draws_no_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    sample_ddim(Diffusion("5"), toy, torch.ones(1, 3, 4, 4), generator=generator)
    assert torch.equal(before, generator.get_state())


def test_the_model_gets_original_timesteps_and_the_callback_reports_them() -> None:
    seen: list[float] = []
    reported: list[tuple[int, int, float]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        assert t.dtype == torch.int64
        assert t.shape == (2,)
        seen.append(diffusion_time(t))
        return toy(x, t)

    def note(step: int, total: int, t: float, x: Tensor, x0: Tensor) -> None:
        assert x.shape == x0.shape == (2, 3, 4, 4)
        assert not x.requires_grad
        reported.append((step, total, t))

    sample_ddpm(Diffusion("4"), model, torch.ones(2, 3, 4, 4), callback=note)
    assert reported == [(0, 4, 999.0), (1, 4, 666.0), (2, 4, 333.0), (3, 4, 0.0)]
    assert seen == [1.0, 666 / 999, 333 / 999, 0.0]


def test_an_exception_in_the_callback_ends_the_run() -> None:
    class Cancelled(Exception):
        pass

    def cancel(step: int, *_: object) -> None:
        if step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        sample_ddim(Diffusion("5"), toy, torch.ones(1, 3, 4, 4), callback=cancel)


def test_samples_stay_in_float32_whatever_the_model_returns() -> None:
    found = sample_ddpm(Diffusion("3"), lambda x, t: toy(x, t).half(), torch.ones(1, 3, 4, 4).half())
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())


def test_bad_requests_say_what_is_wrong() -> None:
    x = torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match="eta is 2"):
        sample_ddim(Diffusion("5"), toy, x, eta=2.0)
    with pytest.raises(ValueError, match="1 generators for a batch of 2"):
        sample_ddpm(Diffusion("5"), toy, x, generator=seeded_generators([1]))
    with pytest.raises(ValueError, match="noise given for step 0"):
        sample_ddpm(Diffusion("5"), toy, x, noise=torch.zeros(5, 1, 3, 4, 4))
    with pytest.raises(ValueError, match="floating-point"):
        sample_ddpm(Diffusion("5"), toy, torch.ones(1, 3, 4, 4, dtype=torch.int64))
