"""`impasto project`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from impasto.cli.classes import Label, class_index
from impasto.cli.generate import Noise
from impasto.cli.terminal import Json, Models, Threads, console, print_json

if TYPE_CHECKING:
    from PIL import Image

    from impasto.images.pixels import Bytes
    from impasto.training.projectable import Projectable
    from impasto.training.projection import Projection, ProjectionPlan

GOOD = 25.0
"""PSNR in dB that a picture which the generator made is found again with."""


def project(
    model: Annotated[str, typer.Argument(help="A model's name, or the folder of a bundle.")],
    picture: Annotated[Path, typer.Argument(help="The picture to find; its middle is scaled to the model's size.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="For the latent, its picture, and both on a sheet.")],
    steps: Annotated[int, typer.Option(min=1, help="Of gradient descent.")] = 300,
    noise: Annotated[Noise | None, typer.Option(help="Noise maps; the model's own unless given.")] = None,
    find_noise: Annotated[
        bool, typer.Option("--find-noise", help="Find StyleGAN2's noise maps too; `generate` takes no such maps.")
    ] = False,
    label: Label = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    model_version: Annotated[str, typer.Option(help="Version of the model; the highest unless given.")] = "",
    models: Models = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Find the latent from which a model makes a picture: ws.npy of a StyleGAN, z.npy of other models that take z."""
    began = time.monotonic()
    with console().status("reading"):
        import torch

        from impasto.export.bundle import MANIFEST, find_bundle, model_directories, open_bundle
        from impasto.training.pictures import read_picture
        from impasto.training.projectable import open_projectable
        from impasto.training.projection import ProjectionPlan, fitted

        if threads:
            torch.set_num_threads(threads)
        plan = ProjectionPlan(steps=steps, find_noise=find_noise, seed=seed)
        path = Path(model)
        if not (path / MANIFEST).is_file():
            path = find_bundle(model, model_directories(models), model_version)
        bundle = open_bundle(path)
        index = class_index(label, lambda: bundle.manifest.class_names)
        opened = open_projectable(bundle, None if noise is None else noise.value, index)
        target = fitted(_read(picture, read_picture), opened.manifest.width, opened.manifest.height)
    found = _search(opened, target, plan)
    written = _write(out, opened, found, target, plan)
    seconds = time.monotonic() - began
    if as_json:
        told = {name: str(file) for name, file in written.items()}
        print_json(
            {**told, "psnr": found.psnr if math.isfinite(found.psnr) else None, "steps": steps, "seconds": seconds}
        )
        return
    for file in written.values():
        typer.echo(file)
    console().print(f"PSNR {found.psnr:.2f} dB after {steps} steps in {seconds:.1f} s")
    if found.psnr < GOOD and opened.noise is not None and not find_noise:
        console().print("if the picture has noise maps of its own: --find-noise finds them too")


def _read(picture: Path, read_picture: Callable[[Path], Image.Image]) -> Image.Image:
    from impasto.errors import InvalidRequest
    from impasto.training.pictures import Unreadable

    picture.stat()
    try:
        return read_picture(picture)
    except Unreadable as error:
        raise InvalidRequest("picture", str(picture), f"a picture: {error}") from error


def _search(opened: Projectable, target: Bytes, plan: ProjectionPlan) -> Projection:
    """Project with a bar over the steps, which tells how near it is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from impasto.training.projection import project

    terminal = console()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("PSNR {task.fields[psnr]:.2f} dB"), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("steps", total=plan.steps, psnr=0.0)
        return project(
            opened, target, plan, lambda progress: bar.update(task, completed=progress.step, psnr=progress.psnr)
        )


def _write(out: Path, opened: Projectable, found: Projection, target: Bytes, plan: ProjectionPlan) -> dict[str, Path]:
    """The latent, its picture and the sheet (wanted, the model's mean, found); where each is."""
    import numpy as np

    from impasto.images import Picture, contact_sheet

    out.mkdir(parents=True, exist_ok=True)
    metadata = {
        "model": opened.manifest.name,
        "version": opened.manifest.version,
        "digest": opened.manifest.digest,
        "seed": None,
        "projection": {"steps": plan.steps, "seed": plan.seed},
    }
    written = {
        opened.name: out / f"{opened.name}.npy",
        "picture": Picture(metadata, array=found.picture).save(out / "picture.png"),
        "sheet": Picture(metadata, array=contact_sheet([target, found.start, found.picture], 3)).save(
            out / "sheet.png"
        ),
    }
    np.save(written[opened.name], found.latent)
    if found.noise is not None:
        written["noise"] = out / "noise.npy"
        np.save(written["noise"], found.noise)
    return written
