"""`impasto train`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from impasto.cli.terminal import Device, Threads, console

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

    from impasto.training.stylegan2 import Progress, Trainer

app = typer.Typer(no_args_is_help=True, help="Train a small generator on pictures of your own.")


@app.callback()
def train() -> None:
    pass


@app.command("stylegan2")
def stylegan2(
    data: Annotated[Path, typer.Option(exists=True, metavar="FILE|DIR", help="Pictures to take crops from.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="For weights, sample sheets and the state to go on from.")],
    resolution: Annotated[int, typer.Option(help="Of the pictures to make: a power of two.")] = 128,
    pictures: Annotated[int, typer.Option(min=1, help="Length of the run, in pictures seen.")] = 150_000,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 8,
    crop: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="MIN MAX", help="Sides of a crop in a picture's pixels; 1.75 and 3.5 times --resolution."),
    ] = None,
    mirror: Annotated[bool, typer.Option(help="Mirror half of the crops.")] = True,
    paired: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of a batch made from crops' latents, to be like them."),
    ] = 0.5,
    noise_to: Annotated[
        int | None, typer.Option(help="Highest resolution that gets noise.", show_default="all do")
    ] = None,
    grow_from: Annotated[int, typer.Option(help="Resolution to begin at; doubles until --resolution.")] = 32,
    grow_pictures: Annotated[int, typer.Option(min=1, help="Pictures seen at each lower resolution.")] = 24_000,
    r1_gamma: Annotated[
        float | None, typer.Option(min=0, help="Weight of R1; 0.0002·resolution²/16.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the run.")] = 0,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Train StyleGAN2 on crops of pictures. Ctrl-C saves; the same command goes on from there."""
    options: dict[str, Any] = {
        "mirror": mirror,
        "paired": paired,
        "noise_to": noise_to,
        "grow_from": grow_from,
        "grow_pictures": grow_pictures,
        "r1_gamma": r1_gamma,
        "seed": seed,
    }
    options |= {"pictures": pictures, "batch": batch, "crop": crop or (resolution * 7 // 4, resolution * 7 // 2)}
    trainer = _prepare(data, out, resolution, options, device, threads)
    terminal = console()
    _run(trainer)
    if trainer.seen < pictures:
        terminal.print(f"saved at {trainer.seen} of {pictures} pictures; the same command goes on from there")
        raise typer.Exit(130)
    typer.echo(out / "weights.safetensors")
    terminal.print(f"next: impasto import {out / 'weights.safetensors'} --name NAME")


def _prepare(
    data: Path,
    out: Path,
    resolution: int,
    options: dict[str, Any],
    device: str,
    threads: int | None,
) -> Trainer:
    """The trainer, at the state that `out` holds. InvalidRequest or BackendUnavailable if there can be none."""
    with console().status("reading pictures"):
        import torch

        from impasto.errors import BackendUnavailable, ImpastoError
        from impasto.training.crops import read_pictures
        from impasto.training.stylegan2 import Trainer, default_plan

        if threads:
            torch.set_num_threads(threads)
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendUnavailable(f"device: found {device!r}; torch {torch.__version__} finds no such device here")
        try:
            plan = default_plan(resolution, **options)
            found, skipped = read_pictures(data)
            for line in skipped:
                console().print(f"left out {line}", markup=False)
            return Trainer(plan, found, out, device)
        except ValueError as error:
            # The configuration, the pictures and the crops name the field that does not fit.
            raise ImpastoError(str(error)) from error


def _run(trainer: Trainer) -> None:
    """Train with a progress bar until the end or the first Ctrl-C; a second one stops at once, without saving."""
    stop = threading.Event()

    def on_interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        with _progress_bar() as bar:
            bar.console.print(f"training from {trainer.seen} to {trainer.plan.pictures} pictures")
            task = bar.add_task("training", total=trainer.plan.pictures, completed=trainer.seen, detail="", eta="")

            def report(progress: Progress) -> None:
                left = (progress.total - progress.seen) / max(progress.pictures_per_second, 1e-9)
                bar.update(task, completed=progress.seen, detail=_detail(progress), eta=_duration(left))
                if not bar.console.is_terminal:
                    bar.console.print(f"{progress.seen}/{progress.total} {_detail(progress)} {_duration(left)} left")

            trainer.run(report, stop.is_set)
    finally:
        signal.signal(signal.SIGINT, before)


def _progress_bar() -> ProgressBar:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"), TextColumn("{task.fields[eta]}"))
    return Progress(*columns, console=console(), transient=True)


def _detail(progress: Progress) -> str:
    return (
        f"{progress.resolution}×{progress.resolution}  {progress.pictures_per_second:.1f} pictures/s  "
        f"loss G {progress.loss_g:.2f} D {progress.loss_d:.2f}  augmentation {progress.augmentation:.2f}"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
