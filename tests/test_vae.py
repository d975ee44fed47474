"""Autoencoders: every key layout gives diffusers' own numbers, offline; what is none is refused in one sentence."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from vae_files import FACTOR, original_state, save_vae, tiny_vae

from sparsedit_core import vae as module
from sparsedit_core.checkpoint import CheckpointError
from sparsedit_core.vae import load_autoencoder

LAYOUTS = ("diffusers", "older", "original", "checkpoint")


@pytest.fixture(scope="module")
def vae() -> Any:
    return tiny_vae()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_computes_what_diffusers_computes(layout: str, vae: Any, tmp_path: Path) -> None:
    loaded = load_autoencoder(save_vae(tmp_path / "vae.safetensors", vae, layout))
    assert (loaded.channels, loaded.factor, loaded.scale, loaded.shift) == (4, FACTOR, None, 0.0)
    images = pictures()
    expected = vae.encode(images).latent_dist
    assert torch.equal(loaded.encode(images), expected.mode())
    assert torch.equal(loaded.posterior(images)[1], expected.std)
    drawn = loaded.encode(images, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, expected.sample(torch.Generator().manual_seed(3)))
    assert not torch.equal(drawn, loaded.encode(images))
    assert torch.equal(loaded.decode(drawn), vae.decode(drawn).sample)


def test_the_original_layout_is_the_one_that_diffusers_knows(vae: Any) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    converted = convert_ldm_vae_checkpoint(original_state(vae), dict(vae.config))
    state = vae.state_dict()
    assert set(converted) == set(state)
    assert all(torch.equal(converted[key], state[key]) for key in state)


@pytest.mark.usefixtures("offline")
def test_a_folder_with_a_config(tmp_path: Path) -> None:
    narrow = tiny_vae(8, block_out_channels=(8, 12, 16), norm_num_groups=4, scaling_factor=0.3, shift_factor=0.1)
    narrow.save_pretrained(tmp_path / "vae")
    loaded = load_autoencoder(tmp_path / "vae")
    assert (loaded.channels, loaded.factor, loaded.scale, loaded.shift) == (8, FACTOR, 0.3, 0.1)
    assert torch.equal(loaded.encode(pictures()), narrow.encode(pictures()).latent_dist.mode())
    with pytest.raises(CheckpointError, match=r"width \[8, 12, 16\].*config.json"):
        load_autoencoder(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    "config",
    [
        {"use_quant_conv": False, "use_post_quant_conv": False},
        {"mid_block_add_attention": False},
        {"layers_per_block": 2, "block_out_channels": (32, 64, 32)},
    ],
)
def test_the_shape_is_read_off_the_tensors(config: dict[str, Any], tmp_path: Path) -> None:
    vae = tiny_vae(16, **config)
    for layout in LAYOUTS:
        loaded = load_autoencoder(save_vae(tmp_path / f"{layout}.safetensors", vae, layout))
        assert loaded.channels == 16
        assert torch.equal(loaded.encode(pictures()), vae.encode(pictures()).latent_dist.mode())


PUBLISHED = {  # shapes of Stable Diffusion 1 and 2 and XL, of SD 3 and FLUX, of latent-diffusion's kl-f4
    "sd": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4},
    "flux": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "kl-f4": {"block_out_channels": (128, 256, 512), "layers_per_block": 2, "latent_channels": 3},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_are_recognised(name: str) -> None:
    levels = len(PUBLISHED[name]["block_out_channels"])
    with torch.device("meta"):
        real = tiny_vae(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            **PUBLISHED[name],
        )
        state = module._to_diffusers(original_state(real), Path(name))
        again = type(real)(**module._derive_config(state, Path(name), grouped=True))
    told, expected = ({k: v for k, v in m.config.items() if not k.startswith("_")} for m in (again, real))
    assert told == expected
    assert {key: value.shape for key, value in state.items()} == {k: v.shape for k, v in again.state_dict().items()}


def test_other_precision(vae: Any, tmp_path: Path) -> None:
    loaded = load_autoencoder(save_vae(tmp_path / "vae.safetensors", vae), dtype=torch.bfloat16)
    latents = loaded.encode(pictures())
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents, vae.encode(pictures()).latent_dist.mode(), atol=0.05, rtol=0.05)


def test_what_is_no_autoencoder_is_refused(vae: Any, tmp_path: Path) -> None:
    file, good = tmp_path / "x.safetensors", vae.state_dict()

    def refused(state: dict[str, torch.Tensor], match: str, **keywords: Any) -> None:
        save_file({key: value.clone() for key, value in state.items()}, file)
        with pytest.raises(CheckpointError, match=match):
            load_autoencoder(file, **keywords)

    refused(good, "4 latent channels, expected 16", channels=16)
    refused({"blocks.0.attn.qkv.weight": torch.zeros(3)}, "no autoencoder.*begin blocks.0.attn")
    refused(good | {"encoder.conv_out.weight": torch.zeros(4, 64, 3, 3)}, "VQ autoencoder")
    refused(good | {"encoder.conv_in.weight": torch.zeros(32, 1, 3, 3)}, "from 1 to 3 channels")
    refused(good | {"encoder.conv_in.weight": torch.zeros(32, 3, 3, 3, 3)}, "no 2-D layer")
    refused({key: value for key, value in good.items() if "mid_block.resnets.1.conv2" not in key}, "Missing key")
    refused(good | {"encoder.mid.wavelet": torch.zeros(2)}, "Unexpected key.*wavelet")
    refused(good | {"quant_conv.bias": torch.zeros(9)}, "size mismatch for quant_conv.bias")
    older = {key.replace("to_q", "query"): value for key, value in good.items() if "encoder.mid_block" in key}
    refused(good | older, "two tensors")


def test_damaged_files_and_folders_are_refused(vae: Any, tmp_path: Path) -> None:
    file = save_vae(tmp_path / "vae.safetensors", vae)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"vae.safetensors.*truncated"):
        load_autoencoder(file)
    with pytest.raises(CheckpointError, match="there is no file"):
        load_autoencoder(tmp_path / "nothing.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(CheckpointError, match=r"no readable config\.json"):
        load_autoencoder(folder)
    (folder / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    with pytest.raises(CheckpointError, match="'VQModel', expected 'AutoencoderKL'"):
        load_autoencoder(folder)
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(CheckpointError, match=r"has no diffusion_pytorch_model\.safetensors"):
        load_autoencoder(folder)
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", "latents_mean": [0.0]}))
    with pytest.raises(CheckpointError, match="latents_mean"):
        load_autoencoder(folder)


def test_pictures_and_latents_of_a_wrong_shape_are_refused(vae: Any, tmp_path: Path) -> None:
    loaded = load_autoencoder(save_vae(tmp_path / "vae.safetensors", vae))
    with pytest.raises(ValueError, match="multiples of 4"):
        loaded.encode(torch.zeros(1, 3, 10, 8))
    with pytest.raises(ValueError, match=r"\(B, 4, H, W\)"):
        loaded.decode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="'nodevice' cannot be used"):
        load_autoencoder(tmp_path / "vae.safetensors", device="nodevice")


def test_without_diffusers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r'pip install "sparsedit\[train\]"'):
        load_autoencoder(tmp_path / "vae.safetensors")


def test_the_file_is_left_alone(vae: Any, tmp_path: Path) -> None:
    file = save_vae(tmp_path / "vae.safetensors", vae)
    before = file.read_bytes()
    load_autoencoder(file).encode(pictures())
    assert file.read_bytes() == before
    assert set(load_file(file)) == set(vae.state_dict())
