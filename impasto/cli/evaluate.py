"""`impasto evaluate`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from impasto.cli.generate import parse_seeds
from impasto.cli.terminal import Backend, Device, Json, Models, Threads, console, print_json, print_table

if TYPE_CHECKING:
    from impasto.evaluation.evaluate import Report
    from impasto.evaluation.inception import Inception
    from impasto.evaluation.sets import PictureSet

DIGITS = {"psnr": 2, "ssim": 5, "ms-ssim": 5, "swd": 5, "fid": 4, "kid": 6, "is-a": 4, "is-b": 4}


def evaluate(
    a: Annotated[str, typer.Argument(metavar="A", help="A folder of pictures, or a model's name.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    metrics: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Of psnr,ssim,ms-ssim,swd,fid,kid,is; all that can be had unless given."),
    ] = None,
    inception: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights of Inception v3, for fid, kid and is.")
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="LIST", help="What a model makes pictures of: 1,2,5-9.")] = "0-999",
    psi: Annotated[float | None, typer.Option(help="A model's truncation.")] = None,
    models: Models = None,
    backend: Backend = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure how near two sets of pictures are: pairs of the same name in two folders, and the sets as wholes."""
    listed = parse_seeds(None, 1, seeds)
    wanted = None if metrics is None else [name.strip() for name in metrics.split(",")]
    options = {"models": models, "backend": backend, "device": device, "threads": threads}
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(_pictures(each, listed, psi, options)) for each in (a, b))
        found = _evaluate(ours, theirs, wanted, None if inception is None else _inception(inception, threads))
    if as_json:
        print_json(_plain(found))
        return
    rows = [(name, f"{value:.{DIGITS[name]}f}") for name, value in found.values.items()]
    print_table(("metric", "value"), rows)
    terminal = console()
    terminal.print(f"{found.pictures[0]} and {found.pictures[1]} pictures, {found.pairs} pairs")
    for reason in dict.fromkeys(found.lacking.values()):
        names = [name for name, other in found.lacking.items() if other == reason]
        terminal.print(f"without {', '.join(names)}, for lack of {reason}")


@contextlib.contextmanager
def _pictures(source: str, seeds: list[int], psi: float | None, options: dict[str, Any]) -> Iterator[PictureSet]:
    """The pictures of a folder, or of the model of that name or path."""
    import torchmetrics  # noqa: F401  (first: what lacks it lacks the extra `evaluate`, which brings all that is needed)

    from impasto.evaluation.sets import MadeSet, read_folder
    from impasto.export.bundle import MANIFEST

    path = Path(source)
    if path.is_dir() and not (path / MANIFEST).is_file():
        with console().status(f"reading {source}"):
            folder = read_folder(path)
        for line in folder.left_out:
            console().print(f"left out {line}")
        yield folder
        return
    from impasto.engine.generator import load

    with load(source, **options) as generator:
        yield MadeSet(generator, seeds, psi=psi)


def _inception(path: Path, threads: int | None) -> Inception:
    import torch

    from impasto.evaluation.inception import load_inception

    if threads:
        torch.set_num_threads(threads)
    return load_inception(path)


def _evaluate(a: PictureSet, b: PictureSet, metrics: list[str] | None, extractor: Inception | None) -> Report:
    """Evaluate with a progress bar over the pictures that are read."""
    from rich.progress import MofNCompleteColumn, Progress

    from impasto.evaluation.evaluate import evaluate

    terminal = console()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("pictures", total=None)
        return evaluate(a, b, metrics, extractor, lambda done, total: bar.update(task, completed=done, total=total))


def _plain(found: Report) -> dict[str, Any]:
    """The report as JSON has it: an infinite PSNR, of equal pictures, as null."""
    return {
        "pictures": list(found.pictures),
        "pairs": found.pairs,
        "values": {name: value if math.isfinite(value) else None for name, value in found.values.items()},
        "swd_levels": {str(side): value for side, value in found.swd_levels.items()},
        "lacking": found.lacking,
    }
