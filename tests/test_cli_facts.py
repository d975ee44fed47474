"""inspect, convert, cost: what they say, and how they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from cli_models import LAYOUT, SCHEDULE, Cli, save_latents, save_original, save_pixels

import sparsedit_core as sd
from sparsedit_core.cli import COMMANDS, files, options


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def test_every_command_has_help_with_an_example(cli: Cli) -> None:
    overview = cli.works("--help").out
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        assert f"\n    {name} " in overview or f"\n    {name}\n" in overview
        words = cli.works(name, "--help").out
        assert f"example:\n  sparsedit {name} " in words


def test_no_command_and_unknown_words(cli: Cli) -> None:
    assert "COMMAND" in cli.refuses()
    assert "invalid choice" in cli.refuses("paint")
    assert "--bogus" in cli.refuses("inspect", "x.pt", "--bogus")
    assert sd.__version__ in cli.works("--version").out


def test_inspect_tells_what_load_checkpoint_reads(cli: Cli, tmp_path: Path) -> None:
    path = save_pixels(tmp_path / "sparse.safetensors", LAYOUT)
    found = cli.works("inspect", path, "--json").json
    loaded = sd.load_checkpoint(path)
    assert sd.DiTConfig.from_json(found["config"]) == loaded.config
    assert sd.PruningSchedule.from_json(found["schedule"]) == SCHEDULE
    assert found["layout"] == LAYOUT
    assert found["parameters"] == sum(value.numel() for value in loaded.model.state_dict().values())
    assert found["cost"]["flops"] == 2 * found["cost"]["macs"]
    words = cli.works("inspect", path).out
    for expected in ("SparseDiT", LAYOUT, "8x8 = 64", "flow", "striped disc", "rate 0.9 at noise to 0.5"):
        assert expected in words


def test_inspect_of_an_original_file_needs_the_heads(cli: Cli, tmp_path: Path) -> None:
    path = save_original(tmp_path / "dit.pt")
    assert "give --num-heads (known" in cli.refuses("inspect", path)
    assert "give --num-heads (known" in cli.refuses("cost", path)
    assert "tokens" in cli.works("cost", path, "--num-heads", 4).out
    found = cli.works("inspect", path, "--num-heads", 4, "--json").json
    assert (found["format"], found["prediction"], found["layout"]) == ("dit", "eps", None)


def bad_files(folder: Path) -> dict[str, Path]:
    """Files that load_checkpoint refuses."""
    good = save_pixels(folder / "good.safetensors").read_bytes()
    files = {
        "text.pt": b"this is no model\n",
        "empty.safetensors": b"",
        "truncated.safetensors": good[: len(good) // 2],
        "page.ckpt": b"<!DOCTYPE html><html></html>",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    torch.save({"weight": torch.zeros(2)}, folder / "other.pt")
    (folder / "folder").mkdir()
    return {name: folder / name for name in (*files, "other.pt", "folder", "missing.pt")}


@pytest.mark.parametrize("command", ["inspect", "cost", "sample", "compare", "evaluate"])
def test_files_that_cannot_be_loaded(command: str, cli: Cli, tmp_path: Path) -> None:
    for path in bad_files(tmp_path).values():
        with pytest.raises(sd.CheckpointError):
            sd.load_checkpoint(path)
        assert str(path) in cli.refuses(command, path)


def test_convert_gives_the_initial_state(cli: Cli, tmp_path: Path) -> None:
    dense, out = save_pixels(tmp_path / "dense.safetensors"), tmp_path / "new" / "sparse.safetensors"
    rates = ("--rate-noise", 0.8, "--rate-clean", 0.5, "--hold", "clean", "--levels", "exact")
    assert "fine-tuned" in cli.works("convert", dense, out, "--layout", LAYOUT, "--sparse-side", 4, *rates).out
    loaded = sd.load_checkpoint(out)
    expected = sd.convert_dense(sd.load_checkpoint(dense).model, LAYOUT, sparse_side=4)
    assert loaded.config == expected.config
    assert all(torch.equal(value, loaded.model.state_dict()[key]) for key, value in expected.state_dict().items())
    assert loaded.schedule == sd.PruningSchedule(0.8, 0.5, hold="clean", levels=None)
    assert loaded.prediction == "flow"
    record = loaded.metadata["convert"]["command"]
    assert str(tmp_path) not in record
    assert "dense.safetensors sparse.safetensors" in record


def test_convert_without_layout_changes_only_the_file(cli: Cli, tmp_path: Path) -> None:
    source, out = save_original(tmp_path / "dit.pt"), tmp_path / "dit.safetensors"
    cli.works("convert", source, out, "--num-heads", 4, "--dtype", "bfloat16")
    loaded = sd.load_checkpoint(out)
    assert loaded.layout is None
    assert loaded.model.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    schedule = ("--rate-noise", 0.8, "--rate-clean", 0.5)
    assert "--layout" in cli.refuses("convert", source, tmp_path / "x.safetensors", "--num-heads", 4, *schedule)


def test_convert_with_positions_as_the_paper_says(cli: Cli, tmp_path: Path) -> None:
    dense, out = save_pixels(tmp_path / "dense.safetensors"), tmp_path / "sparse.safetensors"
    cli.works("convert", dense, out, "--layout", LAYOUT)
    assert not sd.load_checkpoint(out).config.reinject_positions
    cli.works("convert", dense, out, "--layout", LAYOUT, "--reinject-positions")
    assert sd.load_checkpoint(out).config.reinject_positions


@pytest.mark.parametrize(("name", "layout"), [("official", None), ("official", LAYOUT), ("diffusers", None)])
def test_convert_writes_the_layouts_of_others(name: str, layout: str | None, cli: Cli, tmp_path: Path) -> None:
    source, out = save_latents(tmp_path / "own.safetensors", layout), tmp_path / "other.safetensors"
    cli.works("convert", source, out, "--as", name)
    original = sd.load_checkpoint(source)
    loaded = sd.load_checkpoint(out, num_heads=4, sparse_side=4, base_size=8)
    assert loaded.format == {None: {"official": "dit", "diffusers": "diffusers_dit"}[name]}.get(layout, "sparsedit")
    assert loaded.layout == original.layout
    state = original.model.state_dict()
    assert all(torch.allclose(value, state[key]) for key, value in loaded.model.state_dict().items())


def test_convert_refuses(cli: Cli, tmp_path: Path) -> None:
    dense = save_pixels(tmp_path / "dense.safetensors")
    sparse = save_pixels(tmp_path / "sparse.safetensors", LAYOUT)
    out = tmp_path / "out.safetensors"
    assert "has 28 blocks but the model has 5" in cli.refuses("convert", dense, out, "--layout", "2+4x[1,3,1,1]+2")
    assert "cannot read layout" in cli.refuses("convert", dense, out, "--layout", "banana")
    assert "already" in cli.refuses("convert", sparse, out, "--layout", LAYOUT)
    assert ".safetensors" in cli.refuses("convert", dense, tmp_path / "out.pt", "--layout", LAYOUT)
    reversed_rates = ("--rate-noise", 0.5, "--rate-clean", 0.8)
    assert "swap them: --rate-noise 0.8" in cli.refuses("convert", dense, out, "--layout", LAYOUT, *reversed_rates)
    assert "side 9 does not fit" in cli.refuses("convert", dense, out, "--layout", LAYOUT, "--sparse-side", 9)
    assert "side 9 does not fit" in cli.refuses("inspect", sparse, "--sparse-side", 9)
    assert "--layout" in cli.refuses("convert", dense, out, "--reinject-positions")
    assert "no place" in cli.refuses("convert", dense, out, "--as", "official")  # a flow model
    assert "both" in cli.refuses("convert", dense, out, "--layout", LAYOUT, "--rate-noise", 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense.safetensors", "sparse.safetensors"]


def test_cost_prints_the_papers_rows_and_both_units(cli: Cli) -> None:
    words = ("cost", "DiT-XL/2", "--size", 512, "--rate-noise", 0.96, "--rate-clean", 0.90)
    found = cli.works(*words, "--json").json
    assert found["static"]["side"] == 8
    assert f"{found['static']['paper']['macs'] / 1e9:.0f}" == "235"
    sampling = found["sampling"]
    assert sampling["algorithm"]["mean_macs"] / 1e9 == pytest.approx(235.8, abs=0.1)
    assert sampling["executed"]["evaluations"] == 250
    assert sampling["executed"]["mean_macs"] < sampling["algorithm"]["mean_macs"]
    assert found["dense"]["executed"]["flops"] == 2 * found["dense"]["executed"]["macs"]
    text = cli.works(*words).out
    for expected in ("234.90 GMACs (469.80 GFLOPs)", "static side 8", "paper's convention", "6x6"):
        assert expected in text


@pytest.mark.parametrize(("preset", "side", "printed"), [("256 quality", 12, "88.91"), ("256 fast", 8, "68.05")])
def test_cost_of_presets(preset: str, side: int, printed: str, cli: Cli) -> None:
    words = ("cost", "DiT-XL/2", "--size", 256, "--preset", preset, "--side", side, "--json")
    assert f"{cli.works(*words).json['static']['paper']['macs'] / 1e9:.2f}" == printed


def test_cost_of_files_and_other_sizes(cli: Cli, tmp_path: Path) -> None:
    sparse = save_pixels(tmp_path / "sparse.safetensors", LAYOUT)
    found = cli.works("cost", sparse, "--steps", 7, "--json").json
    assert found["schedule"] == json.loads(json.dumps(SCHEDULE.to_json()))
    assert found["sampling"]["executed"]["evaluations"] == 7
    assert cli.works("cost", "DiT-S/8", "--size", "256x512", "--json").json["dense_grid"] == [8, 4]
    dense = cli.works("cost", save_latents(tmp_path / "dense.safetensors"), "--json").json
    assert "static" not in dense


def test_cost_refuses(cli: Cli) -> None:
    assert "DiT-XL/2" in cli.refuses("cost", "DiT-XXL")
    assert "has 6 blocks" in cli.refuses("cost", "DiT-XL/2", "--layout", "1+1x[1,1,1,1]+1")
    assert "no picture size" in cli.refuses("cost", "DiT-XL/2", "--size", "big")
    assert "swap them" in cli.refuses("cost", "DiT-XL/2", "--rate-noise", 0.1, "--rate-clean", 0.2)
    assert "below 1" in cli.refuses("cost", "DiT-XL/2", "--rate-noise", 1.5, "--rate-clean", 0.2)
    assert "below one input pixel" in cli.refuses("cost", "DiT-XL/2", "--size", 3)
    assert "--side 17 does not fit into the 16x16" in cli.refuses("cost", "DiT-XL/2", "--side", 17)
    assert "about files" in cli.refuses("cost", "DiT-XL/2", "--num-heads", 4)


def test_schedules_from_json_files(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(SCHEDULE.to_json()))
    found = cli.works("cost", "DiT-S/2", "--layout", "1+2x[1,2,1,1]+1", "--schedule", path, "--hold", "clean", "--json")
    assert found.json["schedule"]["hold"] == "clean"
    assert found.json["schedule"]["rate_noise"] == SCHEDULE.rate_noise
    rates = '{"version": 1, "rate_noise": 0.9, "rate_clean": %s}'
    points = '{"version": 1, "rate_noise": 0.9, "rate_clean": 0.5, "curve": "custom", "points": %s}'
    for bad in ("{", "[" * 100_000, "[]", "null", rates % ("1" + "0" * 400), points % "5", points % "null"):
        path.write_text(bad)
        assert f"{path} holds no pruning schedule" in cli.refuses("cost", "DiT-S/2", "--schedule", path)
    assert "nothere.json" in cli.refuses("cost", "DiT-S/2", "--schedule", tmp_path / "nothere.json")


def test_bundled_names(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "sparsedit, dense" in cli.refuses("inspect", "bundled:nothing")
    monkeypatch.setattr("sparsedit_core.bundled.FOLDER", tmp_path)
    assert "install the package again" in cli.refuses("inspect", "bundled:dense")
    save_pixels(tmp_path / "dense.safetensors")
    assert "64x64" in cli.works("inspect", "bundled:dense").out


def test_command_lines_name_no_folders() -> None:
    words = ["train", "/home/me/out.safetensors", "--init=/home/me/in.safetensors", "sub/x", "a b"]
    assert files.command_line(words) == "sparsedit train out.safetensors --init=in.safetensors sub/x 'a b'"


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.json"
    target.write_text("before")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device", "report.json")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="No space"):
        files.write_json(target, {"a": 1})
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_json_has_no_infinities() -> None:
    assert json.loads(files.to_json({"psnr": float("inf"), "list": (1.5, float("nan"))})) == {
        "psnr": None,
        "list": [1.5, None],
    }


@pytest.mark.parametrize(("text", "expected"), [("512", (512, 512)), ("640x320", (320, 640))])
def test_sizes(text: str, expected: tuple[int, int]) -> None:
    assert options.size(text) == expected


def test_version_is_that_of_the_package() -> None:
    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    assert re.search(r'^version = "(.*)"$', pyproject.read_text(), re.M)[1] == sd.__version__  # type: ignore[index]
