"""Watchers of a training run: the bar, the curves, sheets of samples, TensorBoard."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ..backbone import Backbone
from ..checkpoint import Loaded
from ..conditions import Conditions, has_null, with_classes
from ..extras import imported
from ..sampling import SampleOptions, initial_noise, sample
from ..sheets import grid_sheet, to_pictures
from ..train.curves import draw_curves
from ..train.options import TrainOptions
from ..train.progress import Progress, RunLog, Watcher
from ..train.source import Source
from .asking import described, spread_conditions
from .files import write_png
from .sample import view

SHEET_STEPS, SHEET_GUIDANCE, SHEET_PICTURES = 20, 1.5, 10


class Bar(Watcher):
    """Pictures, loss, pictures per second and the time left, on stderr."""

    def __init__(self, settings: TrainOptions) -> None:
        self.settings = settings
        self.bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()

    def resumed(self, step: int) -> None:
        """See train/progress.py; only here, as other processes show no bar."""
        batch, total = self.settings.batch, self.settings.steps * self.settings.batch
        self.bar = tqdm(total=total, initial=step * batch, unit=" pictures", dynamic_ncols=True, delay=0.5)

    def step(self, progress: Progress, _: Backbone) -> None:
        """See train/progress.py."""
        self.bar.set_postfix_str(f"loss {progress.loss:.4f}", refresh=False)
        self.bar.update(progress.pictures - self.bar.n)


class Curves(Watcher):
    """The curves of the log as a picture, drawn again at every save."""

    def __init__(self, path: Path, log: RunLog) -> None:
        self.path, self.log = path, log

    def saved(self, _: Progress) -> None:
        """See train/progress.py."""
        if self.log.rows:
            write_png(self.path, draw_curves(self.log.rows, title=self.log.table_path.name.removesuffix(".loss.csv")))


class Sheets(Watcher):
    """Samples of the averaged weights every ``every`` steps, always of the same noise and conditions."""

    def __init__(self, folder: Path, loaded: Loaded, source: Source, every: int, seed: int) -> None:
        self.folder, self.loaded, self.every, self.seed = folder, loaded, every, seed
        self.conditions = sheet_conditions(loaded, source)

    def step(self, progress: Progress, averaged: Backbone) -> None:
        """See train/progress.py."""
        if progress.step % self.every == 0 or progress.step == progress.steps:
            loaded = replace(self.loaded, model=averaged)
            below = f"after step {progress.step}, seed {self.seed}, {SHEET_STEPS} steps, guidance {SHEET_GUIDANCE}"
            sheet = sample_sheet(loaded, self.conditions, self.seed, below)
            write_png(self.folder / f"step-{progress.step:08d}.png", sheet)


def sheet_conditions(loaded: Loaded, source: Source) -> Conditions:
    """What a sheet shows: up to ten classes, spread over all, or the captions of the first samples."""
    if loaded.family == "pixart":
        return source.batch(0, min(SHEET_PICTURES, source.count or SHEET_PICTURES))[1]
    return spread_conditions(loaded, min(SHEET_PICTURES, with_classes(loaded.config).num_classes))


def sample_sheet(loaded: Loaded, conditions: Conditions, seed: int, below: str) -> Any:
    """A picture for each of the conditions; latents in rough colours."""
    guidance = SHEET_GUIDANCE if has_null(loaded.config) else 1.0
    noise = initial_noise(loaded, len(conditions), seed=seed)
    images = sample(loaded, noise, conditions, SampleOptions(SHEET_STEPS, cfg=guidance), seed=seed).images
    pictures = to_pictures(view(images, loaded), zoom=max(1, 128 // images.shape[-1]))
    names = described(loaded, conditions)
    return grid_sheet(pictures, names, columns=5, title="Samples of the averaged weights", below=below)


class TensorBoard(Watcher):
    """The curves for TensorBoard; ``ValueError`` names the extra where it is not installed.

    They are all in the file once its context is left, also by an error.
    """

    def __init__(self, folder: Path) -> None:
        imported("tensorboard", "tensorboard")
        self.folder = folder
        self.writer: Any = None

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.writer is not None:
            self.writer.close()

    def resumed(self, step: int) -> None:
        """See train/progress.py; what an ended run wrote of later steps is hidden by TensorBoard."""
        module = imported("torch.utils.tensorboard", "tensorboard")
        self.writer = module.SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)

    def step(self, progress: Progress, _: Backbone) -> None:
        """See train/progress.py."""
        for name in ("step_loss", "loss", "grad_norm", "rate", "images_per_second"):
            value = getattr(progress, name)
            if math.isfinite(value):
                self.writer.add_scalar(name, value, progress.step)
        if progress.grid is not None:
            self.writer.add_scalar("sparse_tokens", progress.grid[0] * progress.grid[1], progress.step)

    def saved(self, _: Progress) -> None:
        """See train/progress.py."""
        self.writer.flush()
