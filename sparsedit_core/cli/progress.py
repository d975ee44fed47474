"""Progress bars, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint import Loaded
from ..sampling import SampleOptions, Samples, evaluation_count, sample


@contextmanager
def bar(total: int, label: str, unit: str) -> Iterator[Callable[[int], object]]:
    """A bar for as long as the block lasts; call what it gives with the amount done."""
    with tqdm(total=total, desc=label, unit=f" {unit}", dynamic_ncols=True, leave=False, delay=0.5) as progress:
        yield progress.update


def sample_with_bar(
    loaded: Loaded, noise: Tensor, labels: Tensor, options: SampleOptions, label: str, *, seed: int = 0
) -> Samples:
    """``sample`` with a bar that counts evaluations of pictures."""
    with bar(len(noise) * evaluation_count(options), label, "evaluations") as progress:
        return sample(loaded, noise, labels, options, seed=seed, progress=progress)


def label_tensor(classes: list[int], each: int) -> Tensor:
    """Every class ``each`` times, class after class: (len(classes) * each,)."""
    return torch.tensor(classes).repeat_interleave(each)
