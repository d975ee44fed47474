"""The model inside ComfyUI's machinery: sizes, batches, offloading, dynamic VRAM, cancelling, wrappers, pixels."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import files
import torch
from comfy_pack import Skip, pack, run
from lora_checks import everywhere, lora, with_lora
from node_checks import load
from sampling import evaluate, sample

X, T, Y = torch.randn(2, 4, 16, 16), torch.tensor([650.0, 10.0]), torch.tensor([2, 7])


def sparse_model(**changes: Any) -> Any:
    return load(files.SPARSE, "sparse.safetensors", **changes)


def check_noise_schedule_and_latents() -> None:
    sampling = sparse_model().get_model_object("model_sampling")
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    alphas = torch.cumprod(1 - betas, 0)
    torch.testing.assert_close(sampling.sigmas.double(), ((1 - alphas) / alphas).sqrt(), rtol=1e-5, atol=1e-7)
    assert float(sampling.timestep(sampling.sigma_max)) == 999
    assert sparse_model().model.latent_format.scale_factor == 0.18215


def check_a_batch_equals_its_pictures() -> None:
    model = sparse_model()
    together = evaluate(model, X, T, Y)
    apart = torch.cat([evaluate(model, X[i : i + 1], T[i : i + 1], Y[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


def check_every_image_of_a_run_has_its_label() -> None:
    model = sparse_model()
    batch = sample(model, labels=(0, 3, 5), batch=3)
    same = sample(model, labels=(0, 0, 0), batch=3)
    torch.testing.assert_close(batch[0], same[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(batch[1], same[1], rtol=1e-3, atol=1e-3)


def check_odd_and_wide_sizes() -> None:
    model = sparse_model()
    for size in ((33, 25), (12, 40), (5, 3), (16, 16)):
        out = sample(model, size=size, steps=2)
        assert out.shape == (1, 4, *size)
        assert torch.isfinite(out).all()


def check_sizes_leave_no_trace() -> None:
    """A, B, A: bit equal over sizes and models."""
    sparse, dense = sparse_model(), load()
    first = sample(sparse)
    sample(sparse, size=(12, 20), batch=2)
    sample(dense)
    assert torch.equal(sample(sparse), first)


def check_lowvram_equals_full() -> None:
    import comfy.model_management as mm

    model = with_lora(sparse_model(), lora(everywhere()))
    full = evaluate(model, X, T, Y)
    mm.unload_all_models()
    model.patch_model(torch.device("cpu"), lowvram_model_memory=64)
    try:
        assert model.lowvram_patch_counter() > 0
        with torch.no_grad():
            low = model.model.diffusion_model(X, T, transformer_options={}, y=Y)
    finally:
        model.unpatch_model(torch.device("cpu"))
    torch.testing.assert_close(low, full, rtol=1e-6, atol=1e-6)


@contextmanager
def dynamic_vram() -> Iterator[None]:
    """ComfyUI's switch that makes layers wait for their weights; there is no GPU to really stream them from."""
    import comfy

    if not hasattr(getattr(comfy, "memory_management", None), "aimdo_enabled"):
        raise Skip("this ComfyUI has no dynamic VRAM")
    comfy.memory_management.aimdo_enabled = True
    try:
        yield
    finally:
        comfy.memory_management.aimdo_enabled = False


def check_dynamic_vram_builds_and_computes_the_same() -> None:
    expected = evaluate(sparse_model(), X, T, Y)
    with dynamic_vram():
        built = load(files.SPARSE, "sparse.safetensors")
        out = evaluate(built, X, T, Y)
    assert torch.equal(out, expected)


@contextmanager
def streaming_patcher() -> Iterator[type]:
    """A patcher that calls itself dynamic, as ComfyUI's does on a GPU."""
    import comfy.model_patcher as mp

    if "disable_dynamic" not in inspect.signature(mp.ModelPatcher.clone).parameters:
        raise Skip("clone() of this ComfyUI has no disable_dynamic")

    class Streaming(mp.ModelPatcher):
        """Dynamic in name."""

        def is_dynamic(self) -> bool:
            return True

    kept = mp.CoreModelPatcher
    mp.CoreModelPatcher = Streaming
    try:
        yield Streaming
    finally:
        mp.CoreModelPatcher = kept


def check_rebuilt_clones_of_loaded_converted_and_patched_models() -> None:
    """What ComfyUI does before it compiles under dynamic VRAM; LoRAs and schedule must come along."""
    weights = lora(everywhere())
    sparse_model()
    with streaming_patcher() as streaming:
        dense = with_lora(load(), weights)
        models = [
            dense,
            run("SparseDiTConvert", model=dense, layout=files.SPARSE, sparse_side=4, fusion="official"),
            run("SparseDiTPatchModel", model=dense, checkpoint="sparse.safetensors"),
        ]
        for model in models:
            assert isinstance(model, streaming)
            rebuilt = model.clone(disable_dynamic=True)
            assert not rebuilt.is_dynamic()
            assert rebuilt.model is not model.model
            assert torch.equal(evaluate(rebuilt, X, T, Y), evaluate(model, X, T, Y))
            assert torch.equal(sample(rebuilt), sample(model))
            again = with_lora(rebuilt, weights)
            assert again.patches.keys() == model.patches.keys()


def check_cancelling_leaves_nothing_behind() -> None:
    import comfy.model_management as mm
    from comfy.patcher_extension import WrappersMP

    model = sparse_model()
    expected = sample(model, steps=5)
    for stop in (1, 3, 5):
        calls: list[int] = []

        def interrupt(executor: Any, *args: Any, calls: list[int] = calls, stop: int = stop, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == stop:
                mm.interrupt_current_processing()
            return executor(*args, **kwargs)

        cancelled = model.clone()
        cancelled.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "interrupt", interrupt)
        try:
            # ComfyUI looks at the flag in its progress callback (the newer one in every layer as well)
            sample(cancelled, steps=5, callback=lambda *_: mm.throw_exception_if_processing_interrupted())
        except mm.InterruptProcessingException:
            pass
        else:
            raise AssertionError("the run was not cancelled")
        finally:
            mm.interrupt_current_processing(False)
        assert torch.equal(sample(model, steps=5), expected)


def check_wrappers_of_other_nodes_run_once_per_evaluation() -> None:
    from comfy.patcher_extension import WrappersMP

    calls: list[int] = []

    def count(executor: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return executor(*args, **kwargs)

    model = sparse_model()
    plain = sample(model, steps=3)
    wrapped = model.clone()
    wrapped.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", count)
    assert torch.equal(sample(wrapped, steps=3), plain)
    assert len(calls) == 3


def check_an_attention_of_another_node_is_used() -> None:
    """As nodes for other attention kernels do it."""
    calls: list[int] = []

    def other(original: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    model = sparse_model()
    plain = sample(model, steps=2)
    replaced = model.clone()
    replaced.model_options["transformer_options"]["optimized_attention_override"] = other
    assert torch.equal(sample(replaced, steps=2), plain)
    attention_blocks = 6  # of seven, one is a Poolingformer
    assert len(calls) == 2 * attention_blocks
    assert torch.equal(sample(model, steps=2), plain)
    assert len(calls) == 2 * attention_blocks


def check_pixels_from_noise_to_image() -> None:
    """A flow model on RGB pixels with the VAE "pixel_space", as in the bundled quickstart."""
    import comfy.sd

    model = sparse_model(in_channels=3, learn_sigma=False, prediction="flow")
    info = model.model.sparsedit
    assert (info.latent.kind, info.prediction) == ("pixel", "flow")
    sampling = model.get_model_object("model_sampling")
    assert float(sampling.timestep(sampling.sigma_max)) == 1000
    latent = sample(model, size=(32, 48), scheduler="simple", cfg=1.0, steps=5)
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    image = vae.decode(latent)
    assert image.shape == (1, 32, 48, 3)
    flow = pack("sparsedit_core.diffusion").sample_flow
    core = files.random_model(files.config(files.SPARSE, in_channels=3, learn_sigma=False))
    import comfy.sample

    noise = comfy.sample.prepare_noise(torch.zeros(1, 3, 32, 48), 5)
    expected = flow(lambda x, t: core(x, t, torch.tensor([1])), noise, 5) / info.latent.scale
    torch.testing.assert_close(latent, expected, rtol=1e-3, atol=1e-3)
