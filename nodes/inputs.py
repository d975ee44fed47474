"""Inputs that several nodes have."""

from __future__ import annotations

from comfy_api.latest import io


def share_slider(name: str, default: float, tooltip: str, low: float = 0.0, high: float = 1.0) -> io.Float.Input:
    """A slider over shares from ``low`` to ``high``, in hundredths."""
    return io.Float.Input(
        name, default=default, min=low, max=high, step=0.01, display_mode=io.NumberDisplay.slider, tooltip=tooltip
    )
