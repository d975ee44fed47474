"""The token map node: the run's own grids over a picture, or over the colours of ComfyUI's latent preview."""

from __future__ import annotations

from typing import Any

import torch
from comfy_pack import node, pack
from load_checks import error_of
from sampling import sample
from scheduled import apply, load, load_dense, records, schedule


def token_map(model: Any, latent: Any, **inputs: Any) -> Any:
    """The picture of the node."""
    return node("SparseDiTTokenMap").execute(model=model, latent={"samples": latent}, **inputs).result[0]


def check_the_grids_of_the_run_are_drawn_on_the_picture() -> None:
    model = apply(load(), schedule())
    latent = sample(model, (1, 2), batch=2, sampler="heun", steps=4)
    image = torch.rand(2, 128, 128, 4)
    core, show = pack("sparsedit_core.token_map"), pack("nodes.show")
    for style in core.STYLES:
        wanted = core.draw_token_map(records(model)[-1], image[..., :3].permute(0, 3, 1, 2), (1, 0.5, 0), style=style)
        drawn = token_map(model, latent, image=image, times="1, .5, 0", style=style)
        assert torch.equal(drawn, show.to_image(wanted))


def check_the_last_run_of_the_model_counts() -> None:
    model = apply(load(), schedule())
    image = torch.rand(1, 64, 64, 3)
    first = token_map(model, sample(model, steps=4), image=image)
    assert not torch.equal(token_map(model, sample(model, steps=2), image=image), first)


def check_without_a_picture_it_has_the_colours_of_the_samplers_preview() -> None:
    import latent_preview

    for flow in (False, True):
        model = apply(load(flow=flow), schedule())
        latent = sample(model, steps=2)
        form = model.model.latent_format
        factors, bias = form.latent_rgb_factors, getattr(form, "latent_rgb_factors_bias", None)
        previewer = latent_preview.Latent2RGBPreviewer(factors, bias)
        preview = previewer.decode_latent_to_preview(form.process_in(latent))  # what a sampler calls it with
        ours = pack("nodes.token_map")._preview(model, latent)
        levels = torch.frombuffer(bytearray(preview.tobytes()), dtype=torch.uint8).view(*latent.shape[-2:], 3)
        assert (ours[0].permute(1, 2, 0) * 255 - levels.float()).abs().max() <= 1.01
        assert token_map(model, latent).ndim == 4
    torch.testing.assert_close(ours, (latent / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)  # pixels are themselves


def check_dense_models_and_what_cannot_be_shown() -> None:
    model = load_dense()
    latent = sample(model, steps=2)
    assert token_map(model, latent, image=torch.rand(1, 64, 64, 3)).shape[0] == 1
    assert "connect the MODEL" in error_of(lambda: token_map(apply(load(), schedule()), latent))
    check = node("SparseDiTTokenMap").validate_inputs
    assert check(times="1, 0") is True
    assert "'two' is no time" in check(times="1, two")
