"""The engine of a token cache: sub-layers give a way to compute some of their tokens, the plan says how many.

What is kept is a branch's output before its gate: every evaluation applies its own gate to all tokens. A run keeps one
store for each group of pictures that is evaluated together; a store that meets another size, type or grid, and the
first evaluation of any store, computes in full.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .plan import FULL, NONE, CachePlan, rows_at
from .selectors import AnyGrid, best_rows, entropy, influence, queue
from .visit import Compute, Rows, Visit, outputs, put, take


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

    """

    def __init__(self, plan: CachePlan) -> None:
        self.plan = plan
        self._peak = 0
        self._reused = frozenset(plan.reused())
        self._stores: dict[tuple[Hashable, tuple[Hashable, ...]], Store] = {}

    def __deepcopy__(self, memo: dict[int, object]) -> TokenCache:
        return self  # ComfyUI 0.3.64 deep-copies what a run carries; the run stays one

    def evaluation(
        self, time: float, members: Sequence[Hashable] = (0,), where: Hashable = None, *, full: bool = False
    ) -> PlanVisit:
        """Begin an evaluation at a diffusion time (1 noise .. 0 image).

        ``members``  names of the equal parts of the batch, such as the halves of guidance. A store belongs to one
                     sequence of them: when they are grouped in another way, the others' stores are dropped and this
                     evaluation is computed in full
        ``where``    the part of the picture or video that is evaluated, where a run has several (context windows)
        ``full``     compute everything and keep it
        """
        key = where, tuple(members)
        self._peak = self.peak_bytes
        for other in [each for each in self._stores if each[0] == where and each != key and set(each[1]) & set(key[1])]:
            del self._stores[other]
        levels = (FULL,) * len(self.plan.sublayers) if full else self.plan.row(time)
        return PlanVisit(self, self._stores.setdefault(key, Store()), levels, len(key[1]))

    def keeps(self, name: str) -> bool:
        """Whether the output of a sub-layer is ever reused."""
        return name in self._reused

    @property
    def peak_bytes(self) -> int:
        """The most that was ever held: it grows within an evaluation only, so it is looked at between them."""
        return max(self._peak, sum(store.bytes for store in self._stores.values()))

    def clear(self) -> None:
        """Drop everything that is kept."""
        self._peak = self.peak_bytes
        self._stores.clear()


class PlanVisit(Visit):
    """One evaluation under a plan."""

    def __init__(self, cache: TokenCache, store: Store, levels: Sequence[int], members: int) -> None:
        super().__init__(cache.plan.sublayers)
        self.cache, self._store, self._members = cache, store, members
        self.selector = cache.plan.selector
        self._levels = dict(zip(self.sublayers, levels, strict=True))

    def keeps(self, name: str) -> bool:
        """See :meth:`.visit.Visit.keeps`."""
        return self.cache.keeps(name)

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
            return self._whole(name, like, kept, outputs(compute(None)))
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
        if self.selector != "age" and new[0].shape[1] == like[0][1]:
            now.age = torch.ones(new[0].shape[:2], device=new[0].device)
            if self.selector == "change":
                now.change = now.age.clone() if kept is None else _change(new[0], kept.value)
        self._store.kept[name] = now
        return new

    def _part(self, name: str, level: int, kept: Kept, compute: Compute) -> None:
        tokens = kept.value.shape[1]
        if tokens != kept.like[0][1]:  # a Poolingformer's attention is one token: all or nothing
            kept.value, *others = outputs(compute(None))
            kept.others = tuple(others)
            return
        rows = self._rows(name, kept, rows_at(level, tokens))
        new, *others = outputs(compute(rows))
        if kept.age is not None:
            number = rows.expand(len(new), -1) if rows.ndim == 1 else rows
            kept.age.scatter_(1, number, 1.0)
            if kept.change is not None:
                kept.change.scatter_(1, number, _change(new, take(kept.value, rows)))
        put(kept.value, rows, new)
        kept.others = tuple(others)

    def _rows(self, name: str, kept: Kept, count: int) -> Tensor:
        plan, grid = self.cache.plan, kept.like[3]
        signal = kept.change if self.selector == "change" else self._store.signals.get(_block(name))
        if self.selector == "age" or signal is None or kept.age is None or signal.shape != kept.age.shape:
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
        """See :meth:`.visit.Visit.watch_self`."""
        if self.selector == "influence" and q.shape == k.shape:
            self._store.signals[_block(name)] = influence(q, k, heads)
            self.watching += q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2]

    def watch_cross(self, name: str, q: Tensor, k: Tensor, heads: int, mask: Tensor | None, rows: Rows) -> None:
        """See :meth:`.visit.Visit.watch_cross`."""
        if self.selector != "entropy":
            return
        new, block = entropy(q, k, heads, mask), _block(name)
        self.watching += q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2]
        if rows is None:
            self._store.signals[block] = new
        elif block in self._store.signals:
            put(self._store.signals[block][..., None], rows, new[..., None])


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


def _change(new: Tensor, old: Tensor) -> Tensor:
    """Mean squared change (B, K) of tokens."""
    return (new - old).float().square().mean(dim=-1)
