"""Which block of a SparseDiT plays which role (SparseDiT section 3; PAPERS 1.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Role = Literal["pooled", "generation", "sparse", "recovery", "dense"]
ROLES: tuple[Role, ...] = ("pooled", "generation", "sparse", "recovery", "dense")

_MODULE = re.compile(r"(?:(\d+)\s*[x*]\s*)?\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")
_EXAMPLE = 'write it as "2+4x[1,3,1,1]+2": bottom + count x [generation,sparse,recovery,dense] + top'


@dataclass(frozen=True)
class SegmentLayout:
    """Bottom Poolingformers, sparse-dense token modules (SDTMs), dense top.

    ``bottom``   number of Poolingformer blocks;
    ``modules``  one ``(generation, sparse, recovery, dense)`` block count per SDTM;
    ``top``      number of ordinary dense blocks at the end.

    Blocks are numbered in the order of the dense model: bottom, then the four groups of each SDTM, then top.
    An SDTM needs at least one generation and one recovery block; the other counts may be zero.
    """

    bottom: int
    modules: tuple[tuple[int, int, int, int], ...]
    top: int

    def __post_init__(self) -> None:
        if self.bottom < 0 or self.top < 0:
            raise ValueError(f"layout has bottom={self.bottom}, top={self.top}; both must be 0 or more")
        for number, module in enumerate(self.modules):
            generation, sparse, recovery, dense = module
            if generation < 1 or recovery < 1 or sparse < 0 or dense < 0:
                raise ValueError(
                    f"sparse-dense module {number} is {list(module)}; it needs at least 1 generation and 1 recovery "
                    "block, and counts of 0 or more elsewhere"
                )
        if self.depth == 0:
            raise ValueError(f"the layout has no block at all; {_EXAMPLE}")

    @classmethod
    def parse(cls, text: str) -> SegmentLayout:
        """Read ``"2+4x[1,3,1,1]+2"``; modules may differ: ``"2+[1,3,1,1]+2x[1,5,1,1]+2"``."""
        parts = [part.strip() for part in text.strip().split("+")]
        if len(parts) < 2 or not parts[0].isdecimal() or not parts[-1].isdecimal():
            raise ValueError(f"cannot read layout {text!r}; {_EXAMPLE}")
        modules: list[tuple[int, int, int, int]] = []
        for part in parts[1:-1]:
            match = _MODULE.fullmatch(part)
            if match is None:
                raise ValueError(f"cannot read the part {part!r} of layout {text!r}; {_EXAMPLE}")
            count, g, s, r, d = match.groups()
            modules += [(int(g), int(s), int(r), int(d))] * int(count or 1)
        return cls(int(parts[0]), tuple(modules), int(parts[-1]))

    def __str__(self) -> str:
        runs: list[tuple[int, tuple[int, int, int, int]]] = []
        for module in self.modules:
            if runs and runs[-1][1] == module:
                runs[-1] = (runs[-1][0] + 1, module)
            else:
                runs.append((1, module))
        middle = [f"{count}x[{','.join(map(str, module))}]" for count, module in runs]
        return "+".join([str(self.bottom), *middle, str(self.top)])

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.bottom + sum(map(sum, self.modules)) + self.top

    @property
    def roles(self) -> tuple[Role, ...]:
        """The role of every block, in the order of the dense model."""
        return tuple(role for role, start, end in self.runs() for _ in range(start, end))

    def runs(self) -> Iterator[tuple[Role, int, int]]:
        """Consecutive blocks of one role in one segment: ``(role, first block, end block)``, empty ones left out."""
        start = 0
        groups: list[tuple[Role, int]] = [("pooled", self.bottom)]
        for module in self.modules:
            groups += zip(ROLES[1:], module, strict=True)
        for role, count in [*groups, ("dense", self.top)]:
            if count:
                yield role, start, start + count
            start += count

    def check_depth(self, depth: int) -> None:
        """Raise ``ValueError`` unless the layout has ``depth`` blocks."""
        if self.depth != depth:
            raise ValueError(
                f"layout {self} has {self.depth} blocks but the model has {depth}; change a count so that "
                f"bottom + modules + top = {depth}"
            )
