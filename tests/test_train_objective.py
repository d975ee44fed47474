"""Objectives: the losses of the original projects, distillation in closed form, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from golden_files import golden
from golden_models import golden_model
from tiny import config, random_model
from torch import Tensor
from train_runs import LAYOUT, SCHEDULE, MemorySource, options, tiny_model

from sparsedit_core.diffusion import Diffusion, with_conditions
from sparsedit_core.dit import DiT
from sparsedit_core.layout import SegmentLayout
from sparsedit_core.train.batches import MicroBatch, MicroBatches, ahead
from sparsedit_core.train.distill import Teacher, check_teacher, segment_ends
from sparsedit_core.train.objective import Objective, objective_name

GROUPS = {"dit": "dit", "min_snr": "sparsedit"}
"""Objective: its group in the fixture."""


@pytest.mark.parametrize("name", GROUPS)
def test_the_loss_is_that_of_the_original_project(name: str) -> None:
    file = golden("sparsedit_l_training_loss")
    model, t = golden_model(file), file.input["t"]
    batch = MicroBatch(file.input["x0"], file.input["y"], t, file.input["noise"], None)
    found = Objective(name).losses(with_conditions(model, batch.conditions), batch)
    for part in ("loss", "mse", "vb"):
        expected = file.output[f"{GROUPS[name]}/{part}"]
        torch.testing.assert_close(found[part][t > 0], expected[t > 0], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found[part][t == 0], expected[t == 0], rtol=0, atol=1e-3)


def noise_batch(channels: int = 3) -> MicroBatch:
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, 6, channels, 4, 4, generator=generator)
    return MicroBatch(images, torch.zeros(6, dtype=torch.int64), torch.tensor([0, 1, 40, 300, 700, 999]), noise, None)


def test_flow_is_the_squared_error_of_the_velocity() -> None:
    batch = replace(noise_batch(), times=torch.linspace(0, 1, 6, dtype=torch.float64))
    found = Objective("flow").losses(lambda x, t: torch.zeros_like(x), batch)["loss"]
    torch.testing.assert_close(found, (batch.noise - batch.images).pow(2).mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("name", ["dit", "min_snr", "flow"])
def test_a_teacher_takes_the_place_of_the_pictures(name: str) -> None:
    batch, learned = noise_batch(), name != "flow"
    if name == "flow":
        batch = replace(batch, times=torch.linspace(0, 1, 6, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    mine, theirs = torch.randn(2, 6, 6 if learned else 3, 4, 4, generator=generator)
    alone = Objective(name).losses(lambda x, t: mine, batch)
    weight = torch.ones(6)
    if name == "min_snr":
        signal = Diffusion().alphas_cumprod[batch.times]
        weight = torch.minimum(5 * (1 - signal) / signal, torch.tensor(1.0)).float()
    distance = (mine - theirs)[:, :3].pow(2).mean(dim=(1, 2, 3)) * weight
    for share in (0.0, 0.25, 1.0):
        found = Objective(name, share).losses(lambda x, t: mine, batch, lambda x, t: theirs)
        expected = (1 - share) * alone["mse"] + share * distance + alone.get("vb", torch.zeros(6))
        torch.testing.assert_close(found["loss"], expected, rtol=1e-5, atol=1e-6)


def tokens_after(model: DiT, number: int, x: Tensor, t: Tensor, y: Tensor, **grid: tuple[int, int]) -> Tensor:
    """The tokens after a block, found by cutting the model off behind it: the final layer is given them."""
    kept: list[Tensor] = []
    handle = model.blocks[number].register_forward_hook(lambda *seen: kept.append(seen[2].detach()))
    with torch.no_grad():
        model(x, t, y, **grid)
    handle.remove()
    return kept[0]


def test_feature_distance_is_the_mean_over_segment_ends() -> None:
    student, teacher = tiny_model(LAYOUT), tiny_model(None, seed=3)
    assert segment_ends(SegmentLayout.parse(LAYOUT)) == [0, 4, 5]
    assert segment_ends(SegmentLayout.parse("0+2x[1,3,1,1]+0")) == [5, 11]
    x, t, y = torch.randn(3, 4, 8, 8), torch.tensor([5.0, 500.0, 990.0]), torch.tensor([0, 3, 5])
    taught = Teacher(teacher, student, features=1.0)
    with taught.watching():
        taught.predict(x, t, y)
        student(x, t, y, sparse_grid=(2, 2))
        found = taught.distance()
        found.backward()
        with pytest.raises(RuntimeError):  # nothing was predicted since
            taught.distance()
    parts = []
    for number in (0, 4, 5):
        a, b = tokens_after(student, number, x, t, y, sparse_grid=(2, 2)), tokens_after(teacher, number, x, t, y)
        assert a.shape == b.shape == (3, 16, 16)
        parts.append((a - b).pow(2).mean() / b.pow(2).mean())
    torch.testing.assert_close(found.detach(), torch.stack(parts).mean())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    moved = [name for name, p in student.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0]
    assert any(name.startswith("blocks.2.") for name in moved)
    assert not any(name.startswith("final_layer") for name in moved)
    assert not student.blocks[0]._forward_hooks
    assert not teacher.blocks[0]._forward_hooks


def test_the_same_features_have_no_distance() -> None:
    student = tiny_model("0+1x[1,1,1,1]+1")
    twin = tiny_model("0+1x[1,1,1,1]+1")
    taught = Teacher(random_model(replace(student.config, layout=None), seed=1), student, features=1.0)
    taught.model = twin  # type: ignore[assignment]  # a sparse one, which the constructor refuses
    x, t, y = torch.randn(2, 4, 8, 8), torch.tensor([5.0, 500.0]), torch.tensor([0, 3])
    with taught.watching():
        taught.predict(x, t, y)
        student(x, t, y)
        assert float(taught.distance().detach()) < 1e-10  # with and without gradients the GELU rounds differently


def test_teachers_that_do_not_fit() -> None:
    student = tiny_model(LAYOUT)
    with pytest.raises(ValueError, match="give a dense model"):
        check_teacher(student, student, 0.0)
    with pytest.raises(ValueError, match="num_classes 7 and the model 5"):
        check_teacher(random_model(config(num_classes=7)), student, 0.0)
    check_teacher(random_model(config(depth=3)), student, 0.0)
    with pytest.raises(ValueError, match="depth 3 and the model 6"):
        check_teacher(random_model(config(depth=3)), student, 1.0)
    with pytest.raises(ValueError, match="the model is dense"):
        check_teacher(random_model(config()), random_model(config()), 1.0)


def test_the_objective_follows_the_prediction() -> None:
    flow, learned = config(learn_sigma=False), config(learn_sigma=True)
    assert objective_name("auto", "flow", flow) == "flow"
    assert objective_name("auto", "eps", learned) == "dit"
    assert objective_name("min_snr", "eps", learned) == "min_snr"
    with pytest.raises(ValueError, match="this one predicts 'eps'; use dit or min_snr"):
        objective_name("flow", "eps", learned)
    with pytest.raises(ValueError, match="learned variance"):
        objective_name("auto", "flow", learned)


def batches(**changes: object) -> MicroBatches:
    return MicroBatches(MemorySource(), tiny_model(LAYOUT).config, SCHEDULE, "flow", options(**changes), 2)


def test_a_micro_batch_depends_on_its_number_alone() -> None:
    make = batches()
    forwards = list(ahead(make, range(6)))
    for number in reversed(range(6)):
        again, before = batches()(number), forwards[number]
        assert (again.grid, again.conditions.tolist()) == (before.grid, before.conditions.tolist())
        assert all(torch.equal(getattr(again, name), getattr(before, name)) for name in ("images", "times", "noise"))
    assert not torch.equal(forwards[0].noise, forwards[1].noise)
    assert not torch.equal(batches(seed=1)(0).noise, forwards[0].noise)
    assert torch.equal(forwards[3].images, MemorySource().batch(6, 2)[0])  # the data come in the order of the source


def test_labels_are_dropped_as_often_as_asked() -> None:
    make = batches(label_drop=0.25, batch=400, pictures=400)
    dropped = torch.cat([make(number).conditions for number in range(10)]) == 5
    assert abs(float(dropped.float().mean()) - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5
    assert not (batches(label_drop=0.0)(0).conditions == 5).any()


def test_errors_of_the_data_thread_arrive() -> None:
    make = MicroBatches(MemorySource(highest=7), tiny_model(LAYOUT).config, SCHEDULE, "flow", options(), 1)
    with pytest.raises(ValueError, match=r"classes of this model are 0 \.\. 4, found \[5"):
        list(ahead(make, range(10)))
