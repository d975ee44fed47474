"""The order of samples and what is drawn for each, from counters alone: the same on every machine and after a resume.

The numbers are Philox's raw output (Salmon et al. 2011), which numpy promises never to change.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

_MASK64 = 0xFFFFFFFFFFFFFFFF
_ORDER, _SAMPLE = 1, 2  # what the numbers are for; equal seeds and counters stay independent


class EpochOrder:
    """Sample ``n`` of an endless stream is one of ``count``: in every epoch each once, in an order of its own."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._orders: dict[int, NDArray[np.int64]] = {}

    def indices(self, first: int, size: int) -> NDArray[np.int64]:
        """Which of the ``count`` samples are ``first`` .. ``first + size - 1``; a range may cross epochs."""
        if first < 0 or size < 0:
            raise ValueError(f"samples {first} .. {first + size - 1} were asked for; numbers begin at 0")
        parts = [np.empty(0, np.int64)]
        while size > 0:
            epoch, start = divmod(first, self.count)
            part = self._order(epoch)[start : start + size]
            parts.append(part)
            first, size = first + len(part), size - len(part)
        return np.concatenate(parts)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            keys = _philox(self.seed, epoch, _ORDER).random_raw(self.count)
            kept = {old: order for old, order in self._orders.items() if abs(old - epoch) == 1}
            self._orders = kept | {epoch: np.argsort(keys, kind="stable").astype(np.int64)}
        return self._orders[epoch]


def sample_draw(seed: int, number: int) -> tuple[bool, torch.Generator]:
    """A fair coin and a generator of noise that belong to sample ``number`` alone."""
    coin, noise = (int(value) for value in _philox(seed, number, _SAMPLE).random_raw(2))
    return coin >> 63 == 1, torch.Generator().manual_seed(noise >> 1)


def _philox(seed: int, counter: int, purpose: int) -> np.random.Philox:
    key = np.array([seed & _MASK64, counter & _MASK64], np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, purpose], np.uint64))
