"""A second PixArt, as plain as the one of oracle.py: text is read token by token, positions are computed one by one."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from oracle import Grid, Oracle
from torch import Tensor

from sparsedit_core.layers import timestep_features, timestep_frequencies
from sparsedit_core.pixart import PixArt


class PixArtOracle(Oracle):
    """``PixArtOracle(model)(x, t, y, mask, size, aspect, sparse_grid)``; x is any whole number of patches."""

    def __init__(self, model: PixArt) -> None:
        super().__init__(model)  # type: ignore[arg-type]

    def embed(self, name: str, numbers: Tensor) -> Tensor:
        hidden = self.linear(f"{name}.mlp.0", timestep_features(numbers, torch.tensor(timestep_frequencies())))
        return self.linear(f"{name}.mlp.2", F.silu(hidden))

    def positions(self) -> Tensor:
        """Token (row, column) of an h x w grid stands at row * base / h / scale, column * base / w / scale."""
        dim, (h, w), config = self.config.hidden_size, self.dense, self.config
        base, scale = config.grid, config.position_scale
        table = torch.empty(h * w, dim, dtype=torch.float64)
        for token in range(h * w):
            row, column = divmod(token, w)
            places = column * base[1] / w / scale, row * base[0] / h / scale
            for k in range(dim // 4):
                for half, place in enumerate(places):
                    angle = place * 10000 ** (-k / (dim / 4))
                    table[token, half * dim // 2 + k] = math.sin(angle)
                    table[token, half * dim // 2 + dim // 4 + k] = math.cos(angle)
        return table.float()[None]

    def __call__(  # type: ignore[override]
        self, x: Tensor, t: Tensor, y: Tensor, mask: Tensor | None, size: Tensor, aspect: Tensor, sparse: Grid
    ) -> Tensor:
        config, p = self.config, self.config.patch_size
        self.dense = rows, columns = x.shape[2] // p, x.shape[3] // p
        split = x.view(len(x), config.in_channels, rows, p, columns, p)
        patches = split.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        self.weights["pos_embed"] = self.positions()
        kernel = self.weights["x_embedder.proj.weight"].flatten(1)
        tokens = F.linear(patches, kernel, self.weights["x_embedder.proj.bias"]) + self.weights["pos_embed"]
        time = self.embed("t_embedder", t)
        if config.micro_conditioning:
            parts = [self.embed("csize_embedder", size[:, 0]), self.embed("csize_embedder", size[:, 1])]
            time = time + torch.cat([*parts, self.embed("ar_embedder", aspect[:, 0])], dim=1)
        hidden = F.gelu(self.linear("y_embedder.y_proj.fc1", y), approximate="tanh")
        self.text = self.linear("y_embedder.y_proj.fc2", hidden)
        self.counted = [torch.arange(y.shape[1]) if mask is None else mask[i].nonzero()[:, 0] for i in range(len(y))]
        tokens = self.blocks(tokens, self.linear("t_block.1", F.silu(time)).unflatten(1, (6, -1)), sparse)
        shift, scale = (self.weights["final_layer.scale_shift_table"] + time[:, None]).chunk(2, 1)
        out = self.linear("final_layer.linear", self.norm(tokens, shift, scale))
        out = out.view(len(x), rows, columns, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        return out.reshape(len(x), -1, rows * p, columns * p)

    def block(self, number: int, x: Tensor, context: Tensor, c: Tensor, pooled: bool = False) -> Tensor:
        name = f"blocks.{number}"
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.weights[f"{name}.scale_shift_table"] + c).chunk(6, 1)
        h, source = self.norm(x, shift1, scale1), self.norm(context, shift1, scale1)
        if pooled:
            h = self.linear(f"{name}.attn.v", h).mean(1, keepdim=True).expand_as(h)
        else:
            h = self.attention(name, h, source)
        x = x + gate1 * self.linear(f"{name}.attn.proj", h)
        x = x + self.read_text(f"{name}.cross_attn", x)
        hidden = F.gelu(self.linear(f"{name}.mlp.fc1", self.norm(x, shift2, scale2)), approximate="tanh")
        return x + gate2 * self.linear(f"{name}.mlp.fc2", hidden)

    def normed(self, name: str, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if f"{name}.attn.q_norm.weight" not in self.weights:
            return q, k
        return self.affine_norm(f"{name}.attn.q_norm", q), self.affine_norm(f"{name}.attn.k_norm", k)

    def affine_norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def read_text(self, name: str, x: Tensor) -> Tensor:
        """Each picture's tokens attend to those tokens of its caption that count."""
        read = []
        for picture, tokens in zip(x, self.counted, strict=True):
            text = self.text[len(read), tokens][None]
            k, v = self.linear(f"{name}.kv_linear", text).chunk(2, -1)
            read.append(self.heads(self.linear(f"{name}.q_linear", picture[None]), k, v))
        return self.linear(f"{name}.proj", torch.cat(read))
