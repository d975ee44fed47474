"""What PixArt nodes refuse: one sentence each, and the MODEL stays as it was."""

from __future__ import annotations

from typing import Any

import files
import torch
from comfy_pack import model_folder, node, pack, run
from load_checks import error_of
from pixart import SPARSE, load, stock
from pixart_stock_checks import convert, patch


def check_quantised_weights_are_refused() -> None:
    class Packed(torch.nn.Parameter):
        """As packs with own weight formats have."""

    model = stock()
    layer = model.model.diffusion_model.blocks[1].mlp.fc1
    layer.weight = Packed(layer.weight.data)
    message = error_of(lambda: convert(model))
    assert "quantised" in message
    assert "\n" not in message


def foreign() -> list[Any]:
    """MODELs of FLUX and SDXL, without their networks."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    found = []
    for config_class, model_class in (
        (comfy.supported_models.Flux, comfy.model_base.Flux),
        (comfy.supported_models.SDXL, comfy.model_base.SDXL),
    ):
        settings = config_class({"disable_unet_model_creation": True})
        settings.set_inference_dtype(torch.float32, None)
        cpu = torch.device("cpu")
        found.append(comfy.model_patcher.ModelPatcher(model_class(settings), cpu, cpu))
    return found


def check_models_of_other_kinds_are_refused() -> None:
    load(SPARSE, "sparse.safetensors")
    for model in foreign():
        name = type(model.model).__name__
        for call in (
            lambda model=model: patch(model),
            lambda model=model: convert(model),
            lambda model=model: run("SparseDiTApplySchedule", model=model),
            lambda model=model: run("SparseDiTGuidance", model=model, channels=3),
        ):
            message = error_of(call)
            assert f"the MODEL is a {name}, expected" in message
            assert "\n" not in message
        assert not model.patches
        assert not model.wrappers
        assert not model.object_patches


def check_a_stock_model_alone_is_told_what_to_do() -> None:
    model = stock()
    for name, inputs in (
        ("SparseDiTApplySchedule", {}),
        ("SparseDiTGuidance", {"channels": 3}),
        ("SparseDiTSaveCheckpoint", {"filename_prefix": "x", "folder": "output", "dtype": "default"}),
        ("SparseDiTReport", {"latent": {}}),
    ):
        message = error_of(lambda name=name, inputs=inputs: run(name, model=model, **inputs))
        assert "PixArt" in message
        assert "SparseDiT" in message
        assert "\n" not in message


def check_families_and_shapes_that_do_not_fit() -> None:
    load(SPARSE, "sparse.safetensors")
    files.save(files.random_model(files.config(files.SPARSE)), "dit.safetensors")
    files.save(files.random_model(files.config()), "dense_dit.safetensors")
    dit = run("SparseDiTLoadCheckpoint", checkpoint="dense_dit.safetensors", weight_dtype="fp32")
    for pixart in (stock(), load()):
        assert "is a DiT but the model" in error_of(lambda model=pixart: patch(model, "dit.safetensors"))
    assert "is a PixArt but the model" in error_of(lambda: patch(dit))
    assert "is a dense PixArt" in error_of(lambda: patch(stock(), "pixart.safetensors"))
    load(SPARSE, "wide.safetensors", caption_channels=24)
    assert "caption_channels 24 instead of 20" in error_of(lambda: patch(stock(), "wide.safetensors"))
    load(SPARSE, "micro.safetensors", micro_conditioning=True)
    assert "micro_conditioning True instead of False" in error_of(lambda: patch(stock(), "micro.safetensors"))
    message = error_of(lambda: convert(stock(), "1+1x[1,1,1,1]+1"))
    assert "6 blocks but the model has 7" in message
    replaced = stock()
    replaced.add_object_patch("diffusion_model.blocks.2.forward", lambda x: x)
    assert "right after the loader" in error_of(lambda: patch(replaced))
    assert "already" in error_of(lambda: convert(load(SPARSE, "sparse.safetensors")))
    label = node("SparseDiTClassLabel")
    assert "CLIP Text Encode" in error_of(lambda: label.execute(classes="1", model=load()))


def check_our_sparse_file_in_comfyuis_own_loaders_is_an_error() -> None:
    """At the one width that they know, where such blocks pass for a dense PixArt's and the picture would be noise.

    Its keys are what they stumble over: without our prefix they take it.
    """
    import comfy.sd
    from comfy.model_detection import model_config_from_unet
    from safetensors.torch import load_file

    config = full_width("0+1x[1,0,1,0]+0")
    shapes = pack("sparsedit_core.pixart").PixArt(config, device="meta").state_dict()
    state = {key: torch.zeros(value.shape, dtype=torch.bfloat16) for key, value in shapes.items()}
    checkpoints, path = pack("sparsedit_core.checkpoint"), model_folder() / "own.safetensors"
    checkpoints.save_checkpoint(path, checkpoints.Checkpoint(config=config, state=state))
    for loader in (comfy.sd.load_diffusion_model, comfy.sd.load_checkpoint_guess_config):
        message = ""
        try:
            loader(str(path))
        except RuntimeError as error:
            message = str(error)
        assert "Could not detect model type" in message, f"{loader.__name__}: {message or 'it takes the file'}"
    bare = {key.removeprefix("sparsedit."): value for key, value in load_file(path).items()}
    assert bare.keys() == state.keys()
    assert model_config_from_unet(bare, "") is not None, "ComfyUI would not take it anyway: this proves nothing"
    files.remove(path.name)


def full_width(layout: str) -> Any:
    """Two blocks of PixArt-XL's width."""
    parsed = pack("sparsedit_core.layout").SegmentLayout.parse(layout)
    return pack("sparsedit_core.config").PixArtConfig(depth=2, layout=parsed)
