"""Every file layout loads, in every weight type, and computes what the core computes."""

from __future__ import annotations

from typing import Any

import files
import torch
from comfy_pack import node, pack, run
from sampling import evaluate


def core_output(model: Any, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x, t, y)[:, : model.config.in_channels]


def check_own_format_equals_the_core() -> None:
    for layout in (None, files.SPARSE):
        model = files.random_model(files.config(layout))
        name = files.save(model, "own.safetensors")
        loaded = run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype="fp32")
        x, t, y = torch.randn(3, 4, 16, 16), torch.tensor([999.0, 500.0, 0.0]), torch.tensor([0, 6, 7])
        ours = evaluate(loaded, x, t, y)
        torch.testing.assert_close(ours, core_output(model, x, t, y), rtol=1e-5, atol=1e-5)
        assert loaded.model.sparsedit.format == "sparsedit_core"


def check_official_dit_and_sparsedit_files() -> None:
    formats = pack("sparsedit_core.checkpoint")
    x, t, y = torch.randn(2, 4, 16, 16), torch.tensor([700.0, 20.0]), torch.tensor([1, 7])
    for layout, family in ((None, "dit"), (files.SPARSE, "sparsedit")):
        model = files.random_model(files.config(layout))
        state = model.state_dict()
        if model.layout is not None:
            state = formats.flat_to_sparsedit(state, model.layout)
        args = {"num_heads": files.HEADS, "semantic_size": 3, "num_classes": files.CLASSES}
        name = files.save_raw(state, "official.pt", args=args)
        loaded = run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype="fp32")
        assert loaded.model.sparsedit.format == family
        torch.testing.assert_close(evaluate(loaded, x, t, y), core_output(model, x, t, y), rtol=1e-5, atol=1e-5)


def check_heads_and_side_from_the_widgets() -> None:
    model = files.random_model(files.config(files.SPARSE))
    state = pack("sparsedit_core.checkpoint").flat_to_sparsedit(model.state_dict(), model.layout)
    name = files.save_raw(state, "bare.pt")
    inputs = {"checkpoint": name, "weight_dtype": "fp32"}
    message = error_of(lambda: run("SparseDiTLoadCheckpoint", **inputs))
    assert "num_heads" in message
    loaded = run("SparseDiTLoadCheckpoint", **inputs, num_heads=files.HEADS, sparse_side=3)
    x, t, y = torch.randn(1, 4, 16, 16), torch.tensor([700.0]), torch.tensor([1])
    torch.testing.assert_close(evaluate(loaded, x, t, y), core_output(model, x, t, y), rtol=1e-5, atol=1e-5)


def check_every_weight_type_runs() -> None:
    model = files.random_model(files.config(files.SPARSE))
    name = files.save(model, "types.safetensors")
    x, t, y = torch.randn(1, 4, 16, 16), torch.tensor([300.0]), torch.tensor([2])
    exact = core_output(model, x, t, y)
    tolerance = {"default": 1e-5, "fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2, "fp8_e4m3fn": 0.5}
    for dtype, allowed in tolerance.items():
        loaded = run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype=dtype)
        out = evaluate(loaded, x, t, y)
        assert torch.isfinite(out).all()
        assert (out - exact).norm() <= allowed * exact.norm(), (dtype, float((out - exact).norm() / exact.norm()))
    stored = run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype="fp8_e4m3fn").model.diffusion_model
    assert stored.blocks[0].attn.v.weight.dtype == torch.float8_e4m3fn
    assert stored.y_embedder.embedding_table.weight.dtype == torch.float8_e4m3fn
    assert stored.pos_embed.dtype == torch.float32


def check_bundled_models_are_offered() -> None:
    options = node("SparseDiTLoadCheckpoint").define_schema().inputs[0].options
    assert options[:2] == ["bundled: sparsedit", "bundled: dense"]


def check_same_name_in_both_folders() -> None:
    shapes = pack("nodes.files")
    wide, narrow = files.config(), files.config(num_classes=3)
    name = files.save(files.random_model(wide), "twin.safetensors")
    pack("sparsedit_core.checkpoint").save_checkpoint(
        files.model_folder("checkpoints") / name, files.random_model(narrow)
    )
    offered = [option for option in shapes.checkpoint_names() if "twin" in option]
    assert offered == [name, f"checkpoints: {name}"]
    loaded = [run("SparseDiTLoadCheckpoint", checkpoint=option, weight_dtype="fp32") for option in offered]
    assert [model.model.sparsedit.config.num_classes for model in loaded] == [7, 3]
    (files.model_folder("checkpoints") / name).unlink()


def check_missing_and_foreign_files_say_so() -> None:
    message = error_of(lambda: run("SparseDiTLoadCheckpoint", checkpoint="gone.pt", weight_dtype="fp32"))
    assert "gone.pt" in message
    assert "models/diffusion_models" in message
    for name in ("SparseDiTLoadCheckpoint", "SparseDiTPatchModel"):
        assert node(name).validate_inputs(checkpoint="gone.pt") == message
        assert node(name).validate_inputs(checkpoint=None) is True
    (files.model_folder() / "text.pt").write_text("not a checkpoint", encoding="utf-8")
    message = error_of(lambda: run("SparseDiTLoadCheckpoint", checkpoint="text.pt", weight_dtype="fp32"))
    assert "text.pt" in message
    assert "\n" not in message


def check_a_changed_file_is_loaded_again() -> None:
    name = files.save(files.random_model(files.config()), "stamp.safetensors")
    stamp = node("SparseDiTLoadCheckpoint").fingerprint_inputs(checkpoint=name)
    files.save(files.random_model(files.config(num_classes=3)), name)
    assert node("SparseDiTLoadCheckpoint").fingerprint_inputs(checkpoint=name) != stamp


def check_labels_outside_the_table_say_so() -> None:
    name = files.save(files.random_model(files.config()), "labels.safetensors")
    model = run("SparseDiTLoadCheckpoint", checkpoint=name, weight_dtype="fp32").model
    assert model.extra_conds()["y"].cond.tolist() == [7]
    assert model.extra_conds(class_label=torch.tensor([3, -1]))["y"].cond.tolist() == [3, 7]
    for wrong in (8, -2):
        assert "0..6" in error_of(lambda wrong=wrong: model.extra_conds(class_label=torch.tensor([wrong])))


def error_of(call: Any) -> str:
    """The message of the ``ValueError`` that the call must raise."""
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("no error was raised")
