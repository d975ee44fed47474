"""The memory of training: against a closed form, against tensors with content, and against what a CPU allocates."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from cli_models import Cli
from tiny import config, inputs, random_model
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sparsedit_core.config import DiTConfig
from sparsedit_core.cost import MODELS
from sparsedit_core.schedule import PruningSchedule
from sparsedit_core.train.autocast import mixed_precision, recomputing
from sparsedit_core.train.memory import kept_bytes, training_memory
from sparsedit_core.train.optim import optimizer_of
from sparsedit_core.train.options import OptimizerName, Precision, TrainOptions

LAYOUT = "1+1x[1,1,1,0]+1"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_a_dense_block_by_hand() -> None:
    """What one more block keeps, from its formula: outputs that the next operation's backward needs, each once."""
    batch, width, heads, tokens = 3, 32, 4, 16
    shape = {"hidden_size": width, "num_heads": heads, "mlp_ratio": 4.0}
    two, one = (training_memory(config(depth=depth, **shape), batch=batch) for depth in (2, 1))
    # per token and channel: norm, modulated, q k v, attention, projection, sum; norm, modulated, fc1 and GELU (4 each),
    # fc2, sum
    maps = (1 + 1 + 3 + 1 + 1 + 1) + (1 + 1 + 4 + 4 + 1 + 1)
    statistics = 4 + heads  # mean and deviation of two norms, the logarithmic sum of each head's softmax
    condition = 1 + 6 + 2  # SiLU, the six modulations, 1 + scale twice
    numbers = batch * (tokens * (maps * width + statistics) + condition * width)
    assert two.activations - one.activations == 4 * numbers


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_by_hand(name: OptimizerName) -> None:
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip(f"torch {torch.__version__} has no Muon")
    model = random_model(config(depth=2))
    found = training_memory(config(depth=2), optimizer=name)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer_of(model, TrainOptions(optimizer=name))
    model(*inputs(model.config)).square().mean().backward()
    optimizer.step()
    average = torch.optim.swa_utils.AveragedModel(model)
    assert found.parameters == size(model.parameters())
    assert found.gradients == size(p.grad for p in trained)
    assert found.optimizer == size(v for state in optimizer.state.values() for v in state.values())
    assert found.average == size([*average.parameters(), *average.buffers()])
    assert found.total == sum(value for name, value in found.to_json().items() if name != "total")


def size(tensors: object) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)  # type: ignore[attr-defined]


@pytest.mark.parametrize("layout", [None, LAYOUT])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_it_is_what_a_cpu_allocates(layout: str | None, precision: Precision) -> None:
    """The bytes allocated in a forward pass and not freed after it, by torch's own account of its allocator."""
    wanted = config(layout) if layout else config(depth=3)
    model, (x, t, y) = random_model(wanted), inputs(wanted, batch=5)

    def loss() -> Tensor:
        with mixed_precision("cpu", precision):
            output = model(x, t, y)
        return output.float().square().mean()

    del_me = loss()  # tables of the model's own, made at the first call
    del del_me
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = loss()
    allocated = sum(event.self_cpu_memory_usage for event in recorded.key_averages())
    # kept too, but not allocated here: labels and pictures (in bf16 a copy of them); allocated, not kept: the loss
    before = y.nbytes + (x.nbytes if precision == "no" else 0)
    found = training_memory(wanted, batch=5, precision=precision).activations
    assert found == allocated + before - result.nbytes
    assert found == kept_bytes(model, loss)[0]


def kept_beside_inputs(block: torch.nn.Module, entering: tuple[Tensor, ...]) -> int:
    """Bytes that a block keeps when it is computed by itself, on what enters it."""
    leaves = [value.detach().requires_grad_() for value in entering if isinstance(value, Tensor)]
    kept: set[int] = set()

    def keep(value: Tensor) -> Tensor:
        kept.add(value.untyped_storage().data_ptr())
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        result = block(*leaves)
    del result
    inputs = sum(value.nbytes for value in leaves if value.untyped_storage().data_ptr() in kept)
    return kept_bytes(block, lambda: block(*leaves))[0] - inputs


@pytest.mark.parametrize("layout", [None, LAYOUT])
def test_checkpointing_keeps_the_inputs_of_blocks(layout: str | None) -> None:
    wanted = config(layout) if layout else config(depth=4)
    model, (x, t, y) = random_model(wanted), inputs(wanted, batch=4)
    blocks = copy.deepcopy(model.blocks)
    entering: list[tuple[Tensor, ...]] = []
    handles = [b.register_forward_pre_hook(lambda m, args: entering.append(args)) for b in model.blocks]
    model(x, t, y)
    for handle in handles:
        handle.remove()

    alone = [kept_beside_inputs(block, args) for block, args in zip(blocks, entering, strict=True)]
    found = training_memory(wanted, batch=4, checkpointing=True)
    assert found.recomputed == max(alone)
    with recomputing(model):
        assert found.activations == kept_bytes(model, lambda: model(x, t, y).square().mean())[0]
    assert found.activations < training_memory(wanted, batch=4).activations


def test_fewer_tokens_take_less_and_batches_add_up() -> None:
    wanted = config(LAYOUT)
    grids = [training_memory(wanted, batch=2, sparse_grid=(n, n)).activations for n in (1, 2, 3, 4)]
    assert grids == sorted(set(grids))
    one, two, three = (training_memory(wanted, batch=batch).activations for batch in (1, 2, 3))
    assert three - two == two - one  # the rest does not depend on the batch


def test_nothing_is_left_behind() -> None:
    wanted = config(LAYOUT)
    model = random_model(wanted)
    before = model(*inputs(wanted))
    training_memory(wanted, batch=2, precision="bf16", checkpointing=True)
    assert torch.equal(model(*inputs(wanted)), before)
    assert type(torch.ones(1)) is Tensor
    with pytest.raises(ValueError, match="expected 1 or more"):
        training_memory(wanted, batch=0)
    with pytest.raises(ValueError, match="no, bf16 or fp16"):
        training_memory(wanted, precision="fp8")  # type: ignore[arg-type]


def test_command(cli: Cli) -> None:
    words = ("cost", "DiT-S/2", "--size", 128, "--rate-noise", 0.9, "--rate-clean", 0.5, "--training", "--batch", 2)
    report = cli.works(*words, "--precision", "no", "--json").json["training"]
    assert report["units"] == "bytes of one process and one micro-batch"
    dense = replace(MODELS["DiT-S/2"], input_size=(16, 16))
    assert report["dense"] == training_memory(dense, batch=2).to_json()
    grid = PruningSchedule(0.9, 0.5).grid(0.0, (8, 8))
    assert report["sparse_grid"] == list(grid)  # the densest of the schedule
    layout = DiTConfig.from_json(dense.to_json() | {"layout": "1+2x[1,2,1,1]+1"})
    assert report["sparse"] == training_memory(layout, batch=2, sparse_grid=grid).to_json()
    text = cli.works(*words, "--checkpointing").out
    assert "micro-batch of 2, bf16, checkpointing" in text
    assert "the block computed again" in text
    assert "the block computed again" not in cli.works(*words).out
    assert cli.works("cost", "DiT-S/2", "--size", 128, "--json").json.get("training") is None
    assert "add --training" in cli.refuses("cost", "DiT-S/2", "--size", 128, "--checkpointing")
