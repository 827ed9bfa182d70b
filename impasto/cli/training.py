"""What the commands of `impasto train` share: where a run is, pictures read, a bar, and the signals that stop it."""

from __future__ import annotations

import dataclasses
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import typer

from impasto.cli.terminal import Device, Threads, console

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

    from impasto.training.loop import Progress
    from impasto.training.pictures import PictureFolder


@dataclasses.dataclass(frozen=True)
class RunPlace:
    """The options that say where a run is: its pictures, its folder and what it runs on."""

    data: Annotated[Path, typer.Option(exists=True, metavar="FILE|DIR", help="Pictures to take crops from.")]
    out: Annotated[Path, typer.Option(metavar="DIR", help="For the model, sample sheets and the state to go on from.")]
    device: Device = "cpu"
    threads: Threads = None


class Trainer(Protocol):
    """A run that goes on from `seen` pictures until it is done or told to stop."""

    seen: int

    def run(self, report: Callable[[Progress], None], stop: Callable[[], bool]) -> None: ...


Built = TypeVar("Built")


def prepare(build: Callable[[PictureFolder], Built], place: RunPlace, smallest: int) -> Built:
    """The trainer that `build` makes for the pictures, without those that have a side under `smallest` pixels.

    InvalidRequest or BackendUnavailable if there can be none.
    """
    with console().status("reading pictures"):
        import torch

        from impasto.errors import BackendUnavailable, ImpastoError
        from impasto.training.pictures import read_pictures

        if place.threads:
            torch.set_num_threads(place.threads)
        if place.device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendUnavailable(
                f"device: found {place.device!r}; torch {torch.__version__} finds no such device here"
            )
        try:
            found, left_out = read_pictures(place.data, smallest)
            for line in left_out:
                console().print(f"left out {line}", markup=False)
            return build(found)
        except ValueError as error:
            # The configuration, the pictures and the crops name the field that does not fit.
            raise ImpastoError(str(error)) from error


def run(trainer: Trainer, pictures: int, detail: Callable[[Progress], str], model: Path) -> None:
    """Train with a progress bar to the end, then tell of the `model` on standard output, and how to import it.

    The first Ctrl-C or SIGTERM saves and exits with 128 + the signal's number, as shells have it: 130 or 143. A second
    one stops without saving.
    """
    with _stopped_by(signal.SIGINT, signal.SIGTERM) as caught, _progress_bar() as bar:
        bar.console.print(f"training from {trainer.seen} to {pictures} pictures")
        task = bar.add_task("training", total=pictures, completed=trainer.seen, detail="", eta="")

        def report(progress: Progress) -> None:
            left = _duration((progress.total - progress.seen) / max(progress.pictures_per_second, 1e-9))
            text = f"{progress.pictures_per_second:.1f} pictures/s  {detail(progress)}"
            bar.update(task, completed=progress.seen, detail=text, eta=left)
            if not bar.console.is_terminal:
                bar.console.print(f"{progress.seen}/{progress.total} {text} {left} left")

        trainer.run(report, lambda: bool(caught))
    if trainer.seen < pictures:
        console().print(f"saved at {trainer.seen} of {pictures} pictures; the same command goes on from there")
        raise typer.Exit(128 + caught[0])
    typer.echo(model)
    console().print(f"next: impasto import {shlex.quote(str(model))} --name NAME")


def each_loss(progress: Progress) -> str:
    """The mean of each loss since the last report, by its name."""
    return "  ".join(f"{name} {value:.4f}" for name, value in progress.losses.items())


def adversarial_losses(progress: Progress) -> str:
    """The losses of generator and discriminator, and how much is augmented."""
    losses = progress.losses
    return f"loss G {losses['loss_g']:.2f} D {losses['loss_d']:.2f}  augmentation {losses['augmentation']:.2f}"


@contextmanager
def _stopped_by(*numbers: signal.Signals) -> Iterator[list[int]]:
    """A list that gets the number of the first of these signals; the next one has the effect that it had before."""
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def catch(number: int, frame: object) -> None:
        caught.append(number)
        restore()

    for number in numbers:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()


def _progress_bar() -> ProgressBar:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"), TextColumn("{task.fields[eta]}"))
    return Progress(*columns, console=console(), transient=True)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
