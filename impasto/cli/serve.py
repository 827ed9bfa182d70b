"""`impasto serve`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from impasto.cli.terminal import Backend, Models, Precision, Threads


def serve(
    models: Models = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="gRPC; 127.0.0.1:8001 unless given.")] = None,
    metrics_listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Prometheus metrics; 127.0.0.1:8002 unless given.")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE.toml", help="Everything else.")] = None,
    load: Annotated[list[str] | None, typer.Option(metavar="MODEL", help="Only this model; may be repeated.")] = None,
    backend: Backend = None,
    precision: Precision = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; cpu unless given.")] = None,
    threads: Threads = None,
) -> None:
    """Serve models over gRPC until SIGTERM or Ctrl-C, which finish what was accepted. Options override the file."""
    from impasto.server.config import load_config
    from impasto.server.server import run

    overrides = {
        "models": models and (models,),
        "listen": listen,
        "metrics_listen": metrics_listen,
        "load": load and tuple(load),
        "backend": backend,
        "precision": precision,
        "device": device,
        "threads": threads,
    }
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    run(load_config(config, overrides))
