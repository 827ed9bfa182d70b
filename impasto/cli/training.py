"""What the commands of `impasto train` share: pictures read, a bar while a run goes on, Ctrl-C, and what comes next."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import typer

from impasto.cli.terminal import console

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

    from impasto.training.loop import Losses, Progress
    from impasto.training.pictures import PictureFolder


class Trainer(Protocol):
    """A run that goes on from `seen` pictures until it is done or told to stop."""

    seen: int

    def run(self, report: Callable[[Progress], None], stop: Callable[[], bool]) -> None: ...


Built = TypeVar("Built")


def prepare(
    build: Callable[[PictureFolder], Built], data: Path, device: str, threads: int | None, smallest: int
) -> Built:
    """The trainer that `build` makes for pictures, without those that have a side under `smallest` pixels.

    InvalidRequest or BackendUnavailable if there can be none.
    """
    with console().status("reading pictures"):
        import torch

        from impasto.errors import BackendUnavailable, ImpastoError
        from impasto.training.pictures import read_pictures

        if threads:
            torch.set_num_threads(threads)
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendUnavailable(f"device: found {device!r}; torch {torch.__version__} finds no such device here")
        try:
            found, left_out = read_pictures(data, smallest)
            for line in left_out:
                console().print(f"left out {line}", markup=False)
            return build(found)
        except ValueError as error:
            # The configuration, the pictures and the crops name the field that does not fit.
            raise ImpastoError(str(error)) from error


def run(trainer: Trainer, pictures: int, detail: Callable[[Progress], str]) -> None:
    """Train with a progress bar to the end. The first Ctrl-C saves and exits; a second one stops without saving."""
    stop = threading.Event()

    def on_interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        with _progress_bar() as bar:
            bar.console.print(f"training from {trainer.seen} to {pictures} pictures")
            task = bar.add_task("training", total=pictures, completed=trainer.seen, detail="", eta="")

            def report(progress: Progress) -> None:
                left = _duration((progress.total - progress.seen) / max(progress.pictures_per_second, 1e-9))
                text = f"{progress.pictures_per_second:.1f} pictures/s  {detail(progress)}"
                bar.update(task, completed=progress.seen, detail=text, eta=left)
                if not bar.console.is_terminal:
                    bar.console.print(f"{progress.seen}/{progress.total} {text} {left} left")

            trainer.run(report, stop.is_set)
    finally:
        signal.signal(signal.SIGINT, before)
    if trainer.seen < pictures:
        console().print(f"saved at {trainer.seen} of {pictures} pictures; the same command goes on from there")
        raise typer.Exit(130)


def each_loss(progress: Progress) -> str:
    """The mean of each loss since the last report, by its name."""
    return "  ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())


def adversarial_losses(losses: Losses) -> str:
    """The losses of generator and discriminator, and how much is augmented."""
    return f"loss G {losses['loss_g']:.2f} D {losses['loss_d']:.2f}  augmentation {losses['augmentation']:.2f}"


def say_next(model: Path) -> None:
    """The model's path on standard output, and how to import it."""
    typer.echo(model)
    console().print(f"next: impasto import {model} --name NAME")


def _progress_bar() -> ProgressBar:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"), TextColumn("{task.fields[eta]}"))
    return Progress(*columns, console=console(), transient=True)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
