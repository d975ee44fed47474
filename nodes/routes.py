"""The HTTP routes of the editors: what a schedule or plan looks like and costs, and the user's presets.

All numbers are computed here, by the code that samples; the browser only draws them.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiohttp import web

from ..sparsedit_core.checkpoint import CheckpointError, describe_checkpoint, is_mapped
from ..sparsedit_core.layout import SegmentLayout
from ..sparsedit_core.measured import grid_seconds
from ..sparsedit_core.schedule import Grid
from ..sparsedit_core.schedule_view import ViewedModel, schedule_view
from .files import checkpoint_path, file_stamp
from .plan_view import plan_view
from .presets import FOLDER, all_presets, delete_preset, from_text, save_preset, to_text
from .runs import finished
from .schedule_widgets import Widgets

MOST_TOKENS, MOST_STEPS = 4096, 1000  # of a side; of a preview
MOST_READ = 200_000_000  # bytes of a file that is read while people edit
FACTS: dict[str, Any] = {"num_heads": int, "sparse_side": int, "position_scale": (int, float), "base_size": int}
"""Widgets of SparseDiT Load Checkpoint that say what a file may not hold, and their kinds."""


def register_routes() -> None:
    """Add the routes to the running server; nothing happens where there is none (scripts, tests)."""
    module = sys.modules.get("server")  # not imported: outside a server that fails on ComfyUI 0.3.64
    server = module and getattr(module.PromptServer, "instance", None)
    if server is None:
        return
    routes = server.routes
    routes.post("/sparsedit/schedule")(_answering(lambda _request, data: view_answer(data)))
    routes.post("/sparsedit/plan")(_answering(lambda _request, data: plan_view(data)))
    for name, change in (("list", _list), ("save", _save), ("delete", _delete), ("import", _import)):
        routes.post(f"/sparsedit/presets/{name}")(_answering(_with_folder(server.user_manager, change)))


def view_answer(data: dict[str, Any]) -> dict[str, Any]:
    """The view of the widgets' schedule (:func:`.schedule_view.schedule_view`), and its points."""
    schedule = Widgets.from_json(data.get("values")).schedule()
    steps = _whole(data.get("preview_steps"), "preview_steps", MOST_STEPS)
    model, trouble = _model(data)
    dense = _dense(data, model)
    seconds = None if model is None else grid_seconds(finished(), model.config, dense)
    view = schedule_view(schedule, dense, steps, model=model, seconds=seconds)
    return view | {"points": [list(point) for point in schedule.points], "model_error": trouble}


def _model(data: dict[str, Any]) -> tuple[ViewedModel | None, str]:
    """The model of a checkpoint that was found in the graph, and what stands in the way of knowing it."""
    checkpoint, layout = data.get("checkpoint"), data.get("layout")
    if not isinstance(checkpoint, str):
        return None, ""
    facts = tuple(_fact(data.get("facts"), name) for name in FACTS)
    try:
        model = _viewed(checkpoint, file_stamp(checkpoint), facts)
        if model.config.layout is None and isinstance(layout, str):
            model = replace(model, config=replace(model.config, layout=SegmentLayout.parse(layout)))
    except (CheckpointError, ValueError, OSError) as error:
        return None, str(error)
    if model.config.layout is None:
        return model, (
            f"{checkpoint} is a dense model, which has no sparse tokens to schedule; load a sparse checkpoint, or put "
            "SparseDiT Patch Model or SparseDiT Convert in front of SparseDiT Apply Schedule"
        )
    return model, ""


@lru_cache(maxsize=8)
def _viewed(name: str, _stamp: str, facts: tuple[Any, ...]) -> ViewedModel:  # the stamp is part of the key only
    path = Path(checkpoint_path(name))
    if path.stat().st_size > MOST_READ and not is_mapped(path):
        raise ValueError(
            f"{name} is a file that must be read as a whole to know its model, so its costs are not shown while you "
            "edit; save it with SparseDiT Save Checkpoint to see them"
        )
    found = describe_checkpoint(path, **dict(zip(FACTS, facts, strict=True)))
    return ViewedModel(Path(name).name, found.config, found.schedule)


def _fact(facts: Any, name: str) -> Any:
    """A widget of the loader, where 0 leaves it to the file."""
    value = facts.get(name) if isinstance(facts, dict) else None
    return value if value and isinstance(value, FACTS[name]) else None


def _dense(data: dict[str, Any], model: ViewedModel | None) -> Grid:
    """The token grid to show: of the latent that was found, of the model's own size, or of the widget."""
    size = data.get("latent")
    if model is None:
        side = _whole(data.get("preview_tokens"), "preview_tokens", MOST_TOKENS)
        return side, side
    if not isinstance(size, list) or len(size) != 2:
        return model.config.grid
    patch = model.config.patch_size
    rows, columns = (-(-_whole(value, "latent", MOST_TOKENS * patch) // patch) for value in size)
    return rows, columns


def _whole(value: Any, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{name} is {value!r}; give a whole number from 1 to {most}")
    return value


def _list(folder: Path, _data: dict[str, Any]) -> dict[str, Any]:
    return {
        "presets": [
            {"name": name, "widgets": asdict(Widgets.of(schedule)), "text": to_text(name, schedule)}
            for name, schedule in all_presets(folder).items()
        ]
    }


def _save(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    save_preset(folder, data.get("name", ""), Widgets.from_json(data.get("values")).schedule())
    return _list(folder, data)


def _delete(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    delete_preset(folder, data.get("name", ""))
    return _list(folder, data)


def _import(folder: Path, data: dict[str, Any]) -> dict[str, Any]:
    name, schedule = from_text(str(data.get("text", "")))
    if name in all_presets(folder) and not data.get("replace"):
        raise ValueError(f"you have a preset {name!r} already; delete or rename yours first")
    save_preset(folder, name, schedule)
    return _list(folder, data) | {"name": name}


def _with_folder(users: Any, change: Callable[[Path, dict[str, Any]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def answer(request: web.Request, data: dict[str, Any]) -> dict[str, Any]:
        inside = users.get_request_user_filepath(request, "/".join((*FOLDER, "any")), create_dir=False)
        if inside is None:
            raise ValueError("ComfyUI has no folder for this user; log in again")
        return change(Path(inside).parent, data)

    return answer


def _answering(answer: Callable[[web.Request, dict[str, Any]], dict[str, Any]]) -> Callable[[web.Request], Any]:
    """A handler, JSON in and out, a sentence under "error" with status 400; works off the event loop."""

    async def handler(request: web.Request) -> web.Response:
        try:
            data = await request.json()
            if not isinstance(data, dict):
                raise ValueError("the request is no JSON object")
            result = await asyncio.get_running_loop().run_in_executor(None, answer, request, data)
        except json.JSONDecodeError:
            return web.json_response({"error": "the request is no JSON"}, status=400)
        except (ValueError, OSError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(result)

    return handler
