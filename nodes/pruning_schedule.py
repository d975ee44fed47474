"""SparseDiT Pruning Schedule: how many tokens are computed at which time of the sampling."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sparsedit_core.plots import draw_schedule
from ..sparsedit_core.schedule import PRESETS, Grid, PruningSchedule
from ..sparsedit_core.schedule_cost import even_times
from ..sparsedit_core.schedule_view import ViewedModel, schedule_view
from .info import sparsedit_info
from .inputs import share_slider
from .schedule_widgets import CUSTOM, Widgets
from .show import show_text, to_image

ScheduleType = io.Custom("SPARSEDIT_SCHEDULE")
PREVIEW_STEPS = 20
MOST = 0.99  # of the shares that must not be all


class SparseDiTPruningSchedule(io.ComfyNode):  # type: ignore[misc]
    """Widgets to a PruningSchedule, drawn."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SparseDiTPruningSchedule",
            display_name="SparseDiT Pruning Schedule",
            category="SparseDiT",
            description=(
                "Set how many tokens a sparse DiT or PixArt drops along the sampling: many while there is only noise, "
                "few when details appear. Connect it to SparseDiT Apply Schedule. The picture on the node shows the "
                "tokens kept at each time and what that costs, while you move the sliders."
            ),
            inputs=[*_rate_inputs(), *_shape_inputs(), *_preview_inputs()],
            outputs=[
                ScheduleType.Output(display_name="schedule", tooltip="For SparseDiT Apply Schedule."),
                io.Image.Output(display_name="preview", tooltip="The schedule as a picture, 900 x 420 pixels."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(  # ComfyUI repeats an error for every input named here
        cls, preset: str | None = None, rate_noise: float | None = None, rate_clean: float | None = None
    ) -> bool | str:
        if preset is not None and preset != CUSTOM and preset not in PRESETS:
            return f"there is no preset {preset!r}; choose {', '.join([*PRESETS, CUSTOM])}"
        if preset == CUSTOM and None not in (rate_noise, rate_clean) and rate_noise < rate_clean:
            return f"rate_noise {rate_noise:g} is below rate_clean {rate_clean:g}; tokens are pruned most at pure noise"
        return True

    @classmethod
    def execute(  # one argument per widget
        cls,
        preset: str,
        rate_noise: float,
        rate_clean: float,
        hold_fraction: float,
        hold: str,
        curve: str,
        steps: int,
        points: str,
        levels: int,
        start_percent: float,
        end_percent: float,
        preview_tokens: int,
        model: Any = None,
        latent: dict[str, Any] | None = None,
        preview_steps: int = PREVIEW_STEPS,
    ) -> io.NodeOutput:
        widgets = Widgets(
            preset,
            rate_noise,
            rate_clean,
            hold_fraction,
            hold,
            curve,
            steps,
            points,
            levels,
            start_percent,
            end_percent,
        )
        schedule = widgets.schedule()
        dense = preview_grid(preview_tokens, model, latent)
        times = even_times(preview_steps)
        picture = to_image(draw_schedule(schedule, dense, title=_title(preset), times=times))
        show_text(summary(schedule, dense, model, preview_steps), cls)
        return io.NodeOutput(schedule, picture)


def preview_grid(side: int, model: Any, latent: dict[str, Any] | None) -> Grid:
    """Dense tokens of the picture to preview: those of ``latent``, of the model's own size, or a square."""
    if model is None:
        return side, side
    config = sparsedit_info(model).config
    if latent is None:
        return config.grid
    height, width = latent["samples"].shape[-2:]
    return -(-height // config.patch_size), -(-width // config.patch_size)


def summary(schedule: PruningSchedule, dense: Grid, model: Any, steps: int) -> str:
    """Fewest and most tokens, and the share of the dense model's MACs where the model is known."""
    info = None if model is None else sparsedit_info(model)
    viewed = None if info is None else ViewedModel(info.source, info.config, info.schedule)
    view = schedule_view(schedule, dense, steps, model=viewed)
    if viewed is None or view["cost"] is None:
        return str(view["summary"]["words"])
    return f"{view['summary']['words']}, {view['cost']['words']}, {steps} even steps"


def _title(preset: str) -> str:
    return "Pruning schedule" if preset == CUSTOM else f"Pruning schedule, {preset}"


def _rate_inputs() -> list[io.Input]:
    presets = "; ".join(f"{name}: {p.rate_noise:.2f} to {p.rate_clean:.2f}" for name, p in PRESETS.items())
    return [
        io.Combo.Input(
            "preset",
            options=[*PRESETS, CUSTOM],
            default=CUSTOM,
            tooltip=f"The two rates of the paper's DiT-XL/2 rows by picture size ({presets}), or those of the sliders "
            "(custom). Everything below the rates acts in both cases.",
        ),
        share_slider(
            "rate_noise",
            0.86,
            "Share of tokens dropped at pure noise, the start of sampling. Higher is faster and coarser; .61 to .96 in "
            "the paper. Not below rate_clean. Acts with preset custom.",
            high=MOST,
        ),
        share_slider(
            "rate_clean",
            0.61,
            "Share of tokens dropped near the finished image. Higher is faster and loses detail first; .44 to .90 in "
            "the paper. Acts with preset custom.",
            high=MOST,
        ),
    ]


def _shape_inputs() -> list[io.Input]:
    return [
        share_slider(
            "hold_fraction",
            0.25,
            "Part of the sampling in which the rate stands still, on the side of hold.",
            high=MOST,
        ),
        io.Combo.Input(
            "hold",
            options=["noise", "clean"],
            default="noise",
            tooltip="Where it stands still: noise keeps rate_noise in the first part (faster), clean keeps rate_clean "
            "in the last part (more detail).",
        ),
        io.Combo.Input(
            "curve",
            options=["linear", "cosine", "steps", "custom"],
            default="linear",
            tooltip="How the rate moves from rate_noise to rate_clean: straight, softly, in plateaus, or through your "
            "points.",
        ),
        io.Int.Input("steps", default=4, min=2, max=32, tooltip="Number of plateaus. Acts with curve steps."),
        io.String.Input(
            "points",
            default="",
            multiline=True,
            tooltip='Pairs of time:rate for curve custom, like "0.3:0.7, 0.6:0.8"; time 1 is noise, 0 the image; rates '
            "between rate_clean and rate_noise. The ends are the two rates, hold does not act.",
        ),
        io.Int.Input(
            "levels",
            default=6,
            min=0,
            max=64,
            tooltip="The token grid takes at most this many sizes in a run, at least 2, and the full grid outside "
            "start and end percent. Fewer means fewer compilations with torch.compile. 0 follows the curve exactly.",
        ),
        share_slider(
            "start_percent", 0.0, "Part of the sampling where it starts to act; before, no token is dropped.", high=MOST
        ),
        share_slider("end_percent", 1.0, "Part of the sampling where it stops to act; after, no token is dropped."),
    ]


def _preview_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "preview_tokens",
            default=16,
            min=2,
            max=256,
            tooltip="Dense tokens along a side of the picture drawn here when no model is connected: 16 at 256 "
            "pixels for DiT/2 and PixArt, 32 at 512. Changes only the preview.",
        ),
        io.Model.Input("model", optional=True, tooltip="Draws the preview for this model and tells the cost."),
        io.Latent.Input("latent", optional=True, tooltip="Draws the preview for the size of this latent; needs model."),
        io.Int.Input(
            "preview_steps",
            default=PREVIEW_STEPS,
            min=1,
            max=1000,
            optional=True,
            tooltip="Sampler steps that the picture marks and the cost is told for, evenly spaced. Changes only the "
            "preview: the schedule follows any sampler.",
        ),
    ]
