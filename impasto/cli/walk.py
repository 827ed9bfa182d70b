"""`impasto walk`."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from impasto.cli import denoising
from impasto.cli.classes import Label, class_index
from impasto.cli.generate import Noise, parse_seeds
from impasto.cli.options import takes
from impasto.cli.source import Where, in_batches, open_source
from impasto.cli.terminal import Json, console, print_json

if TYPE_CHECKING:
    from impasto.images import Picture
    from impasto.images.pixels import Floats


class In(enum.StrEnum):
    """Latent spaces."""

    z = "z"
    w = "w"


class Along(enum.StrEnum):
    """Interpolations."""

    linear = "linear"
    spherical = "spherical"


@takes(where=Where)
def walk(
    model: Annotated[str, typer.Argument(help="A model's name, or the folder of a bundle.")],
    out: Annotated[Path, typer.Option(metavar="FILE|DIR", help="A .mp4 or .gif, or a folder for PNG frames.")],
    seeds: Annotated[
        str | None, typer.Option(metavar="LIST", help="Seeds and ranges to walk through: 1,2,5-9.")
    ] = None,
    random: Annotated[int | None, typer.Option(metavar="SEED", help="Or a smooth random walk of this seed.")] = None,
    keys: Annotated[
        int | None, typer.Option(min=2, help="Pictures that a random walk comes by; one a second unless given.")
    ] = None,
    ws: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Or through styles that `impasto project` found: once for each .npy."),
    ] = None,
    frames: Annotated[int, typer.Option(min=2, help="Length of the walk.")] = 120,
    fps: Annotated[int, typer.Option(min=1, help="Frames a second.")] = 30,
    loop: Annotated[bool, typer.Option("--loop", help="Walk back to the start, without a seam.")] = False,
    space: Annotated[In, typer.Option(help="Where to interpolate; w is of StyleGANs.")] = In.z,
    along: Annotated[
        Along | None, typer.Option(help="The line or the arc from key to key.", show_default="spherical; in w linear")
    ] = None,
    psi: Annotated[float | None, typer.Option(help="Truncation: 1 none, 0 the average picture.")] = None,
    cutoff: Annotated[int | None, typer.Option(help="Truncate only that many first layers.")] = None,
    noise: Annotated[Noise | None, typer.Option(help="Noise maps, the same in all frames.")] = None,
    label: Label = None,
    prompt: denoising.Prompt = None,
    steps: denoising.Steps = None,
    sampler: denoising.Sampler = None,
    guidance_scale: denoising.GuidanceScale = None,
    *,
    where: Where,
    as_json: Json = False,
) -> None:
    """Walk through a model's latent space and write the frames as a film, or as files."""
    listed = parse_keys(seeds, random, ws, keys or max(2, frames // fps))
    in_w = bool(ws) or space is In.w
    if random is not None and (in_w or along):
        raise typer.BadParameter("--random walks in z, smoothly; it goes with neither --space w nor --along")
    if ws and (psi, cutoff, label) != (None, None, None):
        raise typer.BadParameter("--ws are styles as they are, which go with none of --psi, --cutoff, --label")
    parameters: dict[str, Any] = {
        "noise_mode": None if noise is None else noise.value,
        "prompt": prompt,
        "steps": steps,
        "sampler": sampler,
        "guidance_scale": guidance_scale,
    }
    began = time.monotonic()
    with open_source(model, where) as opened:
        from impasto.images.film import write_film
        from impasto.latents import INTERPOLATIONS, smooth, through

        truncation = {"psi": psi, "psi_cutoff": cutoff, "label": class_index(label, lambda: opened.classes)}
        latents = opened.styles(truncation) if in_w else opened.space(listed[0])
        points = [read_ws(file) for file in ws] if ws else [latents.of_seed(seed) for seed in listed]
        if random is not None:
            path = smooth(points, frames, closed=loop)
        else:
            chosen = along or (Along.linear if in_w else Along.spherical)
            path = through(points, frames, interpolate=INTERPOLATIONS[chosen], closed=loop)
        shared = parameters if in_w else parameters | truncation
        pictures = _numbered(in_batches(opened, latents, path, shared), listed, frames)
        written = write_film(out, _with_bar(pictures, frames), fps)
    seconds = time.monotonic() - began
    if as_json:
        print_json({"path": str(written), "frames": frames, "fps": fps, "seeds": listed, "seconds": seconds})
        return
    typer.echo(written)
    console().print(f"{frames} frames in {seconds:.2f} s, {frames / fps:.1f} s of film")


def parse_keys(seeds: str | None, random: int | None, ws: list[Path] | None, count: int) -> list[int]:
    """The seeds to walk through, `count` of a random walk, none of --ws. BadParameter unless one of them is given."""
    given = {"--seeds": seeds is not None, "--random": random is not None, "--ws": bool(ws)}
    if sum(given.values()) != 1:
        found = " and ".join(name for name, there in given.items() if there) or "none"
        raise typer.BadParameter(f"found {found}; allowed is one of {', '.join(given)}")
    if seeds is not None:
        return parse_seeds(None, 1, seeds)
    if random is None:
        return []
    from impasto.generation import check_seed
    from impasto.latents import drawn_seeds

    check_seed("random", random)
    return drawn_seeds(random, count)


def read_ws(file: Path) -> Floats:
    """The styles [num_ws, w_dim] of an .npy file. InvalidRequest if it holds nothing of the kind."""
    import numpy as np

    from impasto.errors import InvalidRequest

    allowed = "an .npy file with ws [num_ws, w_dim]"
    try:
        ws = np.load(file, allow_pickle=False)
        values: Floats = np.asarray(ws, np.float32)
    except (ValueError, EOFError) as error:
        raise InvalidRequest("ws", str(file), allowed) from error
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2:
        raise InvalidRequest("ws", f"{file} of shape {list(values.shape)}", allowed)
    return values


def _numbered(pictures: Iterator[Picture], seeds: list[int], frames: int) -> Iterator[Picture]:
    """Each frame with its place in the walk in its metadata."""
    from impasto.images import Picture

    for frame, picture in enumerate(pictures):
        walked = {"seeds": seeds, "frame": frame, "frames": frames}
        yield Picture({**picture.metadata, "walk": walked}, array=picture.array)


def _with_bar(pictures: Iterator[Picture], frames: int) -> Iterator[Picture]:
    """The same pictures, with a progress bar on a terminal."""
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    terminal = console()
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        yield from bar.track(pictures, total=frames, description="frames")
