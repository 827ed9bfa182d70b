"""The loop that all trainers share: steps, loss curve, reports, sample sheets and states."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from impasto.images import contact_sheet
from impasto.training.curve import Curve
from impasto.training.state import replaced

REPORT_SECONDS = 10.0

Losses = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run is: pictures seen of all, and the mean of each loss since the last report."""

    seen: int
    total: int
    pictures_per_second: float
    losses: Losses


Report = Callable[[Progress], None]
Stop = Callable[[], bool]


class Lengths(Protocol):
    """The part of a plan that says how long to train and how often to write."""

    @property
    def pictures(self) -> int: ...

    @property
    def sheet_pictures(self) -> int: ...

    @property
    def save_seconds(self) -> float: ...


class Run(Protocol):
    """What a trainer does."""

    out: Path
    seen: int

    @property
    def plan(self) -> Lengths: ...

    def step(self) -> Losses:
        """Train on one batch and count its pictures as seen."""

    def sheet(self) -> Image.Image:
        """What the model makes now."""

    def save(self) -> None:
        """Write the state, whole or not at all."""

    def write(self) -> Path:
        """Write the model to import."""


def train(run: Run, report: Report = lambda progress: None, stop: Stop = lambda: False) -> None:
    """Train to the end, calling `report` a few times a minute; write the curve, states, and sheets with their models.

    Once `stop` is true the state is saved after the step under way, and that is all.
    """
    plan = run.plan
    last_save = last_report = time.monotonic()
    reported, losses = run.seen, list[Losses]()
    with closing(Curve(run.out, run.seen)) as curve:
        while run.seen < plan.pictures and not stop():
            before = run.seen
            losses.append(run.step())
            curve.append(run.seen, losses[-1])
            now = time.monotonic()
            if now - last_report > REPORT_SECONDS:
                rate = (run.seen - reported) / (now - last_report)
                report(Progress(run.seen, plan.pictures, rate, mean(losses)))
                last_report, reported, losses = now, run.seen, []
            if run.seen // plan.sheet_pictures > before // plan.sheet_pictures:
                write_sheet(run.sheet(), run.out / f"sheet_{run.seen:07d}.png")
                run.write()
            if now - last_save > plan.save_seconds:
                run.save()
                last_save = now
    run.save()
    if run.seen >= plan.pictures:
        write_sheet(run.sheet(), run.out / "sheet_final.png")
        run.write()


def mean(losses: Sequence[Losses]) -> Losses:
    """The mean of each loss over some steps."""
    return {name: float(np.mean([step[name] for step in losses])) for name in losses[0]}


def write_sheet(sheet: Image.Image, path: Path) -> None:
    with replaced(path) as part:
        sheet.save(part, "PNG")


def sheet_of(pictures: Tensor, columns: int | None = None) -> Image.Image:
    """A contact sheet of pictures [N, 3, R, R] in [-1, 1]."""
    pixels = (pictures.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu()
    return Image.fromarray(contact_sheet(list(pixels.permute(0, 2, 3, 1).numpy()), columns))
