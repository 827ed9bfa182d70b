"""`impasto train`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from impasto.cli.terminal import Device, Threads, console

if TYPE_CHECKING:
    from PIL import Image
    from rich.progress import Progress as ProgressBar

    from impasto.training import diffusion as diffusion_training
    from impasto.training import stylegan2 as stylegan2_training

Data = Annotated[Path, typer.Option(exists=True, metavar="FILE|DIR", help="Pictures to take crops from.")]
Batch = Annotated[int, typer.Option(min=1, help="Pictures a step.")]
Crop = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="MIN MAX", help="Sides of a crop in a picture's pixels; 1.75 and 3.5 times --resolution."),
]
Mirror = Annotated[bool, typer.Option(help="Mirror half of the crops.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the run.")]
Pictures = Annotated[int, typer.Option(min=1, help="Length of the run, in pictures seen.")]

app = typer.Typer(no_args_is_help=True, help="Train a small generator on pictures of your own.")


@app.callback()
def train() -> None:
    pass


@app.command("stylegan2")
def stylegan2(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="DIR", help="For weights, sample sheets and the state to go on from.")],
    resolution: Annotated[int, typer.Option(help="Of the pictures to make: a power of two.")] = 128,
    pictures: Pictures = 150_000,
    batch: Batch = 8,
    crop: Crop = None,
    mirror: Mirror = True,
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
    seed: Seed = 0,
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
    options |= {"pictures": pictures, "batch": batch, "crop": crop or _default_crop(resolution)}

    def build(found: list[Image.Image]) -> stylegan2_training.Trainer:
        from impasto.training.stylegan2 import Trainer, default_plan

        return Trainer(default_plan(resolution, **options), found, out, device)

    def detail(progress: stylegan2_training.Progress) -> str:
        losses = f"loss G {progress.loss_g:.2f} D {progress.loss_d:.2f}"
        return f"{progress.resolution}×{progress.resolution}  {losses}  augmentation {progress.augmentation:.2f}"

    _run(_prepare(build, data, device, threads), pictures, detail)
    typer.echo(out / "weights.safetensors")
    console().print(f"next: impasto import {out / 'weights.safetensors'} --name NAME")


@app.command("diffusion")
def diffusion(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="DIR", help="For the model, sample sheets and the state to go on from.")],
    resolution: Annotated[int, typer.Option(min=8, help="Of the pictures to make: a multiple of 8.")] = 64,
    pictures: Pictures = 150_000,
    batch: Batch = 8,
    crop: Crop = None,
    mirror: Mirror = True,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of AdamW, after a warm-up.")] = 6e-4,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Train a pixel diffusion model on crops of pictures. Ctrl-C saves; the same command goes on from there."""

    def build(found: list[Image.Image]) -> diffusion_training.Trainer:
        from impasto.training.diffusion import DiffusionPlan, Trainer

        plan = DiffusionPlan(
            resolution=resolution,
            pictures=pictures,
            batch=batch,
            crop=crop or _default_crop(resolution),
            mirror=mirror,
            learning_rate=learning_rate,
            seed=seed,
        )
        return Trainer(plan, found, out, device)

    def detail(progress: diffusion_training.Progress) -> str:
        return f"loss {progress.loss:.4f}"

    _run(_prepare(build, data, device, threads), pictures, detail)
    typer.echo(out / "model")
    console().print(f"next: impasto import {out / 'model'} --name NAME")


def _default_crop(resolution: int) -> tuple[int, int]:
    return resolution * 7 // 4, resolution * 7 // 2


class Progress(Protocol):
    """What every trainer reports."""

    @property
    def seen(self) -> int: ...

    @property
    def total(self) -> int: ...

    @property
    def pictures_per_second(self) -> float: ...


Reported_co = TypeVar("Reported_co", bound=Progress, covariant=True)


class Trainer(Protocol[Reported_co]):
    """A run that goes on from `seen` pictures until it is done or told to stop."""

    seen: int

    def run(self, report: Callable[[Reported_co], None], stop: Callable[[], bool]) -> None: ...


Reported = TypeVar("Reported", bound=Progress)


Built = TypeVar("Built")


def _prepare(build: Callable[[list[Image.Image]], Built], data: Path, device: str, threads: int | None) -> Built:
    """The trainer that `build` makes for pictures. InvalidRequest or BackendUnavailable if there can be none."""
    with console().status("reading pictures"):
        import torch

        from impasto.errors import BackendUnavailable, ImpastoError
        from impasto.training.crops import read_pictures

        if threads:
            torch.set_num_threads(threads)
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendUnavailable(f"device: found {device!r}; torch {torch.__version__} finds no such device here")
        try:
            found, skipped = read_pictures(data)
            for line in skipped:
                console().print(f"left out {line}", markup=False)
            return build(found)
        except ValueError as error:
            # The configuration, the pictures and the crops name the field that does not fit.
            raise ImpastoError(str(error)) from error


def _run(trainer: Trainer[Reported], pictures: int, detail: Callable[[Reported], str]) -> None:
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

            def report(progress: Reported) -> None:
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


def _progress_bar() -> ProgressBar:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}"), TextColumn("{task.fields[eta]}"))
    return Progress(*columns, console=console(), transient=True)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
