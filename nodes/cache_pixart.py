"""The dense PixArt of ComfyUI's own loaders under a token cache.

Its network hands nothing on to the blocks, so every block's ``forward`` is patched on the MODEL (an object patch, which
leaves weights, LoRA and offloading alone) and asks a context variable whether its call is under a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.pixart.blocks import t2i_modulate
from comfy.ldm.pixart.pixartms import PixArtMSBlock
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ..sparsedit_core.cache.visit import Rows, Visit, take
from ..sparsedit_core.tokens import Grid
from .cache_adapter import Hooked
from .cache_hook import KEY
from .cache_own import OwnAdapter
from .stock import stock_description

_VISIT: ContextVar[Visit | None] = ContextVar("sparsedit_visit", default=None)


class StockPixArtAdapter(OwnAdapter):
    """A PixArt MODEL of ComfyUI's own: the sub-layers and costs of ours."""

    @classmethod
    def of(cls, patcher: Any) -> StockPixArtAdapter:
        """The adapter for a MODEL that :func:`.stock.is_stock`; ``ValueError`` where keys are compressed."""
        compressed = [i for i, block in enumerate(patcher.model.diffusion_model.blocks) if block.attn.sr_ratio > 1]
        if compressed:
            raise ValueError(
                f"the PixArt compresses keys and values (in {len(compressed)} of its blocks), which a token cache does "
                "not know; use the checkpoint of the same size without it"
            )
        return cls(stock_description(patcher).config)

    def prepare(self, patcher: Any) -> None:
        """Patch the blocks; ``ValueError`` if another node did. Without a visit they do what they did."""
        for number, block in enumerate(patcher.model.diffusion_model.blocks):
            name = f"diffusion_model.blocks.{number}.forward"
            before = patcher.get_model_object(name)
            if getattr(before, "under_cache", False):
                continue
            if getattr(before, "__func__", None) is not PixArtMSBlock.forward:
                raise ValueError(
                    f"another node has put its own forward into block {number} of this PixArt, which the token cache "
                    "would leave out; take that node or the token cache away"
                )
            patcher.add_object_patch(name, _patched(block, number, self.config.patch_size))
        patcher.remove_callbacks_with_key(CallbacksMP.ON_CLONE, KEY)
        patcher.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, _cloned)

    def grid(self, shape: Sequence[int]) -> Grid:  # core drops what does not fill a patch
        return shape[-2] // self.config.patch_size, shape[-1] // self.config.patch_size

    @contextmanager
    def hooked(self, visit: Visit, options: dict[str, Any], keywords: dict[str, Any]) -> Iterator[Hooked]:
        token = _VISIT.set(visit)
        try:
            yield options, keywords
        finally:
            _VISIT.reset(token)


def _cloned(patcher: Any, clone: Any) -> None:
    """A clone may have a network of its own (several GPUs, weights that are not streamed): patch its own blocks."""
    if clone.model is patcher.model:
        return
    for number, block in enumerate(clone.model.diffusion_model.blocks):
        name = f"diffusion_model.blocks.{number}.forward"
        if getattr(clone.object_patches.get(name), "under_cache", False):
            clone.add_object_patch(name, _patched(block, number, clone.model.diffusion_model.patch_size))


def _patched(block: Any, number: int, patch: int) -> Callable[..., Tensor]:
    before: Callable[..., Tensor] = partial(PixArtMSBlock.forward, block)

    def forward(x: Tensor, y: Tensor, t: Tensor, mask: Any = None, HW: Any = None, **keywords: Any) -> Tensor:
        visit = _VISIT.get()
        if visit is None:
            return before(x, y, t, mask, HW, **keywords)
        return _walk(block, str(number), visit, x, y, t, mask, HW, patch)

    forward.under_cache = True  # type: ignore[attr-defined]
    return forward


def _walk(
    block: Any, name: str, visit: Visit, x: Tensor, y: Tensor, t: Tensor, mask: Any, size: tuple[int, int], patch: int
) -> Tensor:
    """The block as core's forward: tokens x (B, N, D), text y (1, B L, D), ``size`` of the latent."""
    grid = size[0] // patch, size[1] // patch
    table = block.scale_shift_table[None].to(dtype=x.dtype, device=x.device)
    shift1, scale1, gate1, shift2, scale2, gate2 = (table + t.reshape(len(x), 6, -1)).chunk(6, dim=1)

    def attended(rows: Rows) -> Tensor:
        return _attended(block.attn, f"{name}.self", visit, t2i_modulate(block.norm1(x), shift1, scale1), size, rows)

    def read(rows: Rows) -> Tensor:
        attn, h = block.cross_attn, take(x, rows)
        if visit.selector == "entropy":
            k, _ = attn.kv_linear(y).view(len(x), -1, 2 * attn.d_model).chunk(2, dim=-1)
            visit.watch_cross(f"{name}.cross", attn.q_linear(h), k, attn.num_heads, None, rows)
        return attn(h, y, mask)  # type: ignore[no-any-return]

    def mlp(rows: Rows) -> Tensor:
        return block.mlp(t2i_modulate(block.norm2(take(x, rows)), shift2, scale2))  # type: ignore[no-any-return]

    # gates are applied as core does, not by Visit.branch, so that a full plan is the model bit for bit
    visit.weigh(x, gate1)
    x = x + gate1 * visit.output(f"{name}.self", grid, x, attended)[0]
    x = visit.branch(x, f"{name}.cross", grid, read)
    visit.weigh(x, gate2)
    return cast(Tensor, x + gate2 * visit.output(f"{name}.mlp", grid, x, mlp)[0])


def _attended(attn: Any, name: str, visit: Visit, h: Tensor, size: tuple[int, int], rows: Rows) -> Tensor:
    """Self-attention's result (B, K, D) for ``rows`` of h (B, N, D); they see the keys of all tokens."""
    if rows is None and visit.selector != "influence":
        return attn(h, HW=size)  # type: ignore[no-any-return]
    q, k, v = attn.qkv(h).chunk(3, dim=-1)
    q, k = attn.q_norm(take(q, rows)), attn.k_norm(k)
    visit.watch_self(name, q, k, attn.num_heads)
    return attn.proj(optimized_attention(q, k, v, attn.num_heads))  # type: ignore[no-any-return]
