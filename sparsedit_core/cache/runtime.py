"""The engine of a token cache: sub-layers give a way to compute some of their tokens, the plan says how many.

What is kept is a branch's output before its gate: every evaluation applies its own gate to all tokens. A run keeps one
store for each group of pictures that is evaluated together; a store that meets another size, type or grid, and the
first evaluation of any store, computes in full.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .plan import FULL, LEVELS, NONE, CachePlan, rows_at
from .selectors import AnyGrid, best_rows, entropy, influence, queue

Rows = Tensor | None
"""Numbers of the tokens to compute: (K,) the same for all pictures, (B, K) for each its own, ``None`` all."""
Compute = Callable[[Rows], Tensor | tuple[Tensor, ...]]
"""Output (B, K, D) of a sub-layer for some tokens; further tensors of a tuple are kept as they are (FLUX's text)."""


def take(x: Tensor, rows: Rows) -> Tensor:
    """The tokens ``rows`` of x (B, N, D)."""
    if rows is None:
        return x
    if rows.ndim == 1:
        return x.index_select(1, rows)
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def put(x: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """x (B, N, D) with its tokens ``rows`` overwritten by ``new`` (B, K, D)."""
    if rows.ndim == 1:
        return x.index_copy_(1, rows, new)
    return x.scatter_(1, rows[..., None].expand(-1, -1, x.shape[-1]), new)


@dataclass
class Kept:
    """What is kept of one sub-layer: its output's tensors, for which tokens, and how far the queue has come."""

    like: tuple[torch.Size, torch.dtype, torch.device, AnyGrid]
    value: Tensor
    others: tuple[Tensor, ...]
    position: int = 0
    age: Tensor | None = None  # (B, N) evaluations waited, 1 after a refresh; of the selectors that weigh
    change: Tensor | None = None  # (B, N)

    @property
    def bytes(self) -> int:
        return sum(each.numel() * each.element_size() for each in (self.value, *self.others))


@dataclass
class Store:
    """What is kept for one group of pictures."""

    kept: dict[str, Kept] = field(default_factory=dict)
    signals: dict[str, Tensor] = field(default_factory=dict)  # (B, N) of each block

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.kept.values())


class TokenCache:
    """The state of one sampling run under a plan; drop it with the run.

    ``peak_bytes`` is the most that it ever held.
    """

    def __init__(self, plan: CachePlan) -> None:
        self.plan = plan
        self.peak_bytes = 0
        self._reused = frozenset(plan.reused())
        self._stores: dict[tuple[Hashable, tuple[Hashable, ...]], Store] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> TokenCache:
        return self  # ComfyUI 0.3.64 deep-copies what a run carries; the run stays one

    def evaluation(
        self, time: float, members: Sequence[Hashable] = (0,), where: Hashable = None, *, full: bool = False
    ) -> Visit:
        """Begin an evaluation at a diffusion time (1 noise .. 0 image).

        ``members``  names of the equal parts of the batch, such as the halves of guidance. A store belongs to one
                     sequence of them: when they are grouped in another way, the others' stores are dropped and this
                     evaluation is computed in full
        ``where``    the part of the picture or video that is evaluated, where a run has several (context windows)
        ``full``     compute everything and keep it
        """
        key = where, tuple(members)
        for other in [each for each in self._stores if each[0] == where and each != key and set(each[1]) & set(key[1])]:
            del self._stores[other]
        levels = (FULL,) * len(self.plan.sublayers) if full else self.plan.row(time)
        return Visit(self, self._stores.setdefault(key, Store()), levels, len(key[1]))

    def keeps(self, name: str) -> bool:
        """Whether the output of a sub-layer is ever reused."""
        return name in self._reused

    def note_memory(self) -> None:
        """Note what is held now."""
        self.peak_bytes = max(self.peak_bytes, sum(store.bytes for store in self._stores.values()))

    def clear(self) -> None:
        """Drop everything that is kept."""
        self._stores.clear()


class Visit:
    """One evaluation under a plan: the object that a model's ``forward`` takes as ``cache``.

    ``done`` is the level at which every sub-layer ran, ``forced`` names those that ran in full because there was
    nothing to reuse, ``watching`` counts the MACs of attention maps made for the selector alone.
    """

    def __init__(self, cache: TokenCache, store: Store, levels: Sequence[int], members: int) -> None:
        self.cache, self._store, self._members = cache, store, members
        self._sublayers = cache.plan.sublayers
        self._levels = dict(zip(cache.plan.sublayers, levels, strict=True))
        self.done: dict[str, int] = {}
        self.forced: list[str] = []
        self.watching = 0

    def branch(self, x: Tensor, name: str, grid: AnyGrid, compute: Compute, gate: Tensor | None = None) -> Tensor:
        """x (B, N, D) plus the gated output of the sub-layer ``name`` on the tokens of ``grid``."""
        self.weigh(x, gate)
        value = self.output(name, grid, x, compute)[0]
        return x + value if gate is None else torch.addcmul(x, gate, value)

    def weigh(self, x: Tensor, gate: Tensor | None) -> None:
        """Told before :meth:`output` what its tokens are added to and by which gate, for visits that measure."""

    def output(self, name: str, grid: AnyGrid, x: Tensor, compute: Compute) -> tuple[Tensor, ...]:
        """The sub-layer's output for tokens x (B, N, D) of ``grid``, some of it computed, the rest kept from before."""
        level, kept = self._levels[name], self._store.kept.get(name)
        like = x.shape, x.dtype, x.device, grid
        if kept is None or kept.like != like:
            if level != FULL:
                self.forced.append(name)
            level, kept = FULL, None
        self.done[name] = level
        if level == FULL:
            return self._whole(name, like, kept, _tuple(compute(None)))
        assert kept is not None
        if kept.age is not None:
            kept.age += 1
        if level != NONE:
            self._part(name, level, kept, compute)
        return kept.value, *kept.others

    def _whole(
        self,
        name: str,
        like: tuple[torch.Size, torch.dtype, torch.device, AnyGrid],
        kept: Kept | None,
        new: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        if not self.cache.keeps(name):
            return new
        position = 0 if kept is None else kept.position
        now = Kept(like, new[0], new[1:], position)
        if self.cache.plan.selector != "age" and new[0].shape[1] == like[0][1]:
            now.age = torch.ones(new[0].shape[:2], device=new[0].device)
            if self.cache.plan.selector == "change":
                now.change = now.age.clone() if kept is None else _change(new[0], kept.value)
        self._store.kept[name] = now
        self.cache.note_memory()
        return new

    def _part(self, name: str, level: int, kept: Kept, compute: Compute) -> None:
        tokens = kept.value.shape[1]
        if tokens != kept.like[0][1]:  # a Poolingformer's attention is one token: all or nothing
            kept.value, *others = _tuple(compute(None))
            kept.others = tuple(others)
            return
        rows = self._rows(name, kept, rows_at(level, tokens))
        new, *others = _tuple(compute(rows))
        if kept.age is not None:
            number = rows.expand(len(new), -1) if rows.ndim == 1 else rows
            kept.age.scatter_(1, number, 1.0)
            if kept.change is not None:
                kept.change.scatter_(1, number, _change(new, take(kept.value, rows)))
        put(kept.value, rows, new)
        kept.others = tuple(others)

    def _rows(self, name: str, kept: Kept, count: int) -> Tensor:
        plan, grid = self.cache.plan, kept.like[3]
        signal = kept.change if plan.selector == "change" else self._store.signals.get(_block(name))
        if plan.selector == "age" or signal is None or kept.age is None or signal.shape != kept.age.shape:
            return self._next_rows(kept, count)
        age, tokens = kept.age, kept.age.shape[1]
        if plan.shared and self._members > 1:
            signal, age = (each.reshape(self._members, -1, tokens).mean(dim=0) for each in (signal, age))
        rows = best_rows(signal, age, count, grid)
        return rows.repeat(self._members, 1) if len(rows) != len(kept.value) else rows

    def _next_rows(self, kept: Kept, count: int) -> Tensor:
        """The next tokens of the queue: a view of it, or one for each half of guidance, far apart."""
        plan, grid = self.cache.plan, kept.like[3]
        order = _queue_on(grid, plan.seed, kept.value.device)
        tokens = len(order) // 2
        start, kept.position = kept.position, (kept.position + count) % tokens
        if plan.shared or self._members == 1:
            return order[start : start + count]
        starts = [(start + member * tokens // self._members) % tokens for member in range(self._members)]
        rows = torch.stack([order[each : each + count] for each in starts])
        return rows.repeat_interleave(len(kept.value) // self._members, dim=0)

    def watch_self(self, name: str, q: Tensor, k: Tensor, heads: int) -> None:
        """Look at queries and keys (B, N, C) of a self-attention that is computed for all tokens, if they are used."""
        if self.cache.plan.selector == "influence" and q.shape == k.shape:
            self._store.signals[_block(name)] = influence(q, k, heads)
            self.watching += q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2]

    def watch_cross(self, name: str, q: Tensor, k: Tensor, heads: int, mask: Tensor | None, rows: Rows) -> None:
        """Look at queries (B, K, C) of the tokens ``rows`` and keys (B, L, C) of the text, if they are used."""
        if self.cache.plan.selector != "entropy":
            return
        new, block = entropy(q, k, heads, mask), _block(name)
        self.watching += q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2]
        if rows is None:
            self._store.signals[block] = new
        elif block in self._store.signals:
            put(self._store.signals[block][..., None], rows, new[..., None])

    @property
    def recomputed(self) -> float:
        """Share of the sub-layers' outputs that was computed, the mean of their levels."""
        levels = self.levels()
        return sum(LEVELS[level] for level in levels) / len(levels)

    def levels(self) -> tuple[int, ...]:
        """The levels at which the sub-layers ran, in the plan's order; full where something else ran in their place."""
        return tuple(self.done.get(name, FULL) for name in self._sublayers)


def _queue_on(grid: AnyGrid, seed: int, device: torch.device) -> Tensor:
    """The queue twice in a row (2N,), so that any stretch of it is a slice."""
    key = grid, seed, device
    if key not in _QUEUES:
        while len(_QUEUES) >= _KEPT_QUEUES:
            _QUEUES.pop(next(iter(_QUEUES)))
        _QUEUES[key] = queue(grid, seed).repeat(2).to(device)
    return _QUEUES[key]


_KEPT_QUEUES = 32
_QUEUES: dict[tuple[AnyGrid, int, torch.device], Tensor] = {}


def _block(name: str) -> str:
    return name.rpartition(".")[0]


def _tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _change(new: Tensor, old: Tensor) -> Tensor:
    """Mean squared change (B, K) of tokens."""
    return (new - old).float().square().mean(dim=-1)
