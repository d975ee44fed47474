"""The noise schedule of the DiT family: linear betas, and the same schedule on fewer steps.

Tables are float64 tensors on the CPU; they are cast only when they meet an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BASE_STEPS = 1000
"""Steps of the training schedule (CHECKPOINTS section 3)."""


def linear_betas(steps: int = BASE_STEPS) -> Tensor:
    """Betas rising linearly from 1e-4 to 0.02, shape (steps,), float64.

    The ends are scaled by 1000 / steps, so that a schedule of another length destroys about as much signal.
    """
    if steps < 1:
        raise ValueError(f"a noise schedule needs at least 1 step, found {steps}")
    scale = BASE_STEPS / steps
    betas = np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)
    if betas.max() > 1:
        raise ValueError(
            f"linear betas of {steps} steps would exceed 1; keep 1000 steps and respace them instead, "
            f"e.g. Diffusion('{steps}')"
        )
    return torch.from_numpy(betas)


def respaced_betas(betas: Tensor, kept: Sequence[int]) -> Tensor:
    """Betas, shape (len(kept),), of the schedule that visits only the steps `kept` of `betas`.

    The signal level (cumulative product of 1 - beta) at every kept step stays what it was.
    """
    signal = torch.cumprod(1.0 - betas, dim=0)[torch.as_tensor(kept, dtype=torch.int64)]
    before = torch.cat([torch.ones(1, dtype=signal.dtype), signal[:-1]])
    return 1.0 - signal / before
