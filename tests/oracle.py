"""A second SparseDiT, written as plainly as the paper's text says it and without any saving: the tests' reference.

It computes with the weights of a model and nothing of its code but the timestep features, which the golden files
check. Squares, loops over heads and full N x N matrices are meant: this is for reading, not for speed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsedit_core.dit import DiT
from sparsedit_core.layers import timestep_features, timestep_frequencies

Grid = tuple[int, int]


class Oracle:
    """``Oracle(model)(x, t, y, sparse_grid)``; x has the model's own input size."""

    def __init__(self, model: DiT) -> None:
        self.weights = {key: value.detach().float() for key, value in model.state_dict().items()}
        self.config = model.config
        self.dense = model.config.grid

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def __call__(self, x: Tensor, t: Tensor, y: Tensor, sparse: Grid) -> Tensor:
        rows, columns = self.dense
        p, channels = self.config.patch_size, self.config.in_channels
        patches = x.view(len(x), channels, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        kernel = self.weights["x_embedder.proj.weight"].flatten(1)
        tokens = F.linear(patches, kernel, self.weights["x_embedder.proj.bias"]) + self.weights["pos_embed"]
        features = timestep_features(t, torch.tensor(timestep_frequencies()))
        hidden = F.silu(self.linear("t_embedder.mlp.0", features))
        c = self.linear("t_embedder.mlp.2", hidden) + self.weights["y_embedder.embedding_table.weight"][y]
        tokens = self.blocks(tokens, c, sparse)
        shift, scale = self.linear("final_layer.adaLN_modulation.1", F.silu(c))[:, None].chunk(2, -1)
        out = self.linear("final_layer.linear", self.norm(tokens, shift, scale))
        out = out.view(len(x), rows, columns, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        return out.reshape(len(x), -1, rows * p, columns * p)

    def blocks(self, x: Tensor, c: Tensor, sparse: Grid) -> Tensor:
        layout, number = self.config.layout, 0
        again = self.weights["pos_embed"] if self.config.reinject_positions else torch.zeros(())
        for _ in range(layout.bottom):
            x, number = self.block(number, x, x, c, pooled=True), number + 1
        for generation, middle, recovery, dense in layout.modules:
            shortcut = x
            x = self.pool(x, sparse) + (self.pool(again, sparse) if again.ndim else 0)
            for _ in range(generation):
                x, number = self.block(number, x, shortcut, c), number + 1
            for _ in range(middle):
                x, number = self.block(number, x, x, c), number + 1
            for i in range(recovery):
                up = self.linear(f"blocks.{number}.merged_layer1", self.upsample(x, sparse) if i == 0 else x)
                merged = up + self.linear(f"blocks.{number}.merged_layer2", shortcut) + (again if i == 0 else 0)
                x, number = self.block(number, merged, x, c), number + 1
            for _ in range(dense):
                x, number = self.block(number, x, x, c), number + 1
        for _ in range(layout.top):
            x, number = self.block(number, x, x, c), number + 1
        return x

    def block(self, number: int, x: Tensor, context: Tensor, c: Tensor, pooled: bool = False) -> Tensor:
        name = f"blocks.{number}"
        modulation = self.linear(f"{name}.adaLN_modulation.1", F.silu(c))[:, None].chunk(6, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation
        h, source = self.norm(x, shift1, scale1), self.norm(context, shift1, scale1)
        if pooled:
            n = x.shape[1]
            h = torch.full((n, n), 1 / n) @ self.linear(f"{name}.attn.v", h)
        else:
            h = self.attention(name, h, source)
        x = x + gate1 * self.linear(f"{name}.attn.proj", h)
        hidden = F.gelu(self.linear(f"{name}.mlp.fc1", self.norm(x, shift2, scale2)), approximate="tanh")
        return x + gate2 * self.linear(f"{name}.mlp.fc2", hidden)

    def attention(self, name: str, h: Tensor, source: Tensor) -> Tensor:
        dim = self.config.hidden_size
        if f"{name}.attn.qkv.weight" in self.weights:
            q = self.linear(f"{name}.attn.qkv", h)[..., :dim]
            k, v = self.linear(f"{name}.attn.qkv", source)[..., dim:].chunk(2, -1)
        else:
            q = self.linear(f"{name}.attn.q", h)
            k, v = self.linear(f"{name}.attn.kv", source).chunk(2, -1)
        return self.heads(*self.normed(name, q, k), v)

    def normed(self, name: str, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys as the heads take them; a DiT normalises neither."""
        return q, k

    def heads(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        width = self.config.hidden_size // self.config.num_heads
        heads = []
        for head in range(self.config.num_heads):
            part = slice(head * width, (head + 1) * width)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / width**0.5
            heads.append(scores.softmax(-1) @ v[..., part])
        return torch.cat(heads, -1)

    def norm(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift

    def pool(self, x: Tensor, sparse: Grid) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, self.dense)
        return F.adaptive_avg_pool2d(image, sparse).flatten(2).transpose(1, 2)

    def upsample(self, x: Tensor, sparse: Grid) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, sparse)
        return F.interpolate(image, size=self.dense, mode="nearest").flatten(2).transpose(1, 2)
