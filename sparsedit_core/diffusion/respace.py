"""Which of the training timesteps a sampler visits, by the original project's rules.

A specification is one of:
  None or ""       every step
  "250", 250       evenly spaced, both ends included: "10" gives 0, 111, ..., 999
  "ddim50"         a fixed integer stride from 0: "ddim10" gives 0, 100, ..., 900
  "10,0", [10, 0]  as many evenly spaced steps in each of so many equal sections of the schedule
"""

from __future__ import annotations

from collections.abc import Sequence

from .betas import BASE_STEPS

Respacing = str | int | Sequence[int] | None


def respaced_timesteps(spec: Respacing, steps: int = BASE_STEPS) -> list[int]:
    """Ascending original timesteps that `spec` keeps out of 0 .. steps - 1.

    Raises ValueError for a text that is no specification and for counts the schedule cannot hold.
    """
    if spec is None or spec == "":
        return list(range(steps))
    if isinstance(spec, str) and spec.startswith("ddim"):
        return _strided(_integer(spec.removeprefix("ddim"), spec), steps)
    kept = _sections(_counts(spec), steps)
    if not kept:
        raise ValueError(f"the respacing {spec!r} keeps no timestep at all; ask for at least one")
    return kept


def _integer(text: str, spec: object) -> int:
    """The number in `text`; the error quotes the whole specification."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"respacing {spec!r} is not understood at {text!r}; expected a step count as in '250', "
            "counts per section as in '10,0', or a stride as in 'ddim50'"
        ) from None


def _counts(spec: str | int | Sequence[int]) -> list[int]:
    """Step counts, one for every section of the schedule."""
    if isinstance(spec, int):
        counts = [spec]
    elif isinstance(spec, str):
        counts = [_integer(part, spec) for part in spec.split(",")]
    else:
        counts = [int(part) for part in spec]
    if not counts or min(counts) < 0:
        raise ValueError(f"respacing {spec!r} needs counts of 0 or more, one for each section")
    return counts


def _strided(count: int, steps: int) -> list[int]:
    """The `count` timesteps 0, s, 2s, ... of the smallest stride s that gives exactly so many."""
    for stride in range(1, steps + 1):
        kept = range(0, steps, stride)
        if len(kept) == count:
            return list(kept)
    raise ValueError(f"no integer stride visits exactly {count} of {steps} timesteps; use '{count}' for even spacing")


def _sections(counts: list[int], steps: int) -> list[int]:
    """Evenly spaced timesteps, `counts[i]` of them in the i-th of len(counts) equal sections."""
    size, larger = divmod(steps, len(counts))
    kept: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        length = size + (1 if index < larger else 0)
        if count > length:
            raise ValueError(
                f"section {index + 1} of {len(counts)} has {length} timesteps and cannot give {count}; "
                f"ask for at most {length}"
            )
        kept.extend(start + offset for offset in _even(count, length))
        start += length
    return kept


def _even(count: int, length: int) -> list[int]:
    """`count` offsets in 0 .. length - 1, both ends included."""
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    offsets: list[int] = []
    position = 0.0
    for _ in range(count):
        # Adding up the stride and rounding halves to even is what the original does; index * stride
        # would now and then choose a neighbouring timestep.
        offsets.append(round(position))
        position += stride
    return offsets
