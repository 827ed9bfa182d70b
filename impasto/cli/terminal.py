"""What every command shares: errors in one line, progress on stderr, JSON on stdout, common options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from impasto.errors import ImpastoError
from impasto.installing import install_command

if TYPE_CHECKING:
    from rich.console import Console

    # The context class that typer hands to a group; its module moved between typer's versions.
    Context = Any

# The extra that brings a module, for those that a light installation lacks.
EXTRAS = {
    "grpc_health": "cpu",
    "grpc_reflection": "cpu",
    "onnxruntime": "cpu",
    "prometheus_client": "cpu",
    "pydantic": "cpu",
    "safetensors": "cpu",
    "onnx": "torch",
    "onnxscript": "torch",
    "torch": "torch",
    "triton": "torch",
    "diffusers": "diffusion",
    "tokenizers": "diffusion",
    "transformers": "diffusion",
    "jinja2": "report",
    "matplotlib": "report",
    "av": "video",
    "torchmetrics": "evaluate",
    "psutil": "bench",
}

Models = Annotated[
    Path | None, typer.Option("--models", help="Model directory.", envvar="IMPASTO_MODELS", metavar="DIR")
]
Backend = Annotated[
    str | None,
    typer.Option(help="onnxruntime, onnxruntime-tensorrt, torch or tensorrt; the precision's usual one unless given."),
]
Precision = Annotated[
    str | None,
    typer.Option(help="fp32, bf16, fp16, int8 or fp8; `impasto export --precision` makes graphs of all but fp32."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of a batch; all cores unless given.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, for scripts.")]


class OneLineErrors(TyperGroup):
    """Turns an error that the user can mend into one line on stderr and exit status 1."""

    def invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            _fail(f"{error.name} is not installed; run: {install_command(extra)}", error)
        except OSError as error:
            _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), error)
        except ImpastoError as error:
            _fail(str(error), error)


def _fail(message: str, error: Exception) -> None:
    typer.secho(f"impasto: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(1) from error


def console() -> Console:
    """Where progress and remarks go: stderr, so that stdout is a command's result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def print_json(value: Any) -> None:
    """Write a command's result for a script."""
    typer.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows to stdout in columns as wide as their cells. No cell is cut off or wrapped, so that it can be copied.

    The last cell of a row may be of any width.
    """
    lines = [columns, *rows]
    widths = [max(len(line[index]) for line in lines if len(line) > index + 1) for index in range(len(columns) - 1)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=False)]
        typer.echo("  ".join([*cells, line[-1]]).rstrip())


@contextmanager
def stages(title: str) -> Iterator[Callable[[str], None]]:
    """Call what this gives with the name of each stage as it begins: a spinner, or a line each in a log."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    terminal = console()
    if not terminal.is_terminal:
        yield lambda stage: terminal.print(f"{title}: {stage}")
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda stage: progress.update(task, description=f"{title}: {stage}")
