"""What the rows of :mod:`.cache` say of the claims that are made for token caches, each with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .cache import CALIBRATED, DENSE, FEWER, LEARNED, Row

OURS = (CALIBRATED, LEARNED)
SAME = 0.02
"""Share of the dense seconds (:func:`took`) by which a rival may be slower and still counts as of the same seconds."""
HALF = (0.45, 0.55)
"""Shares of the dense MACs that count as half of them."""


def verdicts(rows: Sequence[Row]) -> list[str]:
    """A sentence for every claim on every model and number of steps."""
    said: list[str] = []
    for model, steps in dict.fromkeys((row.model, row.steps) for row in rows):
        some = [row for row in rows if (row.model, row.steps) == (model, steps)]
        for row in some:
            if row.method in OURS and (row.method == LEARNED or HALF[0] <= (row.budget or 0.0) <= HALF[1]):
                said.append(f"{model}, {steps} steps: {beside_rivals(row, some)}")
        said += [f"{model}, {steps} steps: {words}" for words in calibrated_beside_learned(some)]
        if steps <= 8:
            said.append(f"{model}, {steps} steps: {gain(some)}")
    return said


def rivals_of(row: Row, rows: Iterable[Row]) -> list[Row]:
    """What takes at most the same seconds and is no plan that was measured or learned."""
    return [
        other for other in rows
        if other.method not in (*OURS, DENSE) and took(other) <= took(row) + SAME
    ]  # fmt: skip


def took(row: Row) -> float:
    """Share of the dense seconds: of CPU time where it is known, which other programs on the machine move least."""
    return row.seconds if row.processor is None else row.processor


def beside_rivals(row: Row, rows: Sequence[Row]) -> str:
    """A plan beside the best rival of the same seconds."""
    rivals = rivals_of(row, rows)
    ours = f"{row.method} ({row.setting}) {row.psnr:.1f} dB in {100 * took(row):.0f} % of the seconds"
    if not rivals:
        return f"{ours}; nothing else is as fast"
    best = max(rivals, key=lambda other: other.psnr)
    word = "no worse than" if row.psnr >= best.psnr else "WORSE than"
    return (
        f"{ours}, {word} the best other of the same seconds, {best.method} ({best.setting}): {best.psnr:.1f} dB in "
        f"{100 * took(best):.0f} %"
    )


def calibrated_beside_learned(rows: Sequence[Row]) -> list[str]:
    """Calibrated and learned plans of one budget: the root-mean-square errors' ratio that their PSNR stands for."""
    said = []
    for learned in rows:
        for other in rows:
            if learned.method == LEARNED and other.method == CALIBRATED and learned.budget == other.budget:
                ratio = 10 ** ((learned.psnr - other.psnr) / 20)
                said.append(
                    f"calibrated at {other.setting} has {ratio:.2f} times the error of learned "
                    f"({other.psnr:.1f} and {learned.psnr:.1f} dB)"
                )
    return said


def gain(rows: Sequence[Row]) -> str:
    """At few steps: what plans and step caches gain over fewer steps of at most the same seconds, in dB at best."""

    def best(methods: Iterable[str]) -> str:
        found = []
        for row in rows:
            slower = [other.psnr for other in rows if other.method == FEWER and took(other) <= took(row) + SAME]
            if row.method in methods and slower and row.macs < 1:
                found.append((row.psnr - max(slower), row))
        if not found:
            return "none measured"
        won, row = max(found, key=lambda each: each[0])
        return f"{won:+.1f} dB ({row.method} {row.setting}, {100 * took(row):.0f} % of the seconds)"

    known = {row.method for row in rows}
    step_caches = known - {*OURS, DENSE, FEWER, "uniform", "fora", "toca"}
    return f"most gain over fewer steps of the same seconds: plans {best(OURS)}, step caches {best(step_caches)}"
