"""The segment layout that the keys of a state dict spell out."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..layout import SegmentLayout
from .errors import CheckpointError

# official SparseDiT: the lists inside a dumbbell: generation, sparse, recovery, dense blocks
DUMBBELL_LISTS: tuple[str, ...] = ("token_merge_blocks", "semantic_blocks", "token_recover_blocks", "normal_blocks")


def count_blocks(keys: Iterable[str], prefix: str) -> int:
    """One more than the largest N in ``prefix.N.``; a number no file of this size could have is an error."""
    keys = list(keys)
    pattern = re.compile(re.escape(prefix) + r"\.(\d{1,9})\.")
    count = max((int(m[1]) + 1 for key in keys if (m := pattern.match(key))), default=0)
    if count > len(keys):
        raise CheckpointError(
            f"{prefix} is numbered up to {count - 1} in a file of {len(keys)} tensors; blocks are missing"
        )
    return count


def sparsedit_layout(keys: Iterable[str]) -> SegmentLayout:
    """The layout that official SparseDiT keys spell out (gaps in a numbering show up as missing keys later)."""
    keys = list(keys)
    modules = []
    for d in range(count_blocks(keys, "dumbbell_blocks")):
        g, s, r, n = (count_blocks(keys, f"dumbbell_blocks.{d}.{group}") for group in DUMBBELL_LISTS)
        modules.append((g, s, r, n))
    try:
        return SegmentLayout(
            count_blocks(keys, "poolingformer_blocks"), tuple(modules), count_blocks(keys, "normal_blocks")
        )
    except ValueError as error:
        raise CheckpointError(f"official SparseDiT keys with an impossible layout: {error}") from error


def flat_layout(keys: Iterable[str]) -> SegmentLayout | None:
    """The layout of a sparse state dict in our own keys without metadata; ``None`` when every block is dense.

    Keys do not tell the dense blocks of the last module from the top, which compute the same: the last module gets as
    many as the one before it (one, if it is the only module).
    """
    keys = set(keys)
    kinds = [_kind(keys, i) for i in range(count_blocks(keys, "blocks"))]
    text = "".join(kinds)
    if set(text) <= {"q"}:
        return None
    match = re.fullmatch(r"(p*)(q*)((?:g+q*r+q*)*)", text)
    if match is None or (match[2] and match[3]):
        raise CheckpointError(f"the blocks' attention keys follow no sparse layout (one letter a block: {text})")
    groups = re.findall(r"(g+)(q*)(r+)(q*)", match[3])
    modules = [tuple(map(len, group)) for group in groups]
    top = len(match[2])
    if modules:
        dense = min(modules[-1][3], modules[-2][3] if len(modules) > 1 else 1)
        top = modules[-1][3] - dense
        modules[-1] = (*modules[-1][:3], dense)
    return SegmentLayout(len(match[1]), tuple((g, s, r, d) for g, s, r, d in modules), top)


def _kind(keys: set[str], block: int) -> str:
    """p(ooled), g(eneration), r(ecovery) or q(kv) from the keys of one block."""
    stem = f"blocks.{block}."
    if f"{stem}merged_layer1.weight" in keys or f"{stem}merged_layer2.weight" in keys:
        return "r"
    if f"{stem}attn.q.weight" in keys or f"{stem}attn.kv.weight" in keys:
        return "g"
    return "p" if f"{stem}attn.v.weight" in keys else "q"
