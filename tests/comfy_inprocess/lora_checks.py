"""LoRAs: they change the output, they survive Patch and Convert, and dense-model LoRAs act on split projections."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import files
import torch
from comfy_pack import Skip, pack, run
from sampling import evaluate, sample
from torch import Tensor

NOISE = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
INPUT = (NOISE, torch.tensor([800.0, 90.0]), torch.tensor([1, 7]))
FULL = (8, 8)


def dense_model(seed: int = 0) -> Any:
    name = files.save(files.random_model(files.config(), seed), f"dense{seed}.safetensors")
    return run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype="fp32")


def identity_model(dense: Any) -> Any:
    """On the full grid it is the dense model exactly, so a LoRA must do the same to both."""
    return run("SparseDiTConvert", model=dense, layout=files.IDENTITY, sparse_side=8, fusion="identity")


def lora(layers: list[str], seed: int = 4, rank: int = 2) -> dict[str, Tensor]:
    """Kohya names; every layer's shapes are read off a dense model."""
    shapes = {key: value.shape for key, value in files.random_model(files.config()).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for layer in layers:
        rows, columns = shapes[f"{layer}.weight"]
        name = f"lora_unet_{layer.replace('.', '_')}"
        result[f"{name}.lora_up.weight"] = 0.3 * torch.randn(rows, rank, generator=generator)
        result[f"{name}.lora_down.weight"] = 0.3 * torch.randn(rank, columns, generator=generator)
        result[f"{name}.alpha"] = torch.tensor(1.0)
    return result


def everywhere() -> list[str]:
    """All attention and MLP layers of the dense model."""
    parts = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
    return [f"blocks.{number}.{part}" for number in range(7) for part in parts]


def with_lora(model: Any, weights: dict[str, Tensor], strength: float = 0.8) -> Any:
    """What ComfyUI's LoraLoaderModelOnly does."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, dict(weights), strength, 0)[0]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def check_identity_layout_equals_dense_with_and_without_lora() -> None:
    dense = dense_model()
    sparse = identity_model(dense)
    plain = evaluate(dense, *INPUT)
    close(evaluate(sparse, *INPUT, sparse_grid=FULL), plain)
    weights = lora(everywhere())
    changed = evaluate(with_lora(dense, weights), *INPUT)
    assert (changed - plain).norm() > 0.05 * plain.norm()
    close(evaluate(with_lora(sparse, weights), *INPUT, sparse_grid=FULL), changed)


def check_lora_on_the_dense_model_is_carried_by_convert_and_not_baked() -> None:
    dense = dense_model()
    weights = lora(everywhere())
    expected = evaluate(with_lora(dense, weights), *INPUT)
    sparse = identity_model(with_lora(dense, weights))
    assert sparse.patches
    stored = sparse.model.sparsedit_origin[0].read().state
    assert torch.equal(stored["blocks.0.attn.q.weight"], dense_state(0)["blocks.0.attn.qkv.weight"][: files.WIDTH])
    close(evaluate(sparse, *INPUT, sparse_grid=FULL), expected)


def dense_state(seed: int) -> dict[str, Tensor]:
    return files.random_model(files.config(), seed).state_dict()


def check_lora_is_carried_by_patch() -> None:
    dense = dense_model()
    convert = pack("sparsedit_core.convert").convert_dense
    core = convert(files.random_model(files.config()), files.IDENTITY, fusion="identity")
    name = files.save(core, "identity.safetensors")
    weights = lora(everywhere())
    expected = evaluate(with_lora(dense, weights), *INPUT)
    before = run("SparseDiTPatchModel", model=with_lora(dense, weights), checkpoint=name)
    after = with_lora(run("SparseDiTPatchModel", model=dense, checkpoint=name), weights)
    for patched in (before, after):
        close(evaluate(patched, *INPUT, sparse_grid=FULL), expected)


def check_row_patches_of_every_kind() -> None:
    """Parts of qkv by offset (as diffusers LoRAs name q, k and v), plain differences, biases, LoHa, LoKr and DoRA."""
    width = files.WIDTH
    dense = dense_model()
    sparse = identity_model(dense)
    patches = {
        "k by offset": {(qkv(0), (0, width, width)): ("diff", (random(width, width),))},
        "across q and k": {(qkv(1), (0, width // 2, width)): lora_adapter(width)},
        "one-tuple": {qkv(2): (random(3 * width, width),)},
        "bias": {qkv(3, "bias"): ("diff", (random(3 * width),))},
        "loha": {qkv(4): adapter("loha", *loha_weights(width))},
        "lokr": {qkv(5): adapter("lokr", random(3, 3), random(width, width // 3), *[None] * 7)},
        "dora": {qkv(0): lora_adapter(3 * width, random(3 * width, 1))},
        "merge": {qkv(1): [(random(3 * width, width), lambda weight, **_: weight)]},
    }  # fmt: skip
    plain = evaluate(dense, *INPUT)
    for name, patch in patches.items():
        ours, theirs = sparse.clone(), dense.clone()
        assert set(ours.add_patches(patch, 0.7, 0.9)) == set(theirs.add_patches(patch, 0.7, 0.9)), name
        expected = evaluate(theirs, *INPUT)
        assert not torch.equal(expected, plain), name
        close(evaluate(ours, *INPUT, sparse_grid=FULL), expected)


def qkv(block: int, kind: str = "weight") -> str:
    return f"diffusion_model.blocks.{block}.attn.qkv.{kind}"


def random(*shape: int) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def adapter(kind: str, *weights: Any) -> Any:
    import comfy.weight_adapter

    return next(item for item in comfy.weight_adapter.adapters if item.name == kind)(set(), weights)


def loha_weights(width: int) -> list[Any]:
    return [random(3 * width, 2), random(2, width), 1.0, random(3 * width, 2), random(2, width), None, None, None]


def lora_adapter(rows: int, dora: Tensor | None = None) -> Any:
    return adapter("lora", random(rows, 2), random(2, files.WIDTH), 1.0, None, dora, None)


def check_poolingformer_keeps_v_and_reports_q_and_k_once() -> None:
    width = files.WIDTH
    dense = dense_model()
    sparse = run("SparseDiTConvert", model=dense, layout=files.SPARSE, sparse_side=4, fusion="official")
    patch = {qkv(0): ("diff", (random(3 * width, width),))}
    lines = warnings_of(lambda: accept(sparse, patch))
    assert len([line for line in lines if "Poolingformer" in line]) == 1
    assert sparse.patches.keys() == {"diffusion_model.blocks.0.attn.v.weight"}
    clone = dense.clone()
    only_q = {(qkv(0), (0, 0, width)): ("diff", (random(width, width),))}
    assert clone.add_patches(only_q)
    assert not sparse.clone().add_patches(only_q)


def accept(model: Any, patch: dict[Any, Any]) -> None:
    assert model.add_patches(patch) == list(patch)


def check_rows_that_cannot_be_cut_are_reported() -> None:
    dense = dense_model()
    sparse = identity_model(dense)
    column_dora = {qkv(0): lora_adapter(3 * files.WIDTH, random(1, files.WIDTH))}
    lines = warnings_of(lambda: refuse(sparse, column_dora))
    assert any("per column" in line for line in lines)
    assert not sparse.patches


def refuse(model: Any, patch: dict[Any, Any]) -> None:
    assert model.add_patches(patch) == []


def warnings_of(call: Callable[[], object]) -> list[str]:
    """The warnings the pack logs meanwhile."""
    return [record.getMessage() for record in logged(call, logging.WARNING)]


def logged(call: Callable[[], object], level: int) -> list[logging.LogRecord]:
    """What the pack logs meanwhile, at this level and above."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("sparsedit")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        call()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    return records


def check_core_finds_every_name_and_drops_none() -> None:
    import comfy.lora

    sparse = run("SparseDiTConvert", model=dense_model(), layout=files.SPARSE, sparse_side=4, fusion="official")
    names = comfy.lora.model_lora_keys_unet(sparse.model, {})
    assert "lora_unet_blocks_0_attn_qkv" in names
    assert "diffusion_model.blocks.1.attn.q" in names
    assert "diffusion_model.blocks.0.attn.qkv.weight" not in sparse.model_state_dict()
    assert all(value.device.type != "meta" for value in sparse.model_state_dict("diffusion_model.").values())
    sparse.get_key_patches()
    plain = dense_model()
    assert sparse.model_size() < 1.3 * plain.model_size()


def check_lora_changes_a_run_and_the_model_without_it_stays_bit_equal() -> None:
    sparse = run("SparseDiTConvert", model=dense_model(), layout=files.SPARSE, sparse_side=4, fusion="official")
    before = sample(sparse)
    changed = sample(with_lora(sparse, lora(everywhere())))
    assert (changed - before).norm() > 0.01 * before.norm()
    assert torch.equal(sample(sparse), before)


def check_loras_switched_on_by_conditioning() -> None:
    """ComfyUI's LoRA hooks on both conditionings do what the LoRA on the model does."""
    import comfy.hooks
    import comfy.lora

    sparse = identity_model(dense_model())
    weights = lora(everywhere())
    expected = sample(with_lora(sparse, weights))
    plain = sample(sparse)
    hooks = comfy.hooks.create_hook_lora(dict(weights), 0.8, 0.0)
    hooked = sample(sparse, hooks=hooks)
    torch.testing.assert_close(hooked, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(hooked, plain, rtol=1e-2, atol=1e-2)
    assert torch.equal(sample(sparse), plain)


def check_streamed_patches_are_the_same() -> None:
    """Dynamic VRAM builds patches anew from their weights before it applies them."""
    import comfy.lora

    if not hasattr(comfy.lora, "prefetch_prepared_value"):
        raise Skip("this ComfyUI has no dynamic VRAM")
    sparse = identity_model(dense_model())
    changed = with_lora(sparse, lora(everywhere()))
    expected = evaluate(changed, *INPUT, sparse_grid=FULL)
    streamed = sparse.clone()
    for key, patches in changed.patches.items():
        streamed.patches[key] = [
            (strength, comfy.lora.prefetch_prepared_value(patch, [0], None, None, False), *rest)
            for strength, patch, *rest in patches
        ]
    assert any(patch[1] is not old[1] for key, (patch,) in streamed.patches.items() for old in changed.patches[key])
    streamed.patches_uuid = object()
    assert torch.equal(evaluate(streamed, *INPUT, sparse_grid=FULL), expected)


def check_clones_split_too() -> None:
    """Also the clone that ComfyUI makes for compiling, and the clone of a clone."""
    weights = lora(["blocks.0.attn.qkv", "blocks.1.attn.qkv"])
    sparse = identity_model(dense_model())
    expected = evaluate(with_lora(sparse, weights), *INPUT, sparse_grid=FULL)
    for clone in (sparse.clone().clone(), without_dynamic(sparse)):
        close(evaluate(with_lora(clone, weights), *INPUT, sparse_grid=FULL), expected)


def without_dynamic(model: Any) -> Any:
    import inspect

    options = {"disable_dynamic": True} if "disable_dynamic" in inspect.signature(model.clone).parameters else {}
    return model.clone(**options)
