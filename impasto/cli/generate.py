"""`impasto generate`."""

from __future__ import annotations

import dataclasses
import enum
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from impasto.cli import denoising
from impasto.cli.classes import Label, class_index
from impasto.cli.options import takes
from impasto.cli.output import Format, Output, parse_output
from impasto.cli.previews import Previews
from impasto.cli.source import Where
from impasto.cli.terminal import Json, console, print_json

if TYPE_CHECKING:
    from impasto.events import Done, Event
    from impasto.generation import Parameters

MAX_SEEDS = 100_000
PREVIEWS = 10
"""Of a picture, where somebody watches who says how many steps it takes."""


class Noise(enum.StrEnum):
    """Noise modes."""

    const = "const"
    random = "random"
    none = "none"


@takes(where=Where)
def generate(
    model: Annotated[str, typer.Argument(help="A model's name, or the folder of a bundle.")],
    seed: Annotated[int | None, typer.Option(help="Seed of the first picture; 0 unless given.")] = None,
    count: Annotated[int, typer.Option(min=1, max=MAX_SEEDS, help="That many pictures, of consecutive seeds.")] = 1,
    seeds: Annotated[str | None, typer.Option(metavar="LIST", help="Seeds and ranges: 1,2,5-9.")] = None,
    psi: Annotated[float | None, typer.Option(help="Truncation: 1 none, 0 the average picture.")] = None,
    cutoff: Annotated[int | None, typer.Option(help="Truncate only that many first layers.")] = None,
    noise: Annotated[Noise | None, typer.Option(help="Noise maps: stored, from the seed, or none.")] = None,
    label: Label = None,
    mix: Annotated[
        str | None, typer.Option(metavar="SEED:FIRST-LAST", help="The styles of some layers from another seed.")
    ] = None,
    rotate: Annotated[float | None, typer.Option(help="StyleGAN3: degrees counter-clockwise.")] = None,
    translate: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="X Y", help="StyleGAN3: picture widths to the right and down, once turned."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What to translate, reconstruct or, of a diffusion model, start from."),
    ] = None,
    image_to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A VAE's second picture, to go towards from --image.")
    ] = None,
    blend: Annotated[float | None, typer.Option(help="How far: 0 is --image, 1 is --image-to.")] = None,
    prompt: denoising.Prompt = None,
    negative_prompt: denoising.NegativePrompt = None,
    steps: denoising.Steps = None,
    sampler: denoising.Sampler = None,
    guidance_scale: denoising.GuidanceScale = None,
    guidance_rescale: denoising.GuidanceRescale = None,
    eta: denoising.Eta = None,
    width: denoising.Width = None,
    height: denoising.Height = None,
    strength: denoising.Strength = None,
    mask: denoising.Mask = None,
    noise_source: denoising.Source = None,
    preview_every: denoising.PreviewEvery = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR|FILE", help="Where to write; here unless given, or a sheet only.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all on one contact sheet.")] = None,
    format: Annotated[Format | None, typer.Option(help="Format of the files; FILE's, else png.")] = None,
    quality: Annotated[int, typer.Option(min=0, max=100, help="JPEG and WebP; 0: 95 and 90; 100: lossless WebP.")] = 0,
    *,
    where: Where,
    priority: Annotated[int, typer.Option(min=0, help="At the server: 1 the most urgent, 0 its default.")] = 0,
    as_json: Json = False,
) -> None:
    """Make pictures and write them to files, with model, seed and parameters in each one's metadata."""
    listed = parse_seeds(seed, count, seeds)
    output = parse_output(out, sheet, format, quality, len(listed))
    parameters: Parameters = {
        "seeds": listed,
        "psi": psi,
        "psi_cutoff": cutoff,
        "noise_mode": None if noise is None else noise.value,
        "style_mix": None if mix is None else parse_mix(mix),
        "rotation": rotate,
        "translation": translate,
        "image": image,
        "image_to": image_to,
        "blend": blend,
        "format": "float32" if output.format is Format.float32 else "uint8",
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "steps": steps,
        "sampler": sampler,
        "guidance_scale": guidance_scale,
        "guidance_rescale": guidance_rescale,
        "eta": eta,
        "width": width,
        "height": height,
        "strength": strength,
        "mask": mask,
        "noise": None if noise_source is None else noise_source.value,
    }
    if preview_every is None and steps and console().is_terminal:
        preview_every = max(1, steps // PREVIEWS)
    if preview_every:
        parameters["preview_every"] = preview_every

    def from_server() -> Iterator[Event]:
        with where.connect() as client:
            parameters["label"] = class_index(label, lambda: client.model(model, where.model_version).class_names)
            yield from client.generate_stream(model, version=where.model_version, priority=priority, **parameters)

    def in_process() -> Iterator[Event]:
        with where.load(model) as generator:
            parameters["label"] = class_index(label, lambda: generator.engine.manifest.class_names)
            yield from generator.generate_stream(**parameters)

    _write(from_server() if where.server else in_process(), output, len(listed), as_json)


def parse_seeds(seed: int | None, count: int, seeds: str | None) -> list[int]:
    """The options --seed and --count, or --seeds. BadParameter if both or neither can be read."""
    if seeds is None:
        first = 0 if seed is None else seed
        return list(range(first, first + count))
    if seed is not None or count != 1:
        raise typer.BadParameter("--seeds goes with neither --seed nor --count")
    listed: list[int] = []
    for part in seeds.split(","):
        found = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise typer.BadParameter(f"--seeds: found {part!r}; allowed are seeds and ranges such as 1,2,5-9")
        if len(listed) + last - first >= MAX_SEEDS:
            raise typer.BadParameter(f"--seeds: found more than {MAX_SEEDS} seeds")
        listed += range(first, last + 1)
    return listed


def parse_mix(mix: str) -> tuple[int, int, int]:
    """The option --mix: seed, first and last layer."""
    found = re.fullmatch(r"(\d+):(\d+)-(\d+)", mix)
    if not found:
        raise typer.BadParameter(f"--mix: found {mix!r}; allowed is SEED:FIRST-LAST such as 7:0-3")
    return int(found[1]), int(found[2]), int(found[3])


def _write(events: Iterator[Event], output: Output, count: int, as_json: bool) -> None:
    """Save each picture as it is done, then tell where they are and how long it took."""
    from impasto.cli.progress import Bars
    from impasto.events import Done, Finished, Preview

    began = time.monotonic()
    for_sheet = {}
    saved: dict[int, tuple[int | None, Path | None]] = {}
    timing = Done(0.0, 0.0, 0.0, ())
    terminal = console()
    with Bars(count, terminal) as bars, Previews(output) as previews:
        for event in events:
            bars.show(event)
            match event:
                case Preview(_, picture):
                    previews.refresh(picture)
                case Finished(index, picture):
                    saved[index] = picture.seed, output.save(picture)
                    if output.sheet:
                        for_sheet[index] = picture
                case Done():
                    timing = event
        sheet = output.save_sheet([for_sheet[index] for index in sorted(for_sheet)])
    seconds = time.monotonic() - began
    files = [(seed, path) for _, (seed, path) in sorted(saved.items())]
    if as_json:
        print_json(
            {
                "pictures": [{"seed": seed, "path": path and str(path)} for seed, path in files],
                "sheet": sheet and str(sheet),
                "seconds": seconds,
                "timing": dataclasses.asdict(timing),
            }
        )
        return
    for path in [path for _, path in files if path] + ([sheet] if sheet else []):
        typer.echo(path)
    terminal.print(_summary(len(files), seconds, timing))


def _summary(count: int, seconds: float, timing: Done) -> str:
    sizes = ", ".join(f"{rows} in batches of {size}" for size, rows in sorted(Counter(timing.batch_sizes).items()))
    stages = f"queue {timing.queue_ms:.1f} ms, execute {timing.execute_ms:.1f} ms, encode {timing.encode_ms:.1f} ms"
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    return f"{pictures} in {seconds:.2f} s ({sizes}; slowest: {stages})"
