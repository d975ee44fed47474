"""Wan2.1 of ComfyUI's own loaders (text or image to video) under a token cache.

The walk replaces every block of the network that is called (``patches_replace``), inside whatever other nodes put
there. It calls the block's own layers, so LoRA, casting and offloading act as ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.model_base
import torch
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.wan.model import WanAttentionBlock, WanModel, WanSelfAttention, repeat_e
from comfy.model_management import cast_to
from torch import Tensor

from ..sparsedit_core.cache.costs import Costs
from ..sparsedit_core.cache.costs_wan import TEXT_TOKENS, WanShape, wan_bytes, wan_costs, wan_names
from ..sparsedit_core.cache.visit import Rows, Visit, take
from .cache_adapter import CacheAdapter, Hooked, Size
from .cache_hook import KEY, hook, note_skipped, tokens_of, uncompiled, with_walks

_HONOURS_SELF = "attn1_patch" in WanSelfAttention.forward.__code__.co_consts
_HONOURS_CROSS = "attn2_patch" in WanAttentionBlock.forward.__code__.co_consts
"""Whether core's blocks call attention patches: those of 0.3.64 do not, and so neither does the walk."""
_CLIP_TOKENS = 257

VideoGrid = tuple[int, int, int]
"""Frames, rows and columns."""


class WanAdapter(CacheAdapter):
    """A Wan2.1 MODEL."""

    family = "wan"

    def __init__(self, shape: WanShape, patch_size: VideoGrid) -> None:
        self.shape, self._patch = shape, patch_size
        self.sublayers = wan_names(shape)

    @classmethod
    def of(cls, model: Any) -> WanAdapter:
        """The adapter for ComfyUI's model (``patcher.model``), which :func:`is_wan` says is one."""
        network = model.diffusion_model
        patch = tuple(network.patch_size)
        image = network.img_emb
        shape = WanShape(
            hidden_size=network.dim,
            mlp_hidden=network.ffn_dim,
            depth=len(network.blocks),
            inputs=network.in_dim * math.prod(patch),
            outputs=network.out_dim * math.prod(patch),
            context=network.text_dim,
            frequencies=network.freq_dim,
            image=0 if image is None else _CLIP_TOKENS if image.emb_pos is None else image.emb_pos.shape[1],
        )
        return cls(shape, patch)

    def grid(self, shape: Sequence[int]) -> VideoGrid:
        return grid_of(shape, self._patch)

    def beside(self, given: Mapping[str, Any]) -> int:
        """Tokens of frames put behind those of the video."""
        more = given.get("time_dim_concat")
        return 0 if more is None else math.prod(self.grid(more.shape))

    def costs(self, size: Size) -> Costs:
        return wan_costs(self.shape, self._tokens(size), TEXT_TOKENS if size.text is None else size.text)

    def sizes(self, size: Size, itemsize: int, names: Sequence[str]) -> dict[str, int]:
        return wan_bytes(self.shape, self._tokens(size), size.shape[0], itemsize, names)

    def _tokens(self, size: Size) -> int:
        return math.prod(self.grid(size.shape)) + size.beside

    @contextmanager
    def hooked(self, visit: Visit, options: dict[str, Any], keywords: dict[str, Any]) -> Iterator[Hooked]:
        yield hook(_WRAPPER, visit, options, keywords)


def is_wan(model: Any) -> bool:
    """True for ComfyUI's model of a Wan2.1 from text or a first picture; VACE, camera, animation, speech, the 5B of
    Wan2.2 and others derive from it."""
    return type(model) is comfy.model_base.WAN21 and type(model.diffusion_model) is WanModel


def grid_of(shape: Sequence[int], patch: VideoGrid) -> VideoGrid:
    """Token grid of a latent (..., T, H, W), which is filled up to whole patches."""
    frames, rows, columns = (-(-side // step) for side, step in zip(shape[-3:], patch, strict=True))
    return frames, rows, columns


def _under_cache(
    executor: Any,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    clip_fea: Any = None,
    time_dim_concat: Any = None,
    transformer_options: Any = {},  # noqa: B006  (the signature of core's forward)
    **keywords: Any,
) -> Any:
    """Wrapper of Wan's forward."""
    visit: Visit = keywords.pop(KEY)
    network = executor.class_obj
    given = ["context_latents"] if keywords.get("context_latents") else []
    if network.ref_conv is not None and keywords.get("reference_latent") is not None:
        given.append("reference_latent")
    if given:
        raise ValueError(
            f"this Wan is given reference pictures ({given[0]}) as tokens of the video, which a token cache cannot "
            "tell apart; take them or the token cache away"
        )
    grid = grid_of(x.shape, network.patch_size)
    if time_dim_concat is not None:  # more frames behind those of the video
        grid = grid[0] + grid_of(time_dim_concat.shape, network.patch_size)[0], *grid[1:]
    walk = _Walk(visit, grid, None if clip_fea is None else clip_fea.shape[-2])
    walks = {("double_block", i): partial(walk, block, str(i)) for i, block in enumerate(network.blocks)}
    options = with_walks(transformer_options, walks)
    out = executor(x, timestep, context, clip_fea, time_dim_concat, options, **keywords)
    note_skipped(visit)
    return out


_WRAPPER = uncompiled(_under_cache)


class _Walk:
    """The blocks of one call."""

    def __init__(self, visit: Visit, grid: VideoGrid, image: int | None) -> None:
        self._visit, self._grid, self._image = visit, grid, image

    def __call__(self, block: Any, name: str, args: dict[str, Any]) -> dict[str, Any]:
        """A block as core's forward; a time of each frame has a modulation of its own."""
        x, e, text, options = args["img"].contiguous(), args["vec"], args["txt"], args["transformer_options"]
        if x.shape[1] != math.prod(self._grid):
            raise ValueError(
                f"Wan's block {name} was given {x.shape[1]} tokens, expected {' x '.join(map(str, self._grid))}; "
                "another node adds or drops some, take it or the token cache away"
            )
        table = cast_to(block.modulation, dtype=x.dtype, device=x.device)
        parts = (table + e).chunk(6, dim=1) if e.ndim < 4 else (table.unsqueeze(0) + e).unbind(2)
        shift1, scale1, gate1, shift2, scale2, gate2 = (repeat_e(part, x) for part in parts)
        branch, grid = self._visit.branch, self._grid

        def attended(rows: Rows) -> Tensor:
            h = torch.addcmul(shift1, block.norm1(x), 1 + scale1)
            return self._attended(block.self_attn, f"{name}.self", h, args["pe"], options, rows)

        x = branch(x, f"{name}.self", grid, attended, gate1)
        x = branch(x, f"{name}.cross", grid, lambda rows: self._read(block, f"{name}.cross", x, text, options, rows))
        for patch in options.get("patches", {}).get("attn2_patch", ()) if _HONOURS_CROSS else ():
            x = patch({"x": x, "transformer_options": options})

        def mlp(rows: Rows) -> Tensor:
            shift, scale = (_of(each, rows) for each in (shift2, scale2))
            return block.ffn(torch.addcmul(shift, block.norm2(take(x, rows)), 1 + scale))  # type: ignore[no-any-return]

        return {"img": branch(x, f"{name}.mlp", grid, mlp, gate2)}

    def _attended(
        self, attn: Any, name: str, h: Tensor, freqs: Tensor, options: dict[str, Any], rows: Rows
    ) -> Tensor:
        """Self-attention's result (B, K, D) for ``rows`` of h (B, N, D); they see the keys of all tokens."""
        if rows is None and self._visit.selector == "influence":
            pairs = (attn.q, attn.norm_q), (attn.k, attn.norm_k)
            q, k = (self._roped(norm(layer(h)), freqs, attn) for layer, norm in pairs)
            self._visit.watch_self(name, q, k, attn.num_heads)
        if rows is None:
            return attn(h, freqs, transformer_options=options)  # type: ignore[no-any-return]
        if _HONOURS_SELF and "attn1_patch" in options.get("patches", {}):
            raise ValueError(
                f"another node changes the attention of Wan ({name}) for all tokens at once, so that it cannot be "
                "computed for some; take that node away, or use a plan with levels 0 and 1 only"
            )
        some = tokens_of(freqs.movedim(1, 2), rows).movedim(2, 1)
        q = self._roped(attn.norm_q(attn.q(take(h, rows))), some, attn)
        k = self._roped(attn.norm_k(attn.k(h)), freqs, attn)
        out = optimized_attention(q, k, attn.v(h), heads=attn.num_heads, transformer_options=options)
        return attn.o(out)  # type: ignore[no-any-return]

    def _roped(self, x: Tensor, freqs: Tensor, attn: Any) -> Tensor:
        split = x.view(*x.shape[:2], attn.num_heads, attn.head_dim)
        return apply_rope1(split, freqs).reshape(x.shape)  # type: ignore[no-any-return]

    def _read(self, block: Any, name: str, x: Tensor, text: Tensor, options: dict[str, Any], rows: Rows) -> Tensor:
        """The reading of the text, and of the first picture, by ``rows``."""
        h, attn = block.norm3(take(x, rows)), block.cross_attn
        if self._visit.selector == "entropy":
            words = text[:, self._image :] if hasattr(attn, "k_img") else text  # a picture's tokens come first
            q, k = attn.norm_q(attn.q(h)), attn.norm_k(attn.k(words))
            self._visit.watch_cross(name, q, k, attn.num_heads, None, rows)
        return attn(h, text, context_img_len=self._image, transformer_options=options)  # type: ignore[no-any-return]


def _of(each: Tensor, rows: Rows) -> Tensor:
    """Of a modulation (B, 1 or N, D) that of the tokens ``rows``."""
    return each if each.shape[1] == 1 else take(each, rows)
