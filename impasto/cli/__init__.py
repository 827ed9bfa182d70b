"""The `impasto` command. Each file holds the commands of one subject and imports what is heavy when one runs."""

from __future__ import annotations

from typing import Annotated

import typer

import impasto
from impasto.cli import (
    bench,
    bundles,
    doctor,
    evaluate,
    export,
    generate,
    kernels,
    project,
    report,
    serve,
    sheet,
    train,
    walk,
)
from impasto.cli.terminal import OneLineErrors

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Serve trained image generators: import, export, generate, and serve them over gRPC.",
)
app.command("generate")(generate.generate)
app.command("serve")(serve.serve)
app.command("import")(bundles.import_checkpoint)
app.command("export")(export.export)
app.command("models")(bundles.list_models)
app.command("walk")(walk.walk)
app.add_typer(sheet.app, name="sheet")
app.command("project")(project.project)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(train.app, name="train")
app.command("bench")(bench.bench)
app.command("report")(report.report)
app.add_typer(kernels.app, name="kernels")
app.command("doctor")(doctor.doctor)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"impasto {impasto.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
