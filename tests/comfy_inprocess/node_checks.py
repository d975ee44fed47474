"""Patch, Convert and Save: what they keep, what they refuse, and that nothing of the input changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import files
import torch
from comfy_pack import node, pack, run
from load_checks import error_of
from sampling import evaluate, sample

X, T, Y = torch.randn(2, 4, 16, 16), torch.tensor([650.0, 10.0]), torch.tensor([2, 7])


def load(layout: str | None = None, name: str = "model.safetensors", **changes: Any) -> Any:
    description = {key: changes.pop(key) for key in ("prediction", "schedule") if key in changes}
    file = files.save(files.random_model(files.config(layout, **changes)), name, **description)
    return run("SparseDiTLoadCheckpoint", checkpoint=file, weight_dtype="fp32")


def check_convert_equals_the_core() -> None:
    dense = load()
    before = evaluate(dense, X, T, Y)
    for fusion in ("official", "identity"):
        sparse = run("SparseDiTConvert", model=dense, layout=files.SPARSE, sparse_side=4, fusion=fusion)
        core = pack("sparsedit_core.convert").convert_dense(
            files.random_model(files.config()), files.SPARSE, sparse_side=4, fusion=fusion
        )
        with torch.no_grad():
            expected = core(X, T, Y)[:, :4]
        torch.testing.assert_close(evaluate(sparse, X, T, Y), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(evaluate(dense, X, T, Y), before)


def check_layouts_are_refused_early() -> None:
    validate = node("SparseDiTConvert").validate_inputs
    assert validate(layout=files.SPARSE) is True
    assert validate(layout=None) is True
    assert "cannot read" in validate(layout="2+4x[1,3,1]+2")
    dense = load()
    message = error_of(lambda: convert(dense, "1+1x[1,1,1,1]+1"))
    assert "7" in message
    assert "6" in message
    assert "already" in error_of(lambda: convert(load(files.SPARSE, "sparse.safetensors"), files.SPARSE))


def convert(model: Any, layout: str) -> Any:
    return run("SparseDiTConvert", model=model, layout=layout, sparse_side=4, fusion="official")


def check_patch_uses_the_checkpoint_and_keeps_settings() -> None:
    from comfy.patcher_extension import WrappersMP

    dense = load().clone()
    sparse = load(files.SPARSE, "sparse.safetensors")
    calls: list[int] = []
    dense.set_model_sampler_post_cfg_function(lambda args: calls.append(1) or args["denoised"])
    dense.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", lambda executor, *a, **k: executor(*a, **k))
    dense.add_object_patch("model_sampling", dense.get_model_object("model_sampling"))
    patched = run("SparseDiTPatchModel", model=dense, checkpoint="sparse.safetensors")
    assert torch.equal(evaluate(patched, X, T, Y), evaluate(sparse, X, T, Y))
    assert torch.equal(sample(patched), sample(sparse))
    assert len(calls) == 4
    assert "other" in patched.wrappers[WrappersMP.DIFFUSION_MODEL]
    assert patched.object_patches.keys() == {"model_sampling"}
    assert patched.model is not dense.model
    assert dense.model.sparsedit.layout is None


def check_patched_then_original_equals_never_patched() -> None:
    dense = load()
    load(files.SPARSE, "sparse.safetensors")
    before = sample(dense)
    first = sample(run("SparseDiTPatchModel", model=dense, checkpoint="sparse.safetensors"))
    assert torch.equal(sample(dense), before)
    assert torch.equal(sample(run("SparseDiTPatchModel", model=dense, checkpoint="sparse.safetensors")), first)
    assert not torch.equal(first, before)


def check_official_heads_come_from_the_dense_model() -> None:
    dense = load()
    core = files.random_model(files.config(files.SPARSE))
    state = pack("sparsedit_core.checkpoint").flat_to_sparsedit(core.state_dict(), core.layout)
    files.save_raw(state, "official.pt")
    patched = run("SparseDiTPatchModel", model=dense, checkpoint="official.pt", sparse_side=3)
    with torch.no_grad():
        expected = core(X, T, Y)[:, :4]
    torch.testing.assert_close(evaluate(patched, X, T, Y), expected, rtol=1e-5, atol=1e-5)


def check_patch_refuses_what_does_not_fit() -> None:
    dense = load()
    name = files.save(files.random_model(files.config()), "other_dense.safetensors")
    assert "is a dense DiT" in error_of(lambda: patch(dense, name))
    files.save(files.random_model(files.config(files.SPARSE, num_classes=3)), "few.safetensors")
    message = error_of(lambda: patch(dense, "few.safetensors"))
    assert "num_classes 3 instead of 7" in message
    files.save(files.random_model(files.config(files.SPARSE, num_heads=4)), "heads.safetensors")
    assert "num_heads 4 instead of 3" in error_of(lambda: patch(dense, "heads.safetensors"))
    sparse = load(files.SPARSE, "sparse.safetensors")
    assert "dense" in error_of(lambda: patch(sparse, "sparse.safetensors"))
    replaced = dense.clone()
    replaced.add_object_patch("diffusion_model.blocks.0.forward", lambda x: x)
    assert "right after the loader" in error_of(lambda: patch(replaced, "sparse.safetensors"))
    moved = dense.clone()
    moved.load_device = torch.device("meta")
    assert "moved to the device meta" in error_of(lambda: patch(moved, "sparse.safetensors"))


def patch(model: Any, checkpoint: str) -> Any:
    return run("SparseDiTPatchModel", model=model, checkpoint=checkpoint)


def check_foreign_models_are_refused_by_every_node() -> None:
    import comfy.model_patcher

    class Foreign(torch.nn.Module):
        """Some other network."""

    foreign = comfy.model_patcher.ModelPatcher(Foreign(), torch.device("cpu"), torch.device("cpu"))
    load(files.SPARSE, "sparse.safetensors")
    calls = (
        lambda: patch(foreign, "sparse.safetensors"),
        lambda: convert(foreign, files.SPARSE),
        lambda: save(foreign),
    )
    for call in calls:
        message = error_of(call)
        assert "Foreign" in message
        assert "SparseDiT Load Checkpoint" in message
        assert "\n" not in message


def save(model: Any, prefix: str = "saved/tiny", folder: str = "output", dtype: str = "default") -> str:
    return run("SparseDiTSaveCheckpoint", model=model, filename_prefix=prefix, folder=folder, dtype=dtype)


def check_save_and_load_again() -> None:
    schedule = pack("sparsedit_core.schedule").PruningSchedule(rate_noise=0.8, rate_clean=0.5)
    sparse = load(files.SPARSE, "sparse.safetensors", schedule=schedule)
    paths = [save(sparse, "again/tiny", "models/diffusion_models") for _ in range(2)]
    assert paths[0] != paths[1]
    name = str(Path(paths[1]).relative_to(files.model_folder()))
    again = run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype="fp32")
    assert torch.equal(evaluate(again, X, T, Y), evaluate(sparse, X, T, Y))
    assert again.model.sparsedit.schedule == schedule
    assert again.model.sparsedit.config == sparse.model.sparsedit.config
    half = save(sparse, "half", "output", "bf16")
    assert Path(half).stat().st_size < 0.7 * Path(paths[0]).stat().st_size
    assert not list(Path(half).parent.glob(".*.tmp"))


def check_save_computes_loras_in_and_leaves_the_model_alone() -> None:
    from lora_checks import everywhere, lora, with_lora

    sparse = with_lora(load(files.SPARSE, "sparse.safetensors"), lora(everywhere()))
    before = evaluate(sparse, X, T, Y)
    path = save(sparse, "baked", "models/diffusion_models")
    assert torch.equal(evaluate(sparse, X, T, Y), before)
    again = run("SparseDiTLoadCheckpoint", checkpoint=Path(path).name, weight_dtype="fp32")
    assert not again.patches
    torch.testing.assert_close(evaluate(again, X, T, Y), before, rtol=1e-5, atol=1e-5)


def check_save_stays_in_its_folder() -> None:
    validate = node("SparseDiTSaveCheckpoint").validate_inputs
    assert validate(filename_prefix="a/b") is True
    for prefix in ("../up", "/elsewhere/x", "a/../../b", "folder/"):
        assert "filename_prefix" in validate(filename_prefix=prefix)
        assert "filename_prefix" in error_of(lambda prefix=prefix: save(load(), prefix))


def check_every_widget_and_output_is_explained() -> None:
    for item in pack("nodes").NODES:
        schema = item.define_schema()
        assert schema.node_id.startswith("SparseDiT")
        assert schema.description
        for part in [*schema.inputs, *schema.outputs]:
            assert part.tooltip, (schema.node_id, part)
