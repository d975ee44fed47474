"""Colours for amounts: from black over purple and orange to a pale yellow, ever brighter."""

from __future__ import annotations

import torch
from torch import Tensor

STOPS = ((0, 0, 0), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""Red, green and blue (0..255) at equal steps from 0 to 1."""


def heat(amounts: Tensor) -> Tensor:
    """Amounts (...) to colours (3, ...) in 0..1 by straight lines between the ``STOPS``; clamped to 0..1 before."""
    stops = torch.tensor(STOPS, dtype=torch.float32, device=amounts.device) / 255
    place = amounts.float().clamp(0, 1) * (len(STOPS) - 1)
    lower = place.floor().clamp(max=len(STOPS) - 2)
    part = (place - lower)[..., None]
    index = lower.long()
    return (stops[index] * (1 - part) + stops[index + 1] * part).movedim(-1, 0)
