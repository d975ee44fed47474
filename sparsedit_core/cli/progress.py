"""Progress bars, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from tqdm import tqdm

from ..checkpoint import Loaded
from ..sampling import SampleOptions, Samples, evaluation_count, sample
from .asking import Asked


@contextmanager
def bar(total: int, label: str, unit: str) -> Iterator[Callable[[int], object]]:
    """A bar for as long as the block lasts; call what it gives with the amount done."""
    with tqdm(total=total, desc=label, unit=f" {unit}", dynamic_ncols=True, leave=False, delay=0.5) as progress:
        yield progress.update


def sample_with_bar(
    loaded: Loaded, noise: Tensor, asked: Asked, options: SampleOptions, label: str, *, seed: int = 0
) -> Samples:
    """``sample`` with a bar that counts evaluations of pictures."""
    with bar(len(noise) * evaluation_count(options), label, "evaluations") as progress:
        return sample(
            loaded, noise, asked.conditions, options, negative=asked.negative, seed=seed, progress=progress
        )
