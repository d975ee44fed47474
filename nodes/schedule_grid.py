"""SparseDiT Schedule Grid: one picture under many pruning schedules, on one labelled sheet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io, ui

from ..sparsedit_core.metrics import psnr
from ..sparsedit_core.run_record import RunRecord
from ..sparsedit_core.schedule import PRESETS, PruningSchedule
from ..sparsedit_core.sheets import to_pictures
from ..sparsedit_core.sweep import AXES, MAX_CELLS, build_sweep, check_count, parse_rates, parse_values
from ..sparsedit_core.sweep_sheet import REFERENCE, Result, draw_sweep, sweep_json, sweep_table
from .info import sparsedit_info
from .presets import own_presets
from .pruning_schedule import ScheduleType
from .runs import take
from .sampler import first_of, sampled, sampler_inputs
from .schedule_patch import FULL_DENSITY, attach_schedule, attached_to
from .show import show_text, to_image


class SparseDiTScheduleGrid(io.ComfyNode):  # type: ignore[misc]
    """MODEL, conditioning, LATENT and two axes to a sheet of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTScheduleGrid",
            display_name="SparseDiT Schedule Grid",
            category="SparseDiT",
            description=(
                "Find a schedule by eye: sample the same noise under many pruning schedules and lay the pictures out "
                "on one sheet, with MACs, seconds and the distance to the picture that drops no tokens. It samples and "
                "decodes by itself, in place of the sampler and the VAE decoder."
            ),
            inputs=[*_sources(), *sampler_inputs("cell"), *_axes()],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="The labelled sheet."),
                io.Image.Output(
                    display_name="pictures",
                    tooltip="The pictures in full size as one batch: first that of all tokens, then row by row.",
                ),
                io.String.Output(display_name="text", tooltip="A table of MACs, seconds and PSNR."),
                io.String.Output(display_name="json", tooltip="The same as JSON; SparseDiT Save Image takes it."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,  # its picture on the node is reason enough to run
        )

    @classmethod
    def validate_inputs(
        cls, x_values: str | None = None, y_axis: str | None = None, y_values: str | None = None
    ) -> bool | str:
        try:
            columns = 1 if x_values is None else len(parse_rates(x_values, own_presets()))
            rows = 1 if y_axis is None or y_values is None else len(parse_values(y_axis, y_values))
            check_count(columns, rows)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, x_values: str | None = None, **_others: object) -> str:
        """Another one after a preset that is named was saved anew; a linked widget has no text yet."""
        columns = {} if x_values is None else parse_rates(x_values, own_presets())
        return hashlib.sha256(repr(columns).encode()).hexdigest()

    @classmethod
    def execute(  # one argument per input
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        vae: Any,
        schedule: PruningSchedule,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        x_values: str,
        y_axis: str,
        y_values: str,
    ) -> io.NodeOutput:
        info = sparsedit_info(model)
        if info.layout is None:
            raise ValueError(
                f"{info.source} is a dense {info.name}, which has no sparse tokens to schedule; connect a sparse "
                "MODEL, or put SparseDiT Patch Model or SparseDiT Convert in front of this node"
            )
        if denoise <= 0:
            raise ValueError("denoise is 0, which samples nothing; give at least 0.01")
        sweep = build_sweep(schedule, x_values, y_axis, y_values, own_presets())
        cells = [None, *sweep.cells]
        first = first_of(latent_image)
        progress = _Progress(model, steps, len(cells))
        options = {"steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler, "denoise": denoise}
        latents, records = [], []
        for number, cell in enumerate(cells):
            show_text(f"{number + 1} of {len(cells)}: {cell.name if cell else REFERENCE}", cls)
            patched = model.clone()
            attach_schedule(patched, cell.schedule if cell else FULL_DENSITY, told=False)
            latents.append(sampled(patched, positive, negative, first, seed, progress.callback(number), options))
            records.append(_record(patched))
        pictures = torch.cat([_decoded(vae, latent) for latent in latents])
        planes = pictures[..., :3].movedim(-1, 1)
        noise = psnr(planes, planes[:1].expand_as(planes), data_range=1.0).tolist()
        drawn = to_pictures(planes * 2 - 1)
        reference, *results = map(Result, cells, drawn, records, noise)
        told = f"seed {seed}, {steps} steps, {sampler_name}, {scheduler}, cfg {cfg:g}, denoise {denoise:g}"
        below = f"{told};  seconds in the model, PSNR against {REFERENCE}"
        sheet = to_image(draw_sweep(sweep, reference, results, title=f"Schedules of {info.source}", below=below))
        table = sweep_table(reference, results)
        shares = [result.run.ratio for result in results]
        show_text(f"{len(results)} schedules, {min(shares):.0%} to {max(shares):.0%} of dense MACs", cls)
        report = json.dumps(sweep_json(reference, results), indent=1)
        return io.NodeOutput(sheet, pictures, table, report, ui=ui.PreviewImage(sheet, cls=cls))


class _Progress:
    """One bar over the steps of all cells, with the previews that ComfyUI shows for its own sampler."""

    def __init__(self, model: Any, steps: int, cells: int) -> None:
        self._steps, self._total = steps, steps * cells
        self._bar = comfy.utils.ProgressBar(self._total)
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def callback(self, cell: int) -> Callable[[int, Any, Any, int], None]:
        """For the sampling of cell number ``cell``; some samplers count other steps than they were asked for."""

        def after(step: int, x0: Any, _x: Any, total_steps: int) -> None:
            preview = self._previewer.decode_latent_to_preview_image("JPEG", x0) if self._previewer else None
            done = self._steps * (cell + min((step + 1) / max(total_steps, 1), 1.0))
            self._bar.update_absolute(round(done), self._total, preview)

        return after


def _decoded(vae: Any, latent: Any) -> Any:
    """IMAGE of a latent, as VAE Decode makes it: also of decoders that think in videos."""
    images = vae.decode(latent)
    return images.reshape(-1, *images.shape[-3:])


def _record(model: Any) -> RunRecord:
    """The run that a MODEL just made, which nobody else will ask for."""
    return take(attached_to(model).token)[-1]


def _sources() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="A sparse MODEL; a schedule that it carries already is replaced."),
        io.Conditioning.Input("positive", tooltip="What the picture shows, as for the sampler."),
        io.Conditioning.Input("negative", tooltip="What guidance moves away from, as for the sampler."),
        io.Latent.Input("latent_image", tooltip="The latent to denoise. Of a batch only the first is used."),
        io.Vae.Input("vae", tooltip="Decodes the pictures."),
        ScheduleType.Input(
            "schedule", tooltip="From SparseDiT Pruning Schedule: everything that the two axes do not say."
        ),
    ]


def _axes() -> list[io.Input]:
    return [
        io.String.Input(
            "x_values",
            default="0.61:0.44, 0.86:0.61, 0.96:0.90",
            multiline=True,
            tooltip="The columns: pairs of rate_noise:rate_clean, the shares of tokens dropped at pure noise and near "
            f"the picture, or names of presets, with commas between. Those of the paper ({', '.join(PRESETS)}) give "
            "the two rates; your own, saved at SparseDiT Pruning Schedule, give all but what y_axis varies. Columns "
            f"times rows are at most {MAX_CELLS}; each is a whole sampling.",
        ),
        io.Combo.Input(
            "y_axis",
            options=list(AXES),
            default="hold_fraction",
            tooltip="What varies down the rows. All else is that of schedule.",
        ),
        io.String.Input(
            "y_values",
            default="0, 0.25, 0.5",
            multiline=True,
            tooltip="The rows, with commas between: numbers from 0 to 1 for hold_fraction and end_percent, noise and "
            "clean for hold, linear, cosine, steps and custom for curve, 0 (exact) or 2 and more for levels.",
        ),
    ]
