"""Our own files: exact round trips, metadata, atomic writing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import forward, same, save, small_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from sparsedit_core import SegmentLayout
from sparsedit_core.checkpoint import CheckpointError, Latent, load_checkpoint, read_checkpoint, save_checkpoint
from sparsedit_core.checkpoint import save as save_module
from sparsedit_core.schedule import PruningSchedule

LAYOUT = "1+1x[1,2,1,1]+1x[2,0,1,0]+2"
NAMES = tuple(f"class {i}" for i in range(10))
PIXELS = Latent(4, 1.0, 1, "pixel")
SCHEDULE = PruningSchedule(rate_noise=0.86, rate_clean=0.61, levels=None)


def save_error(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(*arguments, **keywords)
    return str(caught.value)


def edit_metadata(path: Path, change: Any) -> None:
    """Rewrite a file of ours with `change` applied to its JSON object."""
    with safe_open(path, "pt") as file:
        data = json.loads(file.metadata()["sparsedit"])
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    change(data)
    path.unlink()
    save_file(tensors, path, metadata={"sparsedit": json.dumps(data)})


@pytest.mark.parametrize("layout", [None, LAYOUT])
def test_round_trip_with_everything(layout: str | None, tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", small_model(layout, reinject_positions=True, semantics="diffusers")
    facts = {
        "schedule": SCHEDULE,
        "prediction": "flow",
        "latent": PIXELS,
        "class_names": NAMES,
        "metadata": {"steps": [1, 2]},
    }
    save_checkpoint(path, model, **facts)
    loaded = load_checkpoint(path)
    assert same(loaded.model.state_dict(), model.state_dict())
    assert loaded.config == model.config
    assert loaded.format == "sparsedit_core"
    assert {name: getattr(loaded, name) for name in facts} == facts
    assert torch.equal(forward(loaded.model), forward(model))


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layout=st.none()
    | st.builds(
        SegmentLayout,
        st.integers(0, 2),
        st.lists(st.tuples(*[st.integers(1, 2), st.integers(0, 2)] * 2), max_size=2).map(tuple),
        st.integers(1, 2),
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn]),
    null=st.booleans(),
    ratio=st.floats(0.3, 4.0),
)
def test_round_trip_is_exact(
    layout: SegmentLayout | None, dtype: torch.dtype, null: bool, ratio: float, tmp_path: Path
) -> None:
    path, again = tmp_path / "model.safetensors", tmp_path / "again.safetensors"
    model = small_model(layout and str(layout), null_class=null, mlp_ratio=ratio)
    save_checkpoint(path, model, dtype=dtype)
    first = read_checkpoint(path)
    expected = {k: v if k == "pos_embed" else v.to(dtype) for k, v in model.state_dict().items()}
    assert same(first.state, expected)
    assert first.config == model.config
    save_checkpoint(again, first)
    second = read_checkpoint(again)
    assert same(second.state, first.state)
    assert replace(second, state={}) == replace(first, state={})


def test_the_three_sources_write_the_same_file(tmp_path: Path) -> None:
    one, two, three = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "three"))
    save_checkpoint(one, small_model(LAYOUT), schedule=SCHEDULE, class_names=NAMES)
    save_checkpoint(two, load_checkpoint(one))
    save_checkpoint(three, read_checkpoint(two))
    assert one.read_bytes() == two.read_bytes() == three.read_bytes()


def test_official_file_becomes_ours(tmp_path: Path) -> None:
    model = small_model()
    loaded = load_checkpoint(save(tmp_path / "model.pt", model.state_dict()), num_heads=4)
    save_checkpoint(tmp_path / "own.safetensors", loaded)
    again = load_checkpoint(tmp_path / "own.safetensors")
    assert again.config == loaded.config
    assert same(again.model.state_dict(), model.state_dict())


def test_a_compiled_model_is_saved_under_plain_names(tmp_path: Path) -> None:
    model = small_model()
    save_checkpoint(tmp_path / "model.safetensors", torch.compile(model, backend="eager"))
    assert same(read_checkpoint(tmp_path / "model.safetensors").state, model.state_dict())


def test_saving_over_the_file_the_model_is_mapped_from(tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", small_model()
    save_checkpoint(path, model)
    loaded = load_checkpoint(path)
    save_checkpoint(path, loaded, metadata={"again": True})
    assert same(loaded.model.state_dict(), model.state_dict())
    assert read_checkpoint(path).metadata == {"again": True}


def test_failure_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, small_model())
    before = path.read_bytes()

    def half(tensors: Any, name: Path, metadata: Any) -> None:
        name.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(save_module, "save_file", half)
    assert "disk full" in save_error(path, small_model(seed=5))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_interruption_removes_the_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tensors: Any, name: Path, metadata: Any) -> None:
        name.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(save_module, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "model.safetensors", small_model())
    assert list(tmp_path.iterdir()) == []


def test_where_and_what_cannot_be_saved(tmp_path: Path) -> None:
    model = small_model()
    assert ".safetensors" in save_error(tmp_path / "model.pt", model)
    assert "folder does not exist" in save_error(tmp_path / "absent" / "model.safetensors", model)
    assert "expected a DiT" in save_error(tmp_path / "model.safetensors", torch.nn.SiLU())
    assert "9 class names" in save_error(tmp_path / "model.safetensors", model, class_names=NAMES[1:])
    assert "prediction is 'v'" in save_error(tmp_path / "model.safetensors", model, prediction="v")
    assert "3 channels" in save_error(tmp_path / "model.safetensors", model, latent=Latent(3, 1.0, 1, "pixel"))
    assert "JSON values" in save_error(tmp_path / "model.safetensors", model, metadata={"a": object()})
    broken = read_checkpoint(save(tmp_path / "model.pt", model.state_dict()), num_heads=4)
    broken.state.pop("pos_embed")
    assert "1 missing: pos_embed" in save_error(tmp_path / "model.safetensors", broken)


def test_keywords_on_a_file_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, small_model(LAYOUT))
    assert read_checkpoint(path, num_heads=4, base_size=8, num_classes=10).config.num_heads == 4
    assert read_checkpoint(path, sparse_side=3, semantics="diffusers").config.sparse_side == 3
    with pytest.raises(CheckpointError, match="9 does not fit into the 8x8 token grid"):
        read_checkpoint(path, sparse_side=9)
    for keywords in ({"num_heads": 8}, {"num_classes": 9}, {"base_size": 16}):
        with pytest.raises(CheckpointError, match="but the file says"):
            read_checkpoint(path, **keywords)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(version=99), "metadata version 99"),
        (lambda d: d.update(family="pixart"), "unknown entries ['null_class'"),
        (lambda d: d.update(family="unet"), "'unet'"),
        (lambda d: d.pop("config"), "damaged"),
        (lambda d: d["config"].update(depth=2000000000), "2000000000 blocks"),
        (lambda d: d["config"].update(layout="0+999999999x[1,1,1,1]+0"), "999999999"),
        (lambda d: d["config"].update(layout="gibberish"), "damaged"),
        (lambda d: d["config"].update(novelty=1), "novelty"),
        (lambda d: d["config"].update(num_heads=0), "damaged"),
        (lambda d: d["config"].update(hidden_size=64), "misshapen"),
        (lambda d: d["config"].update(hidden_size="wide"), "damaged"),
        (lambda d: d["config"].update(hidden_size=32.0), "hidden_size is 32.0"),
        (lambda d: d["config"].update(in_channels=True), "in_channels is True"),
        (lambda d: d["config"].update(num_heads=-4), "num_heads is -4"),
        (lambda d: d["config"].update(sparse_side=4.5), "sparse_side is 4.5"),
        (lambda d: d["config"].update(null_class="yes"), "null_class is 'yes'"),
        (lambda d: d["config"].update(mlp_ratio=float("nan")), "mlp_ratio is nan"),
        (lambda d: d["config"].update(mlp_ratio=1e30), "mlp_ratio is 1e+30"),
        (lambda d: d["config"].update(semantics="foo"), "semantics is 'foo'"),
        (lambda d: d["config"].update(input_size=[8]), "damaged"),
        (lambda d: d.update(version=True), "version"),
        (lambda d: d["latent"].update(kind="audio"), "damaged"),
        (lambda d: d.update(prediction="v"), "prediction is 'v'"),
        (lambda d: d.update(class_names=["a"]), "1 class names"),
        (lambda d: d.update(schedule={"rate_noise": 7}), "damaged"),
    ],
)
def test_damaged_metadata(change: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, small_model())
    edit_metadata(path, change)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
