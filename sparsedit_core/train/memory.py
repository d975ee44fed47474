"""What training keeps in memory, counted on tensors without content: no weight is allocated, no device is needed.

The forward pass runs on fake tensors (torch's ``FakeTensorMode``: meta tensors that know their device, which autocast
and attention choose their operations by); every storage that the backward pass is promised is counted once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..backbone import Backbone
from ..backbones import new_model
from ..conditions import Captions, Conditions, call_model
from ..config import BackboneConfig, PixArtConfig
from ..cost import caption_length
from ..sdtm import Block
from ..tokens import Grid
from .autocast import mixed_precision, recomputing
from .optim import shared_out
from .options import OptimizerName, Precision

_STEP, _AVERAGED = 4, 8  # bytes of AdamW's step count of a parameter, and of the count of averaged steps


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one process and one micro-batch.

    ``parameters``   float32 weights, the position table included
    ``gradients``    one float32 number for every trained weight
    ``optimizer``    AdamW's two moments of every trained weight; Muon has one
    ``average``      the averaged weights
    ``activations``  what the forward pass keeps for the backward pass; in bf16 and fp16 with the weights' copies in it
    ``recomputed``   with checkpointing: what the largest block keeps while it is computed again; else 0

    Not in it: the batch's own loading, a teacher, temporary buffers of single operations and of the optimiser's step,
    buckets of several processes, and what the device's libraries and allocator take for themselves.
    """

    parameters: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    recomputed: int

    @property
    def total(self) -> int:
        """All of it. In the backward pass gradients come as activations go, so that this much is never quite alive."""
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, int]:
        """Plain values, the total among them."""
        return asdict(self) | {"total": self.total}


def training_memory(
    config: BackboneConfig,
    *,
    batch: int = 1,
    precision: Precision = "no",
    checkpointing: bool = False,
    optimizer: OptimizerName = "adamw",
    sparse_grid: Grid | None = None,
    caption_tokens: int | None = None,
) -> TrainingMemory:
    """The account of training a model of ``config`` on micro-batches of ``batch`` samples of its ``input_size``.

    Attention is torch's fused one, which keeps no weights of pairs of tokens (bf16 on a CPU is trained without it).
    ``sparse_grid`` is the one of the batch (the most tokens of a schedule take the most memory), ``None`` the
    config's own; ``precision``, ``checkpointing`` and ``optimizer`` are those of :class:`.options.TrainOptions`.
    Captions are ``caption_tokens`` long (``None``: see :func:`..cost.caption_length`).
    """
    if batch < 1 or precision not in get_args(Precision) or optimizer not in get_args(OptimizerName):
        raise ValueError(
            f"found batch {batch}, precision {precision!r} and optimizer {optimizer!r}; expected 1 or more, no, bf16 "
            "or fp16, and adamw or muon"
        )
    length = caption_length(config, caption_tokens)
    with FakeTensorMode():
        model = new_model(config)
        everything = _bytes(model.parameters())
        matrices, others = shared_out(model, optimizer)
        plain, by_block = _kept(model, batch, precision, sparse_grid, length)
        largest = 0
        if checkpointing:
            largest = max(by_block, default=0)
            with recomputing(model):
                plain, _ = _kept(model, batch, precision, sparse_grid, length)
    return TrainingMemory(
        parameters=everything,
        gradients=_bytes(matrices) + _bytes(others),
        optimizer=_bytes(matrices) + 2 * _bytes(others) + _STEP * len(others),
        average=everything + _AVERAGED,
        activations=plain,
        recomputed=largest,
    )


def kept_bytes(model: nn.Module, loss: Any) -> tuple[int, list[int]]:
    """Bytes of the storages kept for the backward pass of ``loss()``, and those that begin to be kept in each block.

    Works on tensors with content as well. Parameters are left out, of a block also what enters it.
    """
    ledger = _Ledger(model)
    with ledger.watching():
        value = loss()  # holds the graph, and with it the storages, until they are counted
        result = ledger.total(), ledger.by_block()
    del value
    return result


def _kept(
    model: Backbone, batch: int, precision: Precision, sparse_grid: Grid | None, caption_tokens: int
) -> tuple[int, list[int]]:
    config = model.config
    x = torch.empty(batch, config.in_channels, *config.input_size)
    t = torch.empty(batch)
    y: Conditions = torch.zeros(batch, dtype=torch.int64)
    if isinstance(config, PixArtConfig):
        mask = torch.ones(batch, caption_tokens, dtype=torch.bool)
        y = Captions(torch.zeros(*mask.shape, config.caption_channels), mask)

    def loss() -> Tensor:
        with mixed_precision("cpu", precision):
            output = call_model(model, x, t, y, sparse_grid=sparse_grid)
        return output.float().square().mean()

    return kept_bytes(model, loss)


class _Ledger:
    """Storages by who first asked to keep them."""

    def __init__(self, model: nn.Module) -> None:
        self.blocks = cast(Sequence[Block], getattr(model, "blocks", ()))
        self.owned = {_key(parameter) for parameter in model.parameters()}
        # the storages themselves are held, since a freed one's address is given to the next
        self.kept: dict[int, Any] = {}
        self.inside: list[dict[int, Any]] = [{} for _ in self.blocks]
        self.entering: list[set[int]] = [set() for _ in self.blocks]
        self.current: int | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Write down everything that is kept while the block lasts."""
        handles = []
        for number, block in enumerate(self.blocks):
            handles.append(block.register_forward_pre_hook(self._enter(number)))
            handles.append(block.register_forward_hook(self._leave))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def total(self) -> int:
        return sum(storage.nbytes() for storage in self.kept.values())

    def by_block(self) -> list[int]:
        return [
            sum(storage.nbytes() for key, storage in kept.items() if key not in entering)
            for kept, entering in zip(self.inside, self.entering, strict=True)
        ]

    def _keep(self, tensor: Tensor) -> Tensor:
        key, storage = _key(tensor), tensor.untyped_storage()
        if key not in self.owned:
            self.kept[key] = storage
            if self.current is not None:
                self.inside[self.current][key] = storage
        return tensor

    def _enter(self, number: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.current = number
            self.entering[number] = {_key(value) for value in inputs if isinstance(value, Tensor)}

        return hook

    def _leave(self, *_: Any) -> None:
        self.current = None


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensors: Iterator[Tensor] | Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
