"""Noise schedules and single reverse steps against the arrays of the original projects."""

from __future__ import annotations

import pytest
import torch
from golden_files import SAMPLING_TOLERANCE, Golden, assert_close, golden

from sparsedit_core.diffusion import Diffusion, linear_betas, respaced_timesteps
from sparsedit_core.diffusion.gaussian import Denoised
from sparsedit_core.diffusion.sampling import ddim_step

SCHEDULES = {"even": "10", "ddimstride": "ddim10", "low": "10,0"}
"""Name of a stored schedule: the specification it was made with."""


@pytest.fixture(params=["dit_d_sampling10", "sparsedit_k_sampling10"])
def sampling(request: pytest.FixtureRequest) -> Golden:
    return golden(request.param)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_equals_the_original(sampling: Golden, name: str) -> None:
    diffusion = Diffusion(SCHEDULES[name])
    assert torch.equal(diffusion.timestep_map, sampling.output[f"{name}/timestep_map"])
    for table in ("betas", "alphas_cumprod", "posterior_log_variance_clipped"):
        if f"{name}/{table}" in sampling.output:
            expected = sampling.output[f"{name}/{table}"]
            torch.testing.assert_close(getattr(diffusion, table), expected, rtol=0, atol=1e-12)


def test_linear_betas() -> None:
    betas = linear_betas()
    assert betas.dtype == torch.float64
    assert betas.shape == (1000,)
    assert float(betas[0]) == 1e-4
    assert float(betas[-1]) == 0.02
    assert len(Diffusion()) == 1000
    torch.testing.assert_close(Diffusion().betas, betas, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("10", [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]),
        (10, [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]),
        ("ddim10", list(range(0, 1000, 100))),
        ([2, 3], [0, 499, 500, 750, 999]),
        ("2,3", [0, 499, 500, 750, 999]),
        ([1, 0, 1], [0, 667]),
        ("", list(range(1000))),
        (None, list(range(1000))),
    ],
)
def test_respacing(spec: str | int | list[int] | None, expected: list[int]) -> None:
    assert respaced_timesteps(spec) == expected


@pytest.mark.parametrize("spec", ["abc", "ddim", "ddim999", "1001", "0", "10,x", "-3", [], [600, 600]])
def test_respacing_refuses_what_it_cannot_do(spec: str | list[int]) -> None:
    with pytest.raises(ValueError):
        respaced_timesteps(spec)


@pytest.mark.parametrize(
    ("kind", "spec", "eta"),
    [
        ("ddim", "10", 0.0),
        ("ddim_eta0.5", "10", 0.5),
        ("ddim_stride", "ddim10", 0.0),
        ("ddim_low", "10,0", 0.0),
        ("ddim_cfg", "10", 0.0),
    ],
)
def test_ddim_steps_from_stored_samples(sampling: Golden, kind: str, spec: str, eta: float) -> None:
    if f"{kind}/x" not in sampling.output:
        assert kind == "ddim_eta0.5"
        pytest.skip("this fixture has no trajectory with eta 0.5")
    diffusion = Diffusion(spec)
    samples, images = sampling.output[f"{kind}/x"], sampling.output[f"{kind}/pred_xstart"]
    for step in range(10):
        x, x0 = samples[step], images[step]
        index = torch.full((2,), 9 - step)
        denoised = Denoised(x, torch.zeros_like(x), x0)
        found = ddim_step(diffusion, denoised, x, index, sampling.input["noise"][step], eta)
        assert_close(found, samples[step + 1], SAMPLING_TOLERANCE, f"{kind} step {step}")


def test_the_forward_process_and_its_inverses_agree() -> None:
    diffusion = Diffusion("50")
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn((2, 50, 3, 4, 4), generator=generator, dtype=torch.float64)
    index = torch.arange(50)
    x = diffusion.add_noise(x0, index, eps)
    torch.testing.assert_close(diffusion.predict_x0(x, index, eps), x0)
    torch.testing.assert_close(diffusion.predict_eps(x, index, x0), eps)
    # Moving a sample along the true posterior mean keeps its image: the last step returns the image itself.
    mean, _ = diffusion.posterior(x0, x, index)
    torch.testing.assert_close(mean[0], x0[0])


def test_denoise_clips_only_on_request() -> None:
    diffusion = Diffusion("10")
    x, index = torch.full((1, 3, 2, 2), 9.0), torch.tensor([4])
    free = diffusion.denoise(torch.zeros_like(x), x, index)
    clipped = diffusion.denoise(torch.zeros_like(x), x, index, clip=True)
    assert float(free.x0.max()) > 1.0
    assert float(clipped.x0.max()) == 1.0


@pytest.mark.parametrize("kind", ["large", "small"])
def test_models_without_a_learned_variance(kind: str) -> None:
    diffusion = Diffusion("10", fixed_variance=kind)
    x, index = torch.ones(10, 3, 2, 2, dtype=torch.float64), torch.arange(10)
    found = diffusion.denoise(torch.zeros_like(x), x, index).log_variance[:, 0, 0, 0].exp()
    expected = diffusion.betas if kind == "large" else diffusion.posterior_variance
    torch.testing.assert_close(found[1:], expected[1:])
    assert found[0] > 0


def test_a_learned_variance_interpolates_between_the_bounds() -> None:
    diffusion = Diffusion("10")
    x, index = torch.ones(1, 3, 2, 2, dtype=torch.float64), torch.tensor([6])
    for value, table in ((-1.0, diffusion.posterior_log_variance_clipped), (1.0, diffusion.betas.log())):
        output = torch.cat([torch.zeros_like(x), torch.full_like(x, value)], dim=1)
        found = diffusion.denoise(output, x, index).log_variance
        torch.testing.assert_close(found, table[6].expand_as(x))


def test_wrong_model_output_is_refused() -> None:
    x = torch.zeros(1, 4, 2, 2)
    with pytest.raises(ValueError, match="4 channels, or 8"):
        Diffusion("10").denoise(torch.zeros(1, 6, 2, 2), x, torch.tensor([0]))
    with pytest.raises(ValueError, match="fixed_variance"):
        Diffusion("10", fixed_variance="huge")  # type: ignore[arg-type]
