"""SparseDiT Pruning Schedule: how many tokens are computed at which time of the sampling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ..sparsedit_core.plots import draw_schedule
from ..sparsedit_core.schedule import PRESETS, Grid, PruningSchedule
from ..sparsedit_core.schedule_cost import schedule_macs
from .info import sparsedit_info
from .show import show_text, to_image

ScheduleType = io.Custom("SPARSEDIT_SCHEDULE")
CUSTOM = "custom"
COST_STEPS = 50


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
                "few when details appear. Connect it to SparseDiT Apply Schedule. The picture shows the tokens kept at "
                "each time."
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
    ) -> io.NodeOutput:
        rates = PruningSchedule(rate_noise, rate_clean) if preset == CUSTOM else PRESETS[preset]
        schedule = replace(
            rates,
            hold_fraction=hold_fraction,
            hold=hold,
            curve=curve,
            steps=steps,
            points=parse_points(points) if curve == CUSTOM else (),
            levels=max(levels, 2) if levels else None,
            start=start_percent,
            end=end_percent,
        )
        dense = preview_grid(preview_tokens, model, latent)
        picture = to_image(draw_schedule(schedule, dense, title=_title(preset)))
        show_text(summary(schedule, dense, model), cls)
        return io.NodeOutput(schedule, picture, ui=ui.PreviewImage(picture, cls=cls))


def parse_points(text: str) -> tuple[tuple[float, float], ...]:
    """``"0.3:0.7, 0.6:0.8"``, pairs of time and rate, separated by commas or line ends."""
    pairs = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    try:
        points = tuple((float(time), float(rate)) for time, rate in (pair.split(":") for pair in pairs))
    except ValueError:
        raise ValueError(f'points are {text!r}; write pairs of time:rate like "0.3:0.7, 0.6:0.8"') from None
    return tuple(sorted(points))


def preview_grid(side: int, model: Any, latent: dict[str, Any] | None) -> Grid:
    """Dense tokens of the picture to preview: those of ``latent``, of the model's own size, or a square."""
    if model is None:
        return side, side
    config = sparsedit_info(model).config
    if latent is None:
        return config.grid
    height, width = latent["samples"].shape[-2:]
    return -(-height // config.patch_size), -(-width // config.patch_size)


def summary(schedule: PruningSchedule, dense: Grid, model: Any) -> str:
    """Fewest and most tokens, and the share of the dense model's MACs where the model is known."""
    grids = [grid for _, _, grid in schedule.buckets(dense)]
    least, most = min(grids), max(grids)
    text = f"{least[0]}x{least[1]} to {most[0]}x{most[1]} of {dense[0]}x{dense[1]} tokens"
    config = None if model is None else sparsedit_info(model).config
    if config is None or config.layout is None:
        return text
    size = dense[0] * config.patch_size, dense[1] * config.patch_size
    cost = schedule_macs(config, schedule, COST_STEPS, size, factor=1)
    return f"{text}, {100 * cost.ratio:.0f} % of dense MACs over {COST_STEPS} even steps"


def _title(preset: str) -> str:
    return "Pruning schedule" if preset == CUSTOM else f"Pruning schedule, {preset}"


def _slider(name: str, default: float, tooltip: str, high: float = 0.99) -> io.Float.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=high, step=0.01, display_mode=io.NumberDisplay.slider, tooltip=tooltip
    )


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
        _slider(
            "rate_noise",
            0.86,
            "Share of tokens dropped at pure noise, the start of sampling. Higher is faster and coarser; .61 to .96 in "
            "the paper. Not below rate_clean. Acts with preset custom.",
        ),
        _slider(
            "rate_clean",
            0.61,
            "Share of tokens dropped near the finished image. Higher is faster and loses detail first; .44 to .90 in "
            "the paper. Acts with preset custom.",
        ),
    ]


def _shape_inputs() -> list[io.Input]:
    return [
        _slider("hold_fraction", 0.25, "Part of the sampling in which the rate stands still, on the side of hold."),
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
        _slider("start_percent", 0.0, "Part of the sampling where it starts to act; before, no token is dropped."),
        _slider("end_percent", 1.0, "Part of the sampling where it stops to act; after, no token is dropped.", 1.0),
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
    ]
