"""Training losses: the fixture of both original projects with its gradients, and what each term must do."""

from __future__ import annotations

import math

import pytest
import torch
from golden_files import FORWARD_TOLERANCE, assert_close, golden
from golden_models import flat_name, golden_config, golden_model
from torch import Tensor

from sparsedit_core.diffusion import Diffusion, flow_losses, training_losses, with_conditions
from sparsedit_core.diffusion.losses import discretized_log_likelihood, min_snr_weight, normal_kl

PROJECTS = {"dit": "none", "sparsedit": "min_snr"}
"""Group of the fixture: the weighting that makes it."""


@pytest.mark.parametrize("project", PROJECTS)
def test_losses_equal_the_original(project: str) -> None:
    file = golden("sparsedit_l_training_loss")
    t, output = file.input["t"], file.output["model_out"]
    diffusion = Diffusion()
    noisy = diffusion.add_noise(file.input["x0"], t, file.input["noise"])
    assert_close(noisy, file.output[f"{project}/x_t"], FORWARD_TOLERANCE)
    found = training_losses(
        diffusion, lambda x, t: output, file.input["x0"], t, file.input["noise"], weighting=PROJECTS[project]
    )
    check_losses(found, {name: file.output[f"{project}/{name}"] for name in ("loss", "mse", "vb")}, t)


def check_losses(found: dict[str, Tensor], expected: dict[str, Tensor], t: Tensor) -> None:
    """README's tolerances: 1e-5 relative, and 1e-3 absolute where t = 0 takes the difference of two CDFs."""
    torch.testing.assert_close(found["mse"], expected["mse"], rtol=1e-5, atol=0)
    for name in ("loss", "vb"):
        torch.testing.assert_close(found[name][t > 0], expected[name][t > 0], rtol=1e-5, atol=0)
        torch.testing.assert_close(found[name][t == 0], expected[name][t == 0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("project", PROJECTS)
def test_model_losses_and_gradients_equal_the_original(project: str) -> None:
    file = golden("sparsedit_l_training_loss")
    model, t = golden_model(file), file.input["t"]
    found = training_losses(
        Diffusion(),
        with_conditions(model, file.input["y"]),
        file.input["x0"],
        t,
        file.input["noise"],
        weighting=PROJECTS[project],
    )
    check_losses(found, {name: file.output[f"{project}/{name}"] for name in ("loss", "mse", "vb")}, t)
    found["loss"][1:].mean().backward()
    config = golden_config(file.meta["constructor"])
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    names = [flat_name(name, config) for name in file.meta["grad_param_names"]]
    norms = torch.stack([gradients[name].double().norm() for name in names])
    torch.testing.assert_close(norms, file.output[f"{project}/grad_l2"], rtol=1e-5, atol=1e-7)
    stored = [key for key in file.output if key.startswith(f"{project}/grad/")]
    assert stored
    for key in stored:
        name = flat_name(key.removeprefix(f"{project}/grad/"), config)
        assert_close(gradients[name], file.output[key], FORWARD_TOLERANCE, key)


def batch(channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Images in [-1, 1], timesteps and noise for six samples."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(6, channels, 4, 4, generator=generator) * 2 - 1
    noise = torch.randn(6, channels, 4, 4, generator=generator)
    return x0, torch.tensor([0, 1, 40, 300, 700, 999]), noise


def test_the_bound_trains_only_the_variance() -> None:
    x0, t, noise = batch()
    eps = noise.clone().mul(0.5).requires_grad_()
    values = torch.zeros_like(eps, requires_grad=True)
    losses = training_losses(Diffusion(), lambda x, t: torch.cat([eps, values], dim=1), x0, t, noise)
    losses["vb"].sum().backward()
    assert eps.grad is None or float(eps.grad.abs().max()) == 0
    assert values.grad is not None
    assert bool(values.grad.isfinite().all())
    assert float(values.grad.abs().max()) > 0


def test_a_model_without_learned_variance_has_no_bound() -> None:
    x0, t, noise = batch()
    losses = training_losses(Diffusion(), lambda x, t: 0.5 * noise, x0, t, noise)
    assert set(losses) == {"loss", "mse"}
    torch.testing.assert_close(losses["loss"], (0.5 * noise).pow(2).mean(dim=(1, 2, 3)))


def test_a_perfect_model_has_no_error() -> None:
    x0, t, noise = batch()
    assert float(training_losses(Diffusion(), lambda x, t: noise, x0, t, noise)["loss"].max()) == 0
    assert float(flow_losses(lambda x, t: noise - x0, x0, t / 999, noise)["loss"].max()) == 0


def test_min_snr_lowers_only_nearly_clean_samples() -> None:
    diffusion, index = Diffusion(), torch.arange(1000)
    weight = min_snr_weight(diffusion, index, torch.zeros(1000, dtype=torch.float64))
    snr = diffusion.alphas_cumprod / (1 - diffusion.alphas_cumprod)
    torch.testing.assert_close(weight, torch.minimum(snr, torch.tensor(5.0)) / snr)
    assert float(weight[0]) < 1e-3
    assert float(weight[-1]) == 1.0


def test_a_respaced_schedule_gives_the_model_original_timesteps() -> None:
    x0, _, noise = batch()
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return noise

    training_losses(Diffusion("6"), model, x0, torch.arange(6), noise)
    assert seen[0].tolist() == [0, 200, 400, 599, 799, 999]


def test_eight_bit_values_have_probability_one_in_total() -> None:
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, scale in ((0.1, -2.0), (0.9, -4.0), (-1.0, 0.0)):
        at = torch.full_like(values, mean)
        total = discretized_log_likelihood(values, at, torch.full_like(values, scale)).exp().sum()
        assert math.isclose(float(total), 1.0, rel_tol=1e-6)


def test_the_divergence_of_equal_distributions_is_zero() -> None:
    mean, log_variance = torch.randn(2, 5), torch.randn(2, 5)
    assert float(normal_kl(mean, log_variance, mean, log_variance).abs().max()) == 0
    assert float(normal_kl(mean, log_variance, mean + 1, log_variance).min()) > 0


def test_bad_requests_say_what_is_wrong() -> None:
    x0, t, noise = batch()
    with pytest.raises(ValueError, match="reach from 0 to 999; this schedule has 0 to 9"):
        training_losses(Diffusion("10"), lambda x, t: noise, x0, t, noise)
    with pytest.raises(ValueError, match="expected 6 integer steps"):
        training_losses(Diffusion(), lambda x, t: noise, x0, t.float(), noise)
    with pytest.raises(ValueError, match="weighting"):
        training_losses(Diffusion(), lambda x, t: noise, x0, t, noise, weighting="snr")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one time in \[0, 1\]"):
        flow_losses(lambda x, t: noise, x0, t.float(), noise)
