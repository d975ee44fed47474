"""What the schedule editor's routes answer, and the user's presets."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comfy_pack import pack
from load_checks import error_of
from sampling import sample
from scheduled import apply, load, records
from widget_checks import DEFAULTS


def request(**changes: Any) -> dict[str, Any]:
    """What the browser sends; ``checkpoint`` and the like go beside the widgets."""
    names = {"checkpoint", "layout", "latent", "preview_steps", "facts"} & set(changes)
    beside = {name: changes.pop(name) for name in names}
    return {"values": DEFAULTS | changes, "preview_steps": 20, "preview_tokens": 16} | beside


def answer(**changes: Any) -> dict[str, Any]:
    """The view; it must be JSON."""
    found = pack("nodes.routes").view_answer(request(**changes))
    json.dumps(found, allow_nan=False)
    return found  # type: ignore[no-any-return]


def refused(**changes: Any) -> str:
    """The sentence of a refusal."""
    return error_of(lambda: answer(**changes))


def check_the_view_is_that_of_the_bundled_model() -> None:
    core = pack("sparsedit_core.schedule_view")
    loaded = pack("sparsedit_core.checkpoint").load_checkpoint(pack("sparsedit_core.bundled").bundled_path("sparsedit"))
    view = answer(checkpoint="bundled: sparsedit", preview_steps=7)
    model = core.ViewedModel("bundled: sparsedit", loaded.config, loaded.schedule)
    made = pack("nodes.schedule_widgets").Widgets.from_json(DEFAULTS).schedule()
    wanted = core.schedule_view(made, loaded.config.grid, 7, model=model)
    assert {name: view[name] for name in wanted} == wanted | {"measured": view["measured"]}
    assert view["model_error"] == ""
    assert answer(checkpoint="bundled: sparsedit", latent=[32, 80])["dense"] == [8, 20]


def check_models_that_cannot_be_told_of() -> None:
    assert "dense model" in answer(checkpoint="bundled: dense")["model_error"]
    assert answer(checkpoint="bundled: dense")["cost"] is None
    converted = answer(checkpoint="bundled: dense", layout="1+1x[1,3,1,1]+1")
    assert converted["model_error"] == ""
    assert converted["cost"]["ratio"] < 1
    assert "has 28 blocks" in answer(checkpoint="bundled: dense", layout="2+4x[1,3,1,1]+2")["model_error"]
    side = answer(checkpoint="bundled: sparsedit", facts={"sparse_side": 17, "num_heads": 0})
    assert "side 17" in side["model_error"]
    missing = answer(checkpoint="../../etc/passwd")
    assert "in neither" in missing["model_error"]
    assert "DiT-XL/2" in missing["cost"]["words"]


def check_bad_requests_are_one_sentence() -> None:
    assert "swap them" in refused(rate_noise=0.1, rate_clean=0.5)
    assert "no preset 'nonsense'" in refused(preset="nonsense")
    assert "time:rate" in refused(curve="custom", points="a:b")
    assert "expected a number" in refused(rate_noise="much")
    assert "expected a whole number" in refused(steps=2.5)
    assert "expected a number" in refused(rate_noise=float("nan"))
    assert "preview_steps is 0" in refused(preview_steps=0)
    assert "latent is -1" in refused(checkpoint="bundled: sparsedit", latent=[-1, 4])
    routes = pack("nodes.routes")
    assert "missing" in error_of(lambda: routes.view_answer({"values": {}}))
    assert "expected an object" in error_of(lambda: routes.view_answer({}))


def check_the_measured_figure_appears_after_runs_at_these_grids() -> None:
    routes, view = pack("nodes.routes"), pack("sparsedit_core.schedule_view")
    model = apply(load())
    sample(model, steps=4)
    info = model.model.sparsedit
    known = pack("sparsedit_core.measured").grid_seconds(records(model), info.config, info.config.grid)
    assert known
    cost = pack("sparsedit_core.schedule_cost").schedule_macs(
        info.config, pack("nodes.schedule_patch").FULL_DENSITY, 3, info.config.input_size, factor=1
    )
    assert view.measured_speed(cost, {info.config.grid: 2.0})["factor"] == 1.0
    assert routes.finished()


def check_presets_are_kept_sent_and_refused() -> None:
    presets, routes = pack("nodes.presets"), pack("nodes.routes")
    widgets = pack("nodes.schedule_widgets").Widgets
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base) / "sparsedit" / "presets"
        values = DEFAULTS | {"curve": "custom", "points": "0.3:0.7, 0.6:0.8", "end_percent": 0.9, "levels": 0}
        (kept,) = routes._save(folder, {"name": "Mine (1)", "values": values})["presets"]
        assert kept["name"] == "Mine (1)"
        assert kept["widgets"] == {name: values[name] for name in asdict(widgets.from_json(values))}
        assert widgets.from_json(kept["widgets"]).schedule() == widgets.from_json(values).schedule()
        name, schedule = presets.from_text(kept["text"])
        assert (name, schedule) == ("Mine (1)", widgets.from_json(values).schedule())
        assert "already" in error_of(lambda: routes._import(folder, {"text": kept["text"]}))
        sent = kept["text"].replace("Mine (1)", "Yours")
        assert routes._import(folder, {"text": sent})["name"] == "Yours"
        assert [each["name"] for each in routes._list(folder, {})["presets"]] == ["Mine (1)", "Yours"]
        (folder / "broken.json").write_text("{", encoding="utf-8")
        routes._delete(folder, {"name": "Mine (1)"})
        assert list(presets.all_presets(folder)) == ["Yours"]
        assert "no preset 'Mine (1)'" in error_of(lambda: routes._delete(folder, {"name": "Mine (1)"}))
        for bad in ("", "../up", "a/b", "custom", "256 FAST", ".hidden", "x" * 61, "end ", None, "nul\0"):
            text = error_of(partial(presets.check_name, bad))
            assert "preset cannot be called" in text or "row of the paper" in text, bad
        for text, words in (("nonsense", "no JSON"), ("{}", "no SparseDiT preset"), ("[1]", "no SparseDiT preset")):
            assert words in error_of(partial(presets.from_text, text))
        newer = json.dumps(json.loads(kept["text"]) | {"version": 9})
        assert "version 9" in error_of(lambda: presets.from_text(newer))
        assert sorted(file.name for file in folder.iterdir()) == ["Yours.json", "broken.json"]


def check_a_large_file_that_cannot_be_mapped_is_not_read() -> None:
    routes, sd = pack("nodes.routes"), pack("sparsedit_core")
    kept = routes.MOST_READ, routes.checkpoint_path, routes.file_stamp
    with tempfile.TemporaryDirectory() as folder:
        model = sd.DiT(sd.DiTConfig(input_size=(16, 16), hidden_size=32, depth=2, num_heads=4, num_classes=10))
        old = Path(folder) / "old.pt"
        torch.save(model.state_dict(), old, _use_new_zipfile_serialization=False)
        routes.checkpoint_path, routes.file_stamp = lambda _name: str(old), str
        try:
            facts = {"num_heads": 4}
            assert "is a dense model" in answer(checkpoint="old.pt", facts=facts)["model_error"]
            routes._viewed.cache_clear()
            routes.MOST_READ = 10
            assert "read as a whole" in answer(checkpoint="old.pt", facts=facts)["model_error"]
        finally:
            routes.MOST_READ, routes.checkpoint_path, routes.file_stamp = kept
            routes._viewed.cache_clear()
