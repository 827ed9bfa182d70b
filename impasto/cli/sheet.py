"""`impasto sheet`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from impasto.cli.classes import Label, class_index
from impasto.cli.generate import Noise, parse_seeds
from impasto.cli.options import takes
from impasto.cli.source import Where, open_source
from impasto.cli.terminal import console

if TYPE_CHECKING:
    from impasto.images import Picture
    from impasto.latents import Make

Model = Annotated[str, typer.Argument(help="A model's name, or the folder of a bundle.")]
Out = Annotated[Path, typer.Option(metavar="FILE", help="A .png, .jpg or .webp.")]
NoiseMode = Annotated[Noise | None, typer.Option("--noise", help="Noise maps: stored, from the seed, or none.")]

app = typer.Typer(no_args_is_help=True, help="Show on one sheet what a model's styles and its truncation do.")


@app.callback()
def sheet() -> None:
    pass


@app.command("mixing")
@takes(where=Where)
def mixing(
    model: Model,
    out: Out,
    rows: Annotated[str, typer.Option(metavar="LIST", help="Seeds down the left: 1,2,5-9.")],
    columns: Annotated[str, typer.Option(metavar="LIST", help="Seeds along the top, whose styles the rows get.")],
    layers: Annotated[str, typer.Option(metavar="FIRST-LAST", help="Of which layers, both included.")],
    psi: Annotated[float | None, typer.Option(help="Truncation: 1 none, 0 the average picture.")] = None,
    noise: NoiseMode = None,
    label: Label = None,
    *,
    where: Where,
) -> None:
    """Mix styles: each row's picture with some layers' styles from each column's, of models with layers of styles."""
    down, across, span = parse_seeds(None, 1, rows), parse_seeds(None, 1, columns), parse_layers(layers)

    def draw(make: Make) -> Picture:
        from impasto.latents import mixing_sheet

        return mixing_sheet(make, down, across, span, psi=psi, noise_mode=noise and noise.value)

    _write(draw, out, len(down) * (len(across) + 1) + len(across), model, label, where)


@app.command("truncation")
@takes(where=Where)
def truncation(
    model: Model,
    out: Out,
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Seeds, a row each: 1,2,5-9.")],
    psi: Annotated[str, typer.Option(metavar="LIST", help="A column each.")] = "0,0.25,0.5,0.75,1",
    cutoff: Annotated[int | None, typer.Option(help="Truncate only that many first layers.")] = None,
    noise: NoiseMode = None,
    label: Label = None,
    *,
    where: Where,
) -> None:
    """Truncate: each seed's picture from the average to itself."""
    listed, psis = parse_seeds(None, 1, seeds), parse_psis(psi)

    def draw(make: Make) -> Picture:
        from impasto.latents import truncation_sheet

        return truncation_sheet(make, listed, psis, psi_cutoff=cutoff, noise_mode=noise and noise.value)

    _write(draw, out, len(listed) * len(psis), model, label, where)


def parse_layers(layers: str) -> tuple[int, int]:
    """The option --layers: first and last layer."""
    first, dash, last = layers.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise typer.BadParameter(f"--layers: found {layers!r}; allowed is FIRST-LAST such as 0-3")
    return int(first), int(last)


def parse_psis(psis: str) -> list[float]:
    """The option --psi: numbers between commas."""
    try:
        return [float(part) for part in psis.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--psi: found {psis!r}; allowed are numbers such as 0,0.5,1") from None


def _write(draw: Callable[[Make], Picture], out: Path, count: int, model: str, label: str | None, where: Where) -> None:
    """Draw the sheet, of that class, with a bar over the `count` pictures on it, and write it."""
    from impasto.cli.output import SHEET_SUFFIXES
    from impasto.cli.progress import Bars

    if out.suffix.lower() not in SHEET_SUFFIXES:
        raise typer.BadParameter(f"{out}: a sheet's file name ends in {', '.join(SHEET_SUFFIXES)}")
    with open_source(model, where) as opened, Bars(count, console()) as bars:
        index = class_index(label, lambda: opened.classes)
        drawn = draw(lambda **parameters: opened.make(**parameters, label=index, on_progress=bars.show))
    out.parent.mkdir(parents=True, exist_ok=True)
    typer.echo(drawn.save(out))
