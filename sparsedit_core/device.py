"""Waiting for a device that works behind the program's back."""

from __future__ import annotations

import torch


def wait(device: torch.device) -> None:
    """Return when everything queued on ``device`` is done; at once on the CPU, which has no queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    elif device.type == "xpu":
        torch.xpu.synchronize(device)
    elif device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)
