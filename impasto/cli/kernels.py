"""`impasto kernels pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from impasto.cli.terminal import console

app = typer.Typer(no_args_is_help=True, help="Compile the kernels ahead of time.")


@app.callback()
def kernels() -> None:
    pass


@app.command("pack")
def pack(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for cubins, a manifest and a C header.")],
    arch: Annotated[str, typer.Option(metavar="LIST", help="Architectures.")] = "80,86,89,90,100,120",
    kernel: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this kernel; may be repeated.", show_default="all")
    ] = None,
) -> None:
    """Compile kernels for programs that have no Python. Needs no GPU; all of them take minutes on every core."""
    from rich.progress import MofNCompleteColumn, Progress

    from impasto.kernels import aot

    architectures = aot.parse_architectures(arch)
    terminal = console()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("compiling", total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)
            if not terminal.is_terminal and done * 10 // total > (done - 1) * 10 // total:
                terminal.print(f"compiled {done} of {total}")

        specs = aot.packable(kernel or ())
        aot.pack(out, specs, architectures, report)
    typer.echo(out)
    built_for = ", ".join(f"sm_{architecture}" for architecture in architectures)
    terminal.print(f"{len(specs)} kernels for {built_for}; next: examples/cpp_kernels")
