"""`impasto doctor`."""

from __future__ import annotations

import dataclasses

import typer

from impasto.cli.terminal import Json, console, print_json, print_table


def doctor(as_json: Json = False) -> None:
    """Tell versions, devices and backends, what follows, and the remedy for what a backend lacks."""
    from impasto.doctor import examine

    with console().status("looking"):
        report = examine()
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    typer.echo(f"python {report.python} on {report.platform}")
    typer.echo(f"cpu: {report.cpu}, {report.cpu_threads} threads, {' '.join(report.cpu_features)}")
    typer.echo(f"gpu: {'; '.join(report.gpus) or 'none'}")
    typer.echo(", ".join(f"{name} {found}" for name, found in report.packages.items() if found) + "\n")
    rows = [
        (backend.name, "yes" if backend.available else "no", backend.found, backend.follows, backend.remedy)
        for backend in report.backends
    ]
    print_table(("backend", "available", "found", "so", "remedy"), rows)
