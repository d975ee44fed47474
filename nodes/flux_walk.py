"""The blocks of a FLUX.1 under a token cache: selected queries, all keys; core's layers, called for some tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy.ldm.flux.layers import DoubleStreamBlock, apply_mod
from comfy.ldm.flux.math import apply_rope1, attention
from torch import Tensor

from ..sparsedit_core.cache.visit import Rows, Visit, take
from ..sparsedit_core.tokens import Grid
from .cache_hook import tokens_of

HONOURS_PATCHES = "attn1_patch" in DoubleStreamBlock.forward.__code__.co_consts
"""Whether core's blocks call attention patches: those of 0.3.64 do not, and so neither does the walk."""


class FluxWalk:
    """The blocks of one call; tokens stand in the order text, picture, reference pictures."""

    def __init__(self, visit: Visit, grid: Grid, extra: int) -> None:
        self._visit, self._grid, self._extra = visit, grid, extra
        self._tokens = grid[0] * grid[1]

    def double(self, block: Any, name: str, args: dict[str, Any]) -> dict[str, Any]:
        """A double block, image and text in layers of their own: as core's forward, but nothing written in place."""
        img, txt, vec = args["img"], args["txt"], args["vec"]
        self._check(name, img.shape[1])
        visit, end = self._visit, self._tokens
        (img1, img2), (txt1, txt2) = block.img_mod(vec), block.txt_mod(vec)
        visit.weigh(img[:, :end], img1.gate)
        new, new_txt, *after = visit.output(
            f"{name}.self", self._grid, img[:, :end], lambda rows: self._joint(block, name, args, img1, txt1, rows)
        )
        img = img + apply_mod(_joined(new, after), img1.gate)
        txt = txt + apply_mod(new_txt, txt1.gate)

        def mlp(rows: Rows) -> tuple[Tensor, ...]:
            some = take(img, self._joint_rows(rows, 0, img.shape[1]))
            out = block.img_mlp(apply_mod(block.img_norm2(some), 1 + img2.scale, img2.shift))
            picture, _, *after = self._parts(f"{name}.mlp", out)
            return picture, *after

        visit.weigh(img[:, :end], img2.gate)
        new, *after = visit.output(f"{name}.mlp", self._grid, img[:, :end], mlp)
        img = img + apply_mod(_joined(new, after), img2.gate)
        txt = txt + apply_mod(block.txt_mlp(apply_mod(block.txt_norm2(txt), 1 + txt2.scale, txt2.shift)), txt2.gate)
        return {"img": img, "txt": _finite(txt)}

    def _joint(
        self, block: Any, name: str, args: dict[str, Any], img1: Any, txt1: Any, rows: Rows
    ) -> tuple[Tensor, ...]:
        """Attention's output for the picture's ``rows``, for the text and for what follows the picture."""
        img, txt = args["img"], args["txt"]
        of_text = _heads(block.txt_attn, apply_mod(block.txt_norm1(txt), 1 + txt1.scale, txt1.shift))
        of_img = _heads(block.img_attn, apply_mod(block.img_norm1(img), 1 + img1.scale, img1.shift))
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(of_text, of_img, strict=True))
        text = txt.shape[1]
        options = {**args["transformer_options"], "img_slice": [text, q.shape[2]]}
        attn = self._attended(f"{name}.self", q, k, v, text, args, options, rows)
        picture, _, *after = self._parts(f"{name}.self", block.img_attn.proj(attn[:, text:]))
        return picture, block.txt_attn.proj(attn[:, :text]), *after

    def single(self, block: Any, name: str, args: dict[str, Any]) -> dict[str, Any]:
        """A single block, attention and MLP side by side on text and image together."""
        x, options, name = args["img"], args["transformer_options"], f"{name}.block"
        length = x.shape[1]
        text = max(0, length - self._extra - self._tokens)
        self._check(name, length - text)
        mod, _ = block.modulation(args["vec"])

        def compute(rows: Rows) -> tuple[Tensor, ...]:
            both = block.linear1(apply_mod(block.pre_norm(x), 1 + mod.scale, mod.shift))
            qkv, h = both.split([3 * block.hidden_size, block.mlp_hidden_dim], dim=-1)
            q, k, v = qkv.view(*x.shape[:2], 3, block.num_heads, -1).permute(2, 0, 3, 1, 4)
            q, k = block.norm(q, k, v)
            attn = self._attended(name, q, k, v, text, args, options, rows)
            h = block.mlp_act(take(h, self._joint_rows(rows, text, length)))
            return self._parts(name, block.linear2(torch.cat((attn, h), dim=2)), text)

        picture = x[:, text : text + self._tokens]
        self._visit.weigh(picture, mod.gate)
        new, new_txt, *after = self._visit.output(name, self._grid, picture, compute)
        out, start = torch.empty_like(x), 0
        for part in (new_txt, new, *after):
            place = slice(start, start + part.shape[1])
            torch.add(x[:, place], apply_mod(part, mod.gate), out=out[:, place])
            start = place.stop
        return {"img": _finite(out)}

    def _attended(
        self, name: str, q: Tensor, k: Tensor, v: Tensor, text: int, args: Any, options: dict[str, Any], rows: Rows
    ) -> Tensor:
        """Attention (B, K, D) of all text, the picture's ``rows`` and what follows it; q, k, v are (B, H, L, D / H)."""
        pe, mask, length = args["pe"], args.get("attn_mask"), q.shape[2]
        patches = options.get("patches", {}) if HONOURS_PATCHES else {}
        for patch in patches.get("attn1_patch", ()):  # they see all tokens: which to compute is chosen afterwards
            out = patch(q, k, v, pe=pe, attn_mask=mask, extra_options=options)
            q, k, v = out.get("q", q), out.get("k", k), out.get("v", v)
            pe, mask = out.get("pe", pe), out.get("attn_mask", mask)
        self._watch(name, q, k, pe, text, rows)
        if rows is None:
            attn = attention(q, k, v, pe=pe, mask=mask, transformer_options=options)
            for patch in patches.get("attn1_output_patch", ()):
                attn = patch(attn, options)
            return attn  # type: ignore[no-any-return]
        if "attn1_output_patch" in patches or q.shape[2] != length:
            raise ValueError(
                f"another node changes the attention of FLUX ({name}) for all tokens at once, so that it cannot be "
                "computed for some; take that node away, or use a plan with levels 0 and 1 only"
            )
        index = self._joint_rows(rows, text, length)
        assert index is not None
        q = tokens_of(q, index)
        if pe is not None:
            q, k = apply_rope1(q, tokens_of(pe, index)), apply_rope1(k, pe)
        if mask is not None and mask.shape[-2] != 1:
            mask = mask.reshape(*(mask.shape[:1] if mask.ndim > 2 else (1,)), -1, *mask.shape[-2:])
            mask = tokens_of(mask, index)
        return attention(q, k, v, pe=None, mask=mask, transformer_options=options)  # type: ignore[no-any-return]

    def _watch(self, name: str, q: Tensor, k: Tensor, pe: Tensor | None, text: int, rows: Rows) -> None:
        """Let the selector see the attention among the picture's tokens and theirs over the text."""
        selector = self._visit.selector
        if selector not in ("influence", "entropy"):
            return
        if pe is not None:
            q, k = apply_rope1(q, pe), apply_rope1(k, pe)
        heads, (q, k) = q.shape[1], (each.transpose(1, 2).flatten(2) for each in (q, k))
        picture = slice(text, text + self._tokens)
        if selector == "entropy":
            self._visit.watch_cross(name, take(q[:, picture], rows), k[:, :text], heads, None, rows)
        elif rows is None:
            self._visit.watch_self(name, q[:, picture], k[:, picture], heads)

    def _check(self, name: str, found: int) -> None:
        if found != self._tokens + self._extra:
            rows, columns = self._grid
            raise ValueError(
                f"FLUX's {name} was given {found} image tokens, expected {rows} x {columns} and {self._extra} of "
                "reference pictures; another node adds or drops some, take it or the token cache away"
            )

    def _joint_rows(self, rows: Rows, text: int, length: int) -> Rows:
        """Numbers in the joint sequence of all text, the picture's ``rows`` and what follows it."""
        if rows is None:
            return None
        always = torch.arange(length, device=rows.device)
        before, after = (each.expand(*rows.shape[:-1], -1) for each in (always[:text], always[text + self._tokens :]))
        return torch.cat((before, rows + text, after), dim=-1)

    def _parts(self, name: str, out: Tensor, text: int = 0) -> tuple[Tensor, ...]:
        """Of out (B, text + K + R, D) the picture's part, the text's, and what follows if there is anything.

        What is kept is copied, so that it holds no more memory than it says.
        """
        sizes = [text, out.shape[1] - text - self._extra, *([self._extra] if self._extra else ())]
        before, picture, *after = torch.split(out, sizes, dim=1)
        if not self._visit.keeps(name) or picture.shape == out.shape:
            return picture, before, *after
        if picture.shape[1] == self._tokens:  # else it is about to be copied to its place
            picture = picture.clone()
        return picture, before.clone(), *(each.clone() for each in after)


def _heads(layers: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised queries and keys, and values, each (B, H, L, D / H)."""
    q, k, v = layers.qkv(x).view(*x.shape[:2], 3, layers.num_heads, -1).permute(2, 0, 3, 1, 4)
    return (*layers.norm(q, k, v), v)


def _joined(picture: Tensor, after: Sequence[Tensor]) -> Tensor:
    return torch.cat((picture, *after), dim=1) if after else picture


def _finite(x: Tensor) -> Tensor:
    """As core does against overflow."""
    return torch.nan_to_num(x, nan=0.0, posinf=65504, neginf=-65504) if x.dtype == torch.float16 else x
