"""The engine: the loop in ten plain lines, what accelerate leaves behind, and runs that end badly."""

from __future__ import annotations

import math
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from tiny import config, random_model
from train_runs import LAYOUT, SCHEDULE, MemorySource, options, same, tiny_run, train

from sparsedit_core import PruningSchedule
from sparsedit_core.checkpoint import Latent, Loaded, load_checkpoint
from sparsedit_core.train.batches import MicroBatches
from sparsedit_core.train.curves import draw_curves
from sparsedit_core.train.options import TrainOptions
from sparsedit_core.train.progress import Progress
from sparsedit_core.train.state import newest_state


def go(out: Path, loaded: Loaded | None = None, settings: TrainOptions | None = None, **keywords: Any) -> Loaded:
    source = keywords.pop("source", MemorySource())
    train(loaded or tiny_run(), out, source, settings or options(), cpu=True, **keywords)
    return load_checkpoint(out)


def test_the_run_is_the_plain_loop(tmp_path: Path) -> None:
    """The same weights from the loop written out, with its own learning rate, clipping and average."""
    settings = options(accumulate=2, weight_decay=0.1, clip=0.05, decay=0.5)
    found = go(tmp_path / "x.safetensors", tiny_run(dtype=torch.float64), settings)
    model = tiny_run(dtype=torch.float64).model
    batches = MicroBatches(MemorySource(), model.config, SCHEDULE, "flow", settings, 2)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.98), weight_decay=0.1)
    average: list[torch.Tensor] = []
    for step in range(10):
        for group in optimizer.param_groups:  # two steps up, then down from the sixth
            group["lr"] = 3e-3 * min((step + 1) / 2, 1.0, (10 - step) / 5)
        for part in (0, 1):
            batch = batches(2 * step + part).to(torch.device("cpu"), torch.float64)
            t = batch.times[:, None, None, None]
            x = (1 - t) * batch.images + t * batch.noise
            predicted = model(x, batch.times.float() * 1000, batch.conditions, sparse_grid=batch.grid)
            (0.5 * (batch.noise - batch.images - predicted).pow(2).mean()).backward()
        norm = math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in weights))
        assert norm > 0.05
        for p in weights:
            p.grad *= 0.05 / norm
        optimizer.step()
        optimizer.zero_grad()
        now = [p.detach().clone() for p in weights]
        average = now if step <= 5 else [0.9 * a + 0.1 * b for a, b in zip(average, now, strict=True)]
    trained = [p for p in found.model.parameters() if p.requires_grad]
    assert len(trained) == len(average)
    for a, b in zip(trained, average, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_recomputed_activations_change_nothing(precision: str, tmp_path: Path) -> None:
    plain, again = (tmp_path / f"{name}.safetensors" for name in ("plain", "again"))
    teacher = random_model(replace(config(depth=6), learn_sigma=False), seed=4)
    features = {"distill": 0.5, "distill_features": 0.5, "precision": precision}
    go(plain, settings=options(**features), teacher=teacher)
    loaded = tiny_run()
    go(again, loaded, options(checkpointing=True, **features), teacher=teacher)
    assert same(plain, again)
    assert not any("forward" in vars(module) for module in loaded.model.modules())


def test_blocks_are_computed_twice_where_they_are_recomputed(tmp_path: Path) -> None:
    calls = []
    loaded = tiny_run(None)
    loaded.model.blocks[2].norm1.register_forward_hook(lambda *seen: calls.append(1))
    go(tmp_path / "a.safetensors", loaded, options(pictures=4))
    go(tmp_path / "b.safetensors", loaded, options(pictures=4, checkpointing=True))
    assert len(calls) == 3


def test_compiled_blocks_train_to_the_same_model(tmp_path: Path) -> None:
    """One graph a role and grid, recomputed activations and watched tokens among them; nothing stays compiled."""
    teacher = random_model(replace(config(depth=3), learn_sigma=False), seed=4)
    settings = {"distill": 0.5, "distill_features": 0.5, "checkpointing": True, "pictures": 16}
    plain, fast = (replace(tiny_run("0+1x[1,0,1,1]+0"), schedule=PruningSchedule(0.75, 0.75)) for _ in range(2))
    expected = go(tmp_path / "plain.safetensors", plain, options(**settings), teacher=teacher)
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    try:
        found = go(tmp_path / "fast.safetensors", fast, options(compile=True, **settings), teacher=teacher)
    except ValueError as error:
        pytest.skip(str(error))
    x, t, y = torch.randn(8, 4, 8, 8), torch.linspace(0, 990, 8), torch.arange(8) % 5
    with torch.no_grad():  # not the weights: the gradient of keys' biases is rounding, which Adam scales up
        torch.testing.assert_close(found.model(x, t, y), expected.model(x, t, y), rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1 + 3  # the trial and the roles
    assert not counters["graph_break"]
    assert not any("forward" in vars(module) for module in fast.model.modules())


def test_without_a_compiler_a_run_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(*_: Any) -> Any:
        raise RuntimeError("no g++ here\nand no cl")

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(ValueError, match=r"compile=True does not work on the device cpu \(no g\+\+ here\); leave it"):
        go(tmp_path / "x.safetensors", settings=options(compile=True))
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("objective", ["dit", "min_snr"])
def test_a_noise_predicting_model_with_learned_variance(objective: str, tmp_path: Path) -> None:
    loaded = tiny_run(prediction="eps")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    found = go(tmp_path / "x.safetensors", loaded, options(objective=objective))
    assert (found.prediction, found.schedule, str(found.layout)) == ("eps", SCHEDULE, LAYOUT)
    assert found.metadata["train"]["objective"] == objective
    assert found.metadata["data"] == {"fingerprint": MemorySource().fingerprint, "count": 40}
    assert not torch.equal(found.model.final_layer.linear.weight, before["final_layer.linear.weight"])


def test_distillation_draws_towards_the_teacher(tmp_path: Path) -> None:
    """The same start, the same forty steps: with the teacher the outputs come nearer to its own."""
    teacher, start = tiny_run(None, seed=4).model.eval(), tiny_run(None).model
    x, t, y = torch.randn(8, 4, 8, 8), torch.linspace(0, 990, 8), torch.arange(8) % 5
    distances = []
    for name, shown in (("data", None), ("teacher", teacher)):
        out = tmp_path / f"{name}.safetensors"
        found = go(out, tiny_run(None), options(pictures=160, save_every=160), teacher=shown)
        distances.append(float((found.model(x, t, y) - teacher(x, t, y)).pow(2).mean().detach()))
    assert distances[1] < 0.9 * distances[0]
    assert distances[1] < 0.9 * float((start(x, t, y) - teacher(x, t, y)).pow(2).mean().detach())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_runs_do_not_see_each_other(precision: str, tmp_path: Path) -> None:
    loaded = tiny_run()
    before = [getattr(module, "attention", None) for module in loaded.model.modules()]
    go(tmp_path / "x.safetensors", loaded, options(precision=precision))
    assert not accelerate.state.AcceleratorState._shared_state
    assert [getattr(module, "attention", None) for module in loaded.model.modules()] == before
    assert "forward" not in vars(loaded.model)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_numbers_that_are_none_end_the_run_and_keep_the_last_state(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    settings = options(save_every=4)
    with pytest.raises(FloatingPointError, match=r"at step 5; the last good state is step-00000004 in .*x\.state"):
        go(out, source=MemorySource(bad=True), settings=settings)
    state = newest_state(tmp_path / "x.state")
    assert state is not None
    assert all(bool(value.isfinite().all()) for value in state.tensors().values())
    assert all(bool(value.isfinite().all()) for value in load_checkpoint(out).model.state_dict().values())
    with pytest.raises(FloatingPointError, match="no state was saved before; begin anew with a lower learning rate"):
        go(tmp_path / "y.safetensors", source=MemorySource(bad=True), settings=options(save_every=40))


def test_a_run_that_ends_badly_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError) as end:
        go(tmp_path / "x.safetensors", source=MemorySource(bad=True))
    assert end.tb is not None  # it still holds the frames of the run
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sparsedit-data")]


def test_the_launcher_has_no_say_in_accumulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, launched = tmp_path / "plain.safetensors", tmp_path / "launched.safetensors"
    go(plain)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")  # as `accelerate launch` with a config sets it
    go(launched)
    assert same(plain, launched)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "channels": ({"latent": Latent(3, 1.0, 1, "pixel")}, "kind of space pixel of the model, latent of the data"),
    "scale": ({"latent": Latent(4, 0.13, 8)}, "scaled by 0.18215 and the model works on latents scaled by 0.13"),
    "schedule": ({"schedule": None}, "no schedule was given"),
    "objective": ({"prediction": "eps"}, "objective flow trains models that predict 'flow', this one predicts 'eps'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "x.safetensors", replace(tiny_run(), **changes), options(objective="flow"))
    assert not list(tmp_path.iterdir())


def test_other_misfits(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    small = random_model(config(num_classes=3, learn_sigma=False))
    with pytest.raises(ValueError, match="the data have 5 classes, the model's label table has 3"):
        go(out, Loaded(model=small, config=small.config, prediction="flow"))
    wide = random_model(config(input_size=(8, 16), learn_sigma=False))
    with pytest.raises(ValueError, match=r"rows and columns \(8, 16\) of the model, \(8, 8\) of the data"):
        go(out, Loaded(model=wide, config=wide.config, prediction="flow"))
    nameless = random_model(config(null_class=False, learn_sigma=False))
    with pytest.raises(ValueError, match="label_drop needs a null class"):
        go(out, Loaded(model=nameless, config=nameless.config, prediction="flow"))
    named = Loaded(model=(found := tiny_run().model), config=found.config, prediction="flow", class_names=("a", "b"))
    with pytest.raises(ValueError, match="2 class names for 5 classes"):  # before the first step, not at a save
        go(out, replace(named, schedule=SCHEDULE))
    with pytest.raises(ValueError, match=r"classes of this model are 0 .. 4, found \[5"):
        go(out, source=MemorySource(highest=6))
    with pytest.raises(ValueError, match=r"distill_features=1\.0 needs a teacher"):
        go(out, settings=options(distill_features=1.0))
    with pytest.raises(ValueError, match=r"distill=0\.5 needs a teacher"):
        go(out, settings=options(distill=0.5))
    with pytest.raises(ValueError, match=r"cannot be written to .*x\.pt"):
        go(tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


def test_without_accelerate_one_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ValueError, match=r"accelerate, which is not installed.*sparsedit\[train\]"):
        go(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "changes",
    [{"batch": 0}, {"accumulate": 0}, {"keep": 0}, {"clip": -1.0}, {"ema": 1.0}, {"beta2": 1.0}, {"decay": 1.5},
     {"learning_rate": math.inf}, {"weight_decay": math.nan}, {"objective": "x"}, {"precision": "fp8"}],
)  # fmt: skip
def test_bad_options_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))}="):
        options(**changes)


def test_a_watcher_that_cannot_write_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full:
        seen = 0

        def resumed(self, step: int) -> None:
            self.seen -= step

        def step(self, progress: Progress, averaged: object) -> None:
            self.seen += 1
            raise OSError("No space left on device")

        def saved(self, progress: Progress) -> None:
            self.seen += 100

    full = Full()
    go(tmp_path / "x.safetensors", watchers=[full])
    assert full.seen == 10 + 5 * 100
    assert "Full of this run: No space left on device" in caplog.text


def row(step: int, **changes: float) -> dict[str, Any]:
    values = {"step": step, "steps": 9, "pictures": 4 * step, "seconds": 1.0, "loss": 1 / step, "grad_norm": 2.0}
    return {**values, "rate": 1e-3, **changes}


def test_curves_of_numbers_that_are_none() -> None:
    unknown = {**row(6), "grad_norm": None}
    rows = [row(1), row(2, loss=math.nan), row(3, grad_norm=math.inf), row(4, loss=1e-5), row(5, rate=0.0), unknown]
    whole = draw_curves(rows, title="x")
    assert whole.size[0] == 900
    assert whole.tobytes() != draw_curves(rows[:1], title="x").tobytes()
    draw_curves([row(1, loss=math.nan, grad_norm=math.nan, rate=math.nan)], title="x")
    with pytest.raises(ValueError, match="no line of a log"):
        draw_curves([], title="x")
