"""Amounts of work in words: a number with a unit prefix, multiply-accumulates (MACs) always beside FLOPs."""

from __future__ import annotations


def amount(count: float) -> str:
    """``12.30 G``: two decimals and a unit prefix; whole numbers below a thousand."""
    return _scaled(count).rstrip()


def macs_text(count: float) -> str:
    """Both names and units: "78.41 GMACs (156.82 GFLOPs)"; one MAC is two FLOPs."""
    return f"{_scaled(count)}MACs ({_scaled(2 * count)}FLOPs)"


def memory_text(count: float) -> str:
    """``1.50 GiB``: bytes with a binary prefix."""
    for factor, prefix in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= factor:
            return f"{count / factor:.{2 if count < 100 * factor else 0}f} {prefix}"
    return f"{count:.0f} bytes"


def _scaled(count: float) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.2f} {prefix}"
    return f"{count:.0f} "
