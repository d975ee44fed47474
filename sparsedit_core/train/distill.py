"""A dense teacher: its prediction, and its token maps where the student's tokens are dense again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import Backbone
from ..conditions import Conditions, call_model
from ..layout import SegmentLayout


def segment_ends(layout: SegmentLayout) -> list[int]:
    """Numbers of the last blocks of the bottom, of every module and of the top: there all tokens are dense."""
    ends = [layout.bottom] if layout.bottom else []
    position = layout.bottom
    for module in layout.modules:
        position += sum(module)
        ends.append(position)
    if layout.top:
        ends.append(position + layout.top)
    return [end - 1 for end in ends]


class Teacher:
    """A dense model that shows a student what to predict, and with ``features`` above 0 how to get there.

    The distance of features is the mean over :func:`segment_ends` of the squared difference between the student's
    and the teacher's tokens (B, N, D) after the same block, over the teacher's mean square.
    """

    def __init__(
        self,
        model: Backbone,
        student: Backbone,
        *,
        features: float = 0.0,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        check_teacher(model, student, features)
        self.model, self.student, self.features, self.context = model, student, features, context
        self._shown: list[Tensor] = []
        self._found: list[Tensor] = []

    def predict(self, x: Tensor, t: Tensor, y: Conditions) -> Tensor:
        """The teacher's output (B, O, H, W); its features are kept for :meth:`distance`."""
        self._shown.clear()
        with torch.no_grad(), self.context():
            return call_model(self.model, x, t, y)

    def distance(self) -> Tensor:
        """The distance of the features of the last predictions of both, a number; only inside :meth:`watching`."""
        pairs = list(zip(self._found, self._shown, strict=True))
        self._found.clear()
        self._shown.clear()
        parts = [F.mse_loss(mine.to(theirs.dtype), theirs) / theirs.pow(2).mean() for mine, theirs in pairs]
        return torch.stack(parts).mean()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, both models' tokens are kept where they are compared."""
        if not self.features:
            yield
            return
        assert self.student.layout is not None
        numbers = segment_ends(self.student.layout)
        handles = [_watch(self.model.blocks, n, self._shown) for n in numbers]
        handles += [_watch(self.student.blocks, n, self._found) for n in numbers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _watch(blocks: nn.ModuleList, number: int, kept: list[Tensor]) -> torch.utils.hooks.RemovableHandle:
    block = cast(Sequence[nn.Module], blocks)[number]
    return block.register_forward_hook(lambda *seen: kept.append(seen[2].float()))  # module, inputs, output


def check_teacher(teacher: Backbone, student: Backbone, features: float) -> None:
    """``ValueError`` unless a teacher can teach a student."""
    if teacher.layout is not None:
        raise ValueError(f"the teacher is a SparseDiT (layout {teacher.layout}); give a dense model")
    a, b = teacher.config, student.config
    for name in ("family", "in_channels", "input_size", "num_classes", "null_class", "caption_channels"):
        if getattr(a, name, None) != getattr(b, name, None):
            raise ValueError(
                f"the teacher has {name} {getattr(a, name)} and the model {getattr(b, name)}; give a teacher of the "
                "same data"
            )
    if not features:
        return
    if student.layout is None:
        raise ValueError("distill_features compares the ends of a SparseDiT's segments, but the model is dense")
    for name in ("depth", "hidden_size", "patch_size"):
        if getattr(a, name) != getattr(b, name):
            raise ValueError(
                f"distill_features compares tokens block by block, but the teacher has {name} {getattr(a, name)} and "
                f"the model {getattr(b, name)}; give the dense model that it was converted from, or leave it out"
            )
