"""Plans of an ablation: which variants of one dense model are fine-tuned alike and compared.

The paper's own ablation varies the number of Poolingformers, the number of sparse-dense modules (SDTMs) and whether the
sparse grid moves with the time (PAPERS 1.6); :func:`paper_plan` has its shape for a model of any depth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, Literal

from ..layout import SegmentLayout
from ..schedule import PruningSchedule
from ..tokens import Grid

VERSION = 1
EDGE = 4  # Poolingformers and top blocks together, 2 and 2 in the paper's DiT-XL/2
MOST_MODULES, POOLED = 4, (0, 1, 2, 3)
_MODULE = 4  # blocks of the smallest module that has one of every group
SMALLEST = EDGE + _MODULE

Suggested = Literal["suggested"]


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    ``name``      what it is called; its files are called :attr:`stem`
    ``layout``    ``None`` is the dense model trained on, ``"suggested"`` one that is still to be found by analysis
    ``schedule``  of its sparse grid; ``None`` of the dense model alone
    """

    name: str
    layout: SegmentLayout | Suggested | None
    schedule: PruningSchedule | None

    @property
    def stem(self) -> str:
        """The name as a file's: small letters, digits and dashes."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def to_json(self) -> dict[str, Any]:
        """An entry of a plan's ``variants``."""
        return {
            "name": self.name,
            "layout": None if self.layout is None else str(self.layout),
            "schedule": None if self.schedule is None else self.schedule.to_json(),
        }


def fixed_schedule(moving: PruningSchedule, dense: Grid) -> PruningSchedule:
    """One grid at all times, of the mean pruning rate over time that ``moving`` has on ``dense`` (rows, columns)."""
    tokens = dense[0] * dense[1]
    kept = sum((end - start) * grid[0] * grid[1] / tokens for start, end, grid in moving.buckets(dense))
    rate = max(1.0 - kept, 0.0)  # the sum of the shares may exceed 1 by a last bit
    return PruningSchedule(rate_noise=rate, rate_clean=rate)


def layout_of(depth: int, pooled: int, modules: int) -> SegmentLayout:
    """``pooled`` Poolingformers, ``modules`` SDTMs as equal as the depth allows and a top, :data:`EDGE` blocks outside.

    A module has one generation, one recovery and one dense block, the rest sparse. ``ValueError`` where the depth is
    too small.
    """
    middle = depth - EDGE
    if not 0 <= pooled <= EDGE or modules < 1 or middle < _MODULE * modules:
        raise ValueError(
            f"{pooled} Poolingformers and {modules} sparse-dense modules need {EDGE + _MODULE * modules} blocks or "
            f"more, and at most {EDGE} Poolingformers; the model has {depth} blocks"
        )
    size, longer = divmod(middle, modules)
    sizes = [size + 1] * longer + [size] * (modules - longer)
    return SegmentLayout(pooled, tuple((1, n - 3, 1, 1) for n in sizes), EDGE - pooled)


def reference_layout(depth: int) -> SegmentLayout:
    """What the variants of :func:`paper_plan` differ from in one thing; of 28 blocks the paper's 2+4x[1,3,1,1]+2."""
    return layout_of(depth, 2, _most_modules(depth))


def paper_plan(depth: int, moving: PruningSchedule, dense: Grid) -> tuple[Variant, ...]:
    """The shape of the paper's ablation: Poolingformers, SDTMs, moving against fixed grid; a suggested layout beside.

    ``moving`` is the schedule of all variants but that of the fixed grid; ``dense`` the model's token grid. Models of
    less than 20 blocks have room for fewer than 4 SDTMs. ``ValueError`` below 8 blocks.
    """
    if depth < SMALLEST:
        raise ValueError(
            f"the paper's ablation needs {SMALLEST} blocks or more and the model has {depth}; give a plan of "
            "its own layouts"
        )
    most = _most_modules(depth)
    pairs = [(pooled, most) for pooled in POOLED] + [(2, modules) for modules in range(most - 1, 0, -1)]

    def variant(pooled: int, modules: int) -> Variant:
        return Variant(_named(pooled, modules), layout_of(depth, pooled, modules), moving)

    return (
        Variant("dense", None, None),
        *starmap(variant, pairs),
        Variant(f"{_named(2, most)}, fixed grid", layout_of(depth, 2, most), fixed_schedule(moving, dense)),
        Variant("suggested", "suggested", moving),
    )


def plan_to_json(variants: Sequence[Variant]) -> dict[str, Any]:
    """What :func:`plan_from_json` reads."""
    return {"version": VERSION, "variants": [variant.to_json() for variant in variants]}


def plan_from_json(data: Any, depth: int, moving: PruningSchedule, dense: Grid) -> tuple[Variant, ...]:
    """Variants of ``{"version": 1, "variants": [{"name": ..., "layout": ..., "schedule": ...}, ...]}``.

    ``layout`` is text, ``"suggested"``, or null for the dense model. ``schedule`` is ``"moving"``, which is ``moving``
    and the default, ``"fixed"`` (:func:`fixed_schedule`) or a pruning schedule of its own. ``ValueError`` names the
    variant that cannot be read, whose layout is not of ``depth`` blocks, or whose name is there already.
    """
    if not isinstance(data, Mapping) or data.get("version") != VERSION or set(data) != {"version", "variants"}:
        raise ValueError(f'a plan is a JSON object of "version": {VERSION} and "variants", a list of objects')
    entries = data["variants"]
    if not isinstance(entries, list) or not entries:
        raise ValueError('the "variants" of a plan are a list of one object or more')
    found: list[Variant] = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(_variant(entry, depth, moving, dense))
            if found[-1].stem in (variant.stem for variant in found[:-1]):
                raise ValueError("its name, or one that gives the same file name, is that of another one before")
        except (ValueError, TypeError) as error:
            raise ValueError(f"variant {number} of the plan: {error}") from error
    return tuple(found)


def _variant(entry: Any, depth: int, moving: PruningSchedule, dense: Grid) -> Variant:
    if not isinstance(entry, Mapping) or not {"name", "layout"} <= set(entry) <= {"name", "layout", "schedule"}:
        raise ValueError('it must be an object of "name", "layout" and, if it is not "moving", "schedule"')
    name, text, schedule = entry["name"], entry["layout"], entry.get("schedule")
    if not isinstance(name, str) or not re.search(r"[A-Za-z0-9]", name):
        raise ValueError(f"its name is {name!r}; give a text with a letter or a digit")
    if text is None:
        if schedule is not None:
            raise ValueError("it is dense (layout null) and has a schedule; leave the schedule out, or give a layout")
        return Variant(name, None, None)
    if not isinstance(text, str):
        raise ValueError(f'its layout is {text!r}; give a text like "2+4x[1,3,1,1]+2", "suggested", or null for dense')
    layout: SegmentLayout | Suggested = "suggested"
    if text != "suggested":
        layout = SegmentLayout.parse(text)
        layout.check_depth(depth)
    if schedule is None or schedule == "moving":
        return Variant(name, layout, moving)
    if schedule == "fixed":
        return Variant(name, layout, fixed_schedule(moving, dense))
    if not isinstance(schedule, Mapping):
        raise ValueError(f'its schedule is {schedule!r}; give "moving", "fixed" or a pruning schedule as an object')
    return Variant(name, layout, PruningSchedule.from_json(schedule))


def _most_modules(depth: int) -> int:
    return min(MOST_MODULES, (depth - EDGE) // _MODULE)


def _named(pooled: int, modules: int) -> str:
    return f"{pooled} pooled, {modules} SDTM{'s' * (modules != 1)}"
