"""A SparseDiT made from a dense model without training, to see what a block in another role would change.

The blocks keep their dense weights (those of q, k, v where the role has no fused projection). What an untrained
fusion layer cannot know is replaced by the residual form of coarse computation: a run of sparse blocks starts from
the pooled tokens P(X), and where tokens become dense again they are X + Up(X_s - P(X)), the dense tokens that
entered plus the upsampled change. On the full grid that is the dense model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..backbone import Backbone
from ..conditions import call_model
from ..convert import split_qkv
from ..layers import TORCH_OPS, SelfAttention
from ..layout import Role
from ..sdtm import Block
from ..tokens import Grid, Pooling, upsample
from .moments import Moment

ON_SPARSE: tuple[Role, ...] = ("generation", "sparse")
"""The roles whose blocks run on sparse tokens."""


@dataclass(frozen=True)
class Run:
    """The dense model at one moment: tokens (B, N, D) before every block and after the last.

    ``c`` is the condition that blocks take, ``final`` that of the last layer.
    """

    states: tuple[Tensor, ...]
    c: Any
    final: Tensor
    dense: Grid


class Surrogate:
    """A dense model whose blocks can be asked to play any role; the model itself is not changed.

    ``ValueError`` for a model that is a SparseDiT already.
    """

    def __init__(self, model: Backbone) -> None:
        if model.layout is not None:
            raise ValueError(
                f"the model is a SparseDiT already (layout {model.layout}); what blocks are worth is measured on the "
                "dense model that it came from"
            )
        self.model = model
        self._blocks: dict[tuple[int, Role], Block] = {}

    @property
    def _final_layer(self) -> nn.Module:
        return self.model.get_submodule("final_layer")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.model.config.depth

    @torch.no_grad()
    def record(self, moment: Moment) -> Run:
        """Run the dense model once and keep the tokens between its blocks."""
        states: list[Tensor] = []
        conditions: list[Any] = []

        def before(_: nn.Module, given: tuple[Any, ...]) -> None:
            states.append(given[0])
            conditions.append(given[1])

        hooks = [layer.register_forward_pre_hook(before) for layer in (*self.model.blocks, self._final_layer)]
        try:
            call_model(self.model, moment.x.to(self.model.x_embedder.proj.weight.dtype), moment.t, moment.y)
        finally:
            for hook in hooks:
                hook.remove()
        return Run(tuple(states), conditions[0], conditions[-1], self.model.token_grid(*moment.x.shape[-2:]))

    @torch.no_grad()
    def predict(self, run: Run, roles: Sequence[Role], sparse: Grid) -> Tensor:
        """The prediction with every block in its role, as patches (B, N, p*p*C), float32, learned variance left out.

        ``roles`` is one per block; any order is allowed, also a sparse block between dense ones.
        """
        first = next((number for number, role in enumerate(roles) if role != "dense"), self.depth)
        tokens = self._walk(run, roles, sparse, first)
        patches = self._final_layer(tokens, run.final).float()
        config = self.model.config
        patches = patches.unflatten(-1, (config.patch_size**2, config.out_channels))
        return cast(Tensor, patches[..., : config.in_channels].flatten(2))

    def _walk(self, run: Run, roles: Sequence[Role], sparse: Grid, first: int) -> Tensor:
        x, c = run.states[first], run.c
        pool = Pooling(run.dense, sparse, x.device)
        entered: tuple[Tensor, Tensor] | None = None  # while tokens are sparse: the dense ones and their pooling
        for number in range(first, self.depth):
            role = roles[number]
            block = self.block(number, role)
            if role in ON_SPARSE and entered is None:
                entered = x, pool(x)
                x = entered[1]
            if role in ON_SPARSE:
                assert entered is not None
                x = block(x, c, entered[0]) if role == "generation" else block(x, c)
                continue
            recovered = x
            if entered is not None:
                x = _back(x, entered, sparse, run.dense)
                entered = None
            elif role == "recovery" and (number == 0 or roles[number - 1] != "recovery"):
                recovered = pool(x)  # recovery alone: of tokens that were never sparse
            x = block(x, c, recovered) if role == "recovery" else block(x, c)
        return x if entered is None else _back(x, entered, sparse, run.dense)

    def block(self, number: int, role: Role) -> Block:
        """Block ``number`` in a role: its own weights, no copy of them."""
        own = cast(Block, self.model.blocks[number])
        if role in ("dense", "sparse"):
            return own
        if (number, role) not in self._blocks:
            self._blocks[number, role] = _as_role(own, role, self.model.config.hidden_size)
        return self._blocks[number, role]


def _back(x: Tensor, entered: tuple[Tensor, Tensor], sparse: Grid, dense: Grid) -> Tensor:
    """Dense tokens again: those that entered plus the upsampled change of the sparse ones."""
    return entered[0] + upsample(x - entered[1], sparse, dense)


def _as_role(own: Block, role: Role, dim: int) -> Block:
    attention = cast(SelfAttention, own.attn)
    state = own.state_dict()
    if role == "pooled":  # it has no queries and keys
        state = {name: value for name, value in state.items() if not name.startswith(("attn.q_norm", "attn.k_norm"))}
    for name in ("weight", "bias"):
        for part, rows in split_qkv(role, state.pop(f"attn.qkv.{name}")).items():
            state[f"attn.{part}.{name}"] = rows
    with torch.device("meta"):
        block = type(own)(
            role,
            dim,
            attention.heads,
            own.mlp.fc1.out_features,
            norm2_eps=own.norm2.eps,
            qk_norm=isinstance(attention.q_norm, nn.LayerNorm),
            ops=TORCH_OPS,
            attention=attention.attention,
        )
    fusion = {"merged_layer1.weight", "merged_layer1.bias", "merged_layer2.weight", "merged_layer2.bias"}
    missing, unexpected = block.load_state_dict(state, strict=False, assign=True)
    assert set(missing) <= fusion, missing
    assert not unexpected, unexpected
    return block.eval()
