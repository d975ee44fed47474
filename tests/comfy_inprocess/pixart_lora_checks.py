"""LoRAs of PixArt under all their names do to the sparse model what they do to the dense one."""

from __future__ import annotations

from typing import Any

import torch
from comfy_pack import run
from lora_checks import warnings_of, with_lora
from pixart import FULL, IDENTITY, SPARSE, WIDTH, close, core, evaluate, load, sample
from torch import Tensor


def lora(layers: list[str], seed: int = 4, rank: int = 2, form: str = "lora_unet_{}") -> dict[str, Tensor]:
    """Low-rank changes of layers of the dense model, by kohya's names or another form of the path."""
    shapes = {key: value.shape for key, value in core().state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for layer in layers:
        rows, columns = shapes[f"{layer}.weight"]
        name = form.format(layer.replace(".", "_") if "unet" in form else layer)
        result[f"{name}.lora_up.weight"] = 0.3 * torch.randn(rows, rank, generator=generator)
        result[f"{name}.lora_down.weight"] = 0.3 * torch.randn(rank, columns, generator=generator)
        result[f"{name}.alpha"] = torch.tensor(1.0)
    return result


DIFFUSERS = (
    "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v",
    "attn2.to_out.0", "ff.net.0.proj", "ff.net.2",
)  # fmt: skip


def diffusers_lora(parts: tuple[str, ...] = DIFFUSERS, prefix: str = "transformer.") -> dict[str, Tensor]:
    """PEFT's names for all blocks; every part is a layer of its own there."""
    generator = torch.Generator().manual_seed(9)
    result = {}
    for number in range(7):
        for part in parts:
            rows, columns = {"ff.net.0.proj": (4, 1), "ff.net.2": (1, 4)}.get(part, (1, 1))
            name = f"{prefix}transformer_blocks.{number}.{part}"
            result[f"{name}.lora_A.weight"] = 0.3 * torch.randn(2, columns * WIDTH, generator=generator)
            result[f"{name}.lora_B.weight"] = 0.3 * torch.randn(rows * WIDTH, 2, generator=generator)
    return result


def identity(dense: Any) -> Any:
    return run("SparseDiTConvert", model=dense, layout=IDENTITY, sparse_side=8, fusion="identity")


def check_every_diffusers_name_does_the_same_to_both() -> None:
    dense = load()
    sparse = identity(dense)
    plain = evaluate(dense)
    close(evaluate(sparse, sparse_grid=FULL), plain)
    for part in DIFFUSERS:
        weights = diffusers_lora((part,))
        changed = evaluate(with_lora(dense, weights))
        assert (changed - plain).norm() > 0.01 * plain.norm(), part
        close(evaluate(with_lora(sparse, weights), sparse_grid=FULL), changed)
    for prefix in ("transformer.", "base_model.model.", "unet.base_model.model."):
        weights = diffusers_lora(prefix=prefix)
        close(evaluate(with_lora(sparse, weights), sparse_grid=FULL), evaluate(with_lora(dense, weights)))


def check_one_q_slice_is_that_row_slice() -> None:
    """By hand: the weight of the dense model with the product added to the rows of its q."""
    weights = diffusers_lora(("attn1.to_q",))
    wanted = core()
    with torch.no_grad():
        for number, block in enumerate(wanted.blocks):
            name = f"transformer.transformer_blocks.{number}.attn1.to_q"
            up, down = weights[f"{name}.lora_B.weight"], weights[f"{name}.lora_A.weight"]
            block.attn.qkv.weight[:WIDTH] += 0.8 * up @ down
    from pixart import CAPTIONS, T, X

    with torch.no_grad():
        expected = wanted(X, T, CAPTIONS)[:, :4]
    close(evaluate(with_lora(identity(load()), weights), sparse_grid=FULL), expected)


def check_other_names_reach_text_and_time_layers() -> None:
    layers = ["t_block.1", "y_embedder.y_proj.fc1", "blocks.1.cross_attn.kv_linear", "blocks.3.attn.qkv"]
    dense = load()
    sparse = identity(dense)
    plain = evaluate(dense)
    for form in ("lora_unet_{}", "diffusion_model.{}"):
        weights = lora(layers, form=form)
        changed = evaluate(with_lora(dense, weights))
        assert (changed - plain).norm() > 0.01 * plain.norm(), form
        close(evaluate(with_lora(sparse, weights), sparse_grid=FULL), changed)


def check_before_and_after_patch() -> None:
    dense = load()
    load(SPARSE, "sparse.safetensors", seed=4)
    weights = diffusers_lora()

    def patch(model: Any) -> Any:
        return run("SparseDiTPatchModel", model=model, checkpoint="sparse.safetensors")

    plain = evaluate(patch(dense))
    before, after = evaluate(patch(with_lora(dense, weights))), evaluate(with_lora(patch(dense), weights))
    assert torch.equal(before, after)
    assert (before - plain).norm() > 0.05 * plain.norm()
    direct = run("SparseDiTLoadCheckpoint", checkpoint="sparse.safetensors", weight_dtype="fp32")
    assert torch.equal(evaluate(with_lora(direct, weights)), after)
    assert torch.equal(evaluate(patch(dense)), plain)


def check_nothing_is_dropped_but_a_poolingformers_q_and_k() -> None:
    sparse = load(SPARSE, "sparse.safetensors")
    lines = warnings_of(lambda: with_lora(sparse, diffusers_lora()))
    assert len(lines) == 1, lines
    assert "Poolingformer" in lines[0]
    keys = with_lora(sparse, diffusers_lora()).patches.keys()
    parts = {key.partition(".blocks.")[2] for key in keys}
    assert {"0.attn.v.weight", "1.attn.q.weight", "1.attn.kv.weight", "2.attn.qkv.weight"} <= parts
    assert not {part for part in parts if part.startswith(("0.attn.q", "0.attn.kv", "1.attn.qkv"))}


def check_a_run_changes_and_the_model_without_it_does_not() -> None:
    sparse = load(SPARSE, "sparse.safetensors")
    before = sample(sparse)
    changed = sample(with_lora(sparse, diffusers_lora()))
    assert (changed - before).norm() > 0.01 * before.norm()
    assert torch.equal(sample(sparse), before)
