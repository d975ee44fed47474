"""PixArt against the arrays of the original projects and of diffusers, each through a file and load_checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import FORWARD_TOLERANCE, Golden, golden
from golden_files import assert_close as close
from safetensors.torch import save_file
from torch import Tensor

from sparsedit_core.checkpoint import Loaded, load_checkpoint, save_checkpoint

ORIGINAL = ["pixart_a_nonms", "pixart_b_ms_square", "pixart_c_ms_nonsquare", "pixart_sigma_a_ms_nomicro"]
PAIRS = ["diffusers_pixart_a_pair", "diffusers_pixart_b_pair_microcond"]


def assert_close(found: Tensor, expected: Tensor, name: str) -> None:
    close(found, expected, FORWARD_TOLERANCE, name)


def scale_of(constructor: dict[str, Any]) -> float:
    """The constructor's interpolation of positions, whatever the project calls it."""
    names = ("lewei_scale", "pe_interpolation", "pe_interp", "interpolation_scale")
    return next((constructor[name] for name in names if name in constructor), 1.0)


def load(file: Golden, state: dict[str, Tensor], path: Path, **keywords: Any) -> Loaded:
    constructor = file.meta.get("original_constructor") or file.meta["constructor"]
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    return load_checkpoint(path, num_heads=constructor["num_heads"], **keywords)


def conditions(file: Golden, repeats: int = 1) -> dict[str, Tensor]:
    """Micro-conditions of the fixture, for a batch that repeats it."""
    if not loaded_micro(file):
        return {}
    return {
        "size": file.input["img_hw"].repeat(repeats, 1),
        "aspect": file.input["aspect_ratio"].repeat(repeats, 1),
    }


def loaded_micro(file: Golden) -> bool:
    return any("csize_embedder" in key or "resolution_embedder" in key for key in file.state)


@torch.no_grad()
@pytest.mark.parametrize("name", ORIGINAL)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_forward(name: str, suffix: str, tmp_path: Path) -> None:
    file = golden(name)
    loaded = load(file, file.state, tmp_path / f"model{suffix}")
    assert loaded.config.position_scale == scale_of(file.meta["constructor"])
    assert (loaded.family, loaded.format, loaded.layout) == ("pixart", "pixart", None)
    x, t, y, mask = (file.input[key] for key in ("x", "t", "y", "mask"))
    extra = conditions(file)
    assert_close(loaded.model(x, t, y, mask=mask, **extra), file.output["out_masked"], name=f"{name} masked")
    assert_close(loaded.model(x, t, y, **extra), file.output["out_nomask"], name=f"{name} no mask")


@torch.no_grad()
@pytest.mark.parametrize("name", ORIGINAL)
def test_guidance_and_dpm_solver(name: str, tmp_path: Path) -> None:
    """The doubled batch of the official samplers: captions, then the stored null caption; masks are those of the first
    half for both. Their guidance moves three channels and, in PixArt-alpha's MS class, ignores the mask."""
    file = golden(name)
    loaded = load(file, file.state, tmp_path / "model.pth")
    x, t, y, mask = (file.input[key] for key in ("x", "cfg_t", "y", "mask"))
    null = loaded.model.y_embedder.y_embedding.expand(len(y), 1, -1, -1)
    captions, extra = torch.cat([y, null]), conditions(file, 2)
    plain = loaded.model(torch.cat([x, x]), t, captions, mask=mask, **extra)
    assert_close(plain, file.output["cfg_plain_masked"], name=f"{name} doubled")
    assert_close(plain[:, :4], file.output["dpm_out"], name=f"{name} dpm")
    ignored = file.meta["source_repo"].endswith("alpha") and file.meta["constructor"]["_class"] == "PixArtMS"
    out = loaded.model(torch.cat([x, x]), t, captions, mask=None if ignored else mask, **extra)
    cond, uncond = out[:, :3].chunk(2)
    guided = uncond + file.input["cfg_scale"] * (cond - uncond)
    assert_close(torch.cat([torch.cat([guided, guided]), out[:, 3:]], 1), file.output["cfg_out"], name=f"{name} cfg")


@torch.no_grad()
@pytest.mark.parametrize("name", PAIRS)
def test_diffusers_pair(name: str, tmp_path: Path) -> None:
    """Both layouts of the same weights give the same config, weights and output."""
    file = golden(name)
    base = file.meta["constructor"]["sample_size"] // file.meta["constructor"]["patch_size"]
    scale = file.meta["constructor"]["interpolation_scale"]
    loaded = load(file, file.state, tmp_path / "d.safetensors", base_size=base, position_scale=scale)
    original = load(file, file.original, tmp_path / "o.safetensors")
    assert loaded.format == "diffusers_pixart"
    x, t, y, mask = (file.input[key] for key in ("x", "t", "y", "mask"))
    extra = conditions(file)
    out = loaded.model(x, t, y, mask=mask, **extra)
    assert_close(out, file.output["out_original"], name=name)
    assert torch.equal(out, original.model(x, t, y, mask=mask, **extra))


@torch.no_grad()
def test_mask_leaves_tokens_out(tmp_path: Path) -> None:
    """A masked caption is the caption without those tokens, of any length."""
    file = golden("pixart_a_nonms")
    loaded = load(file, file.state, tmp_path / "model.pth")
    x, t, y = (file.input[key][:1] for key in ("x", "t", "y"))
    mask = torch.zeros(1, y.shape[2], dtype=torch.long)
    mask[:, :5] = 1
    assert_close(loaded.model(x, t, y[:, :, :5]), loaded.model(x, t, y, mask=mask), name="five tokens")
    longer = torch.cat([y] * 3, dim=2)
    assert_close(loaded.model(x, t, longer), loaded.model(x, t, y), name="every token three times changes no attention")


@torch.no_grad()
@pytest.mark.parametrize("name", ORIGINAL)
def test_saved_and_loaded_again(name: str, tmp_path: Path) -> None:
    file = golden(name)
    loaded = load(file, file.state, tmp_path / "model.pth")
    save_checkpoint(tmp_path / "ours.safetensors", loaded)
    again = load_checkpoint(tmp_path / "ours.safetensors")
    assert again.config == loaded.config
    assert again.format == "sparsedit_core"
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key
