"""Where pictures come from: a model in this process, or a server that has it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from impasto.cli.terminal import Backend, Device, Models, Precision, Threads

if TYPE_CHECKING:
    from impasto.client import Client
    from impasto.engine.generator import Generator
    from impasto.engine.picture import Engine
    from impasto.images import Picture
    from impasto.images.pixels import Floats
    from impasto.latents import Make, Space


@dataclasses.dataclass(frozen=True)
class Where:
    """The options that say where a model is: at a server, or else in this process, and how."""

    server: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Ask a server; else in this process.")] = None
    ca: Annotated[Path | None, typer.Option(metavar="PEM", help="TLS: who signed the server.")] = None
    cert: Annotated[Path | None, typer.Option(metavar="PEM", help="TLS: the client's certificate.")] = None
    key: Annotated[Path | None, typer.Option(metavar="PEM", help="TLS: the client's key.")] = None
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds that the server has for a request.")] = None
    model_version: Annotated[str, typer.Option(help="Version of the model; the highest unless given.")] = ""
    models: Models = None
    backend: Backend = None
    precision: Precision = None
    device: Device = "cpu"
    threads: Threads = None

    def connect(self) -> Client:
        """A connection to the server, to be closed."""
        from impasto.client import Client, Tls

        assert self.server is not None, "there is a server"
        tls = Tls(self.ca, self.cert, self.key) if self.ca or self.cert or self.key else None
        return Client(self.server, tls=tls, timeout=self.timeout)

    def load(self, model: str) -> Generator:
        """The model in this process, to be closed."""
        from impasto.engine.generator import load

        return load(
            model,
            models=self.models,
            version=self.model_version,
            backend=self.backend,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
        )


@dataclasses.dataclass(frozen=True)
class Source:
    """A model's `make`, which takes `batch` pictures at once with most profit, and its latent spaces.

    `space` is that of a walk's seed; `styles` of seeds under the given parameters (psi, psi_cutoff, label).
    `classes` are the names of its classes.
    """

    make: Make
    batch: int
    space: Callable[[int], Space]
    styles: Callable[[dict[str, Any]], Space]
    classes: Sequence[str]


@contextmanager
def open_source(model: str, where: Where) -> Iterator[Source]:
    """The model at the server, or in this process."""
    if where.server:
        with where.connect() as client:
            yield _served(client, model, where.model_version)
        return
    with where.load(model) as generator:
        yield _loaded(generator)


def _served(client: Client, model: str, version: str) -> Source:
    from impasto.errors import InvalidRequest
    from impasto.latents import Space

    def style_of_seed(seed: int) -> Floats:
        allowed = "z; a server does not tell a seed's styles: leave out --server, or give them with --ws"
        raise InvalidRequest("space", "w", allowed)

    info = client.model(model, version)
    return Source(
        functools.partial(client.generate, model, version=version),
        max(info.buckets, default=1),
        lambda seed: Space.of_inputs(client.inputs(model, version), seed),
        lambda parameters: Space.ws(style_of_seed),
        info.class_names,
    )


def _loaded(generator: Generator) -> Source:
    from impasto.latents import Space

    engine = generator.engine
    return Source(
        generator.generate,
        engine.buckets[-1],
        lambda seed: Space.of_inputs(engine.manifest.inputs, seed),
        lambda parameters: Space.ws(functools.partial(_styles_of_seed, engine, parameters)),
        engine.manifest.class_names,
    )


def _styles_of_seed(engine: Engine, parameters: dict[str, Any], seed: int) -> Floats:
    from impasto.engine.latents import is_mapping
    from impasto.engine.picture import PictureRequest
    from impasto.errors import InvalidRequest

    if not is_mapping(engine):
        raise InvalidRequest("space", "w", "z; this model has no mapping network")
    request = PictureRequest(
        seed=seed, psi=parameters.get("psi"), cutoff=parameters.get("psi_cutoff"), label=parameters.get("label")
    )
    engine.check(request)
    styles: Floats = engine.ws([request])[0]
    return styles


def in_batches(source: Source, space: Space, points: Iterator[Floats], parameters: dict[str, Any]) -> Iterator[Picture]:
    """The picture of each point, a batch at a time."""
    while batch := list(itertools.islice(points, source.batch)):
        yield from source.make(**space.parameters(batch), **parameters)
