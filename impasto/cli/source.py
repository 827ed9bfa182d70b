"""Where pictures come from: a model in this process, or a server that has it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from impasto.client import Client, Tls
    from impasto.engine.generator import Generator
    from impasto.engine.picture import Engine
    from impasto.images import Picture
    from impasto.images.pixels import Floats
    from impasto.latents import Make, Space

Server = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Ask a server; else in this process.")]
Ca = Annotated[Path | None, typer.Option(metavar="PEM", help="TLS: who signed the server.")]
Cert = Annotated[Path | None, typer.Option(metavar="PEM", help="TLS: the client's certificate.")]
Key = Annotated[Path | None, typer.Option(metavar="PEM", help="TLS: the client's key.")]
Timeout = Annotated[float | None, typer.Option(min=0, help="Seconds that the server has for a batch.")]
Version = Annotated[str, typer.Option(help="Version of the model; the highest unless given.")]


@dataclasses.dataclass(frozen=True)
class Remote:
    """A server, and how to reach it."""

    address: str
    ca: Path | None
    cert: Path | None
    key: Path | None
    timeout: float | None

    def connect(self) -> Client:
        """A connection, to be closed."""
        from impasto.client import Client, Tls

        tls: Tls | None = None
        if self.ca or self.cert or self.key:
            tls = Tls(self.ca, self.cert, self.key)
        return Client(self.address, tls=tls, timeout=self.timeout)


@dataclasses.dataclass(frozen=True)
class Source:
    """A model's `make`, which takes `batch` pictures at once with most profit, and its latent spaces.

    `space` is that of a walk's seed; `styles` of seeds under the given parameters (psi, psi_cutoff, label).
    """

    make: Make
    batch: int
    space: Callable[[int], Space]
    styles: Callable[[dict[str, Any]], Space]


@contextmanager
def open_source(model: str, version: str, remote: Remote | None, **options: Any) -> Iterator[Source]:
    """The model at the server, or in this process: loaded with `options`, those of `impasto.load`."""
    if remote is not None:
        with remote.connect() as client:
            yield _served(client, model, version)
        return
    from impasto.engine.generator import load

    with load(model, version=version, **options) as generator:
        yield _loaded(generator)


def _served(client: Client, model: str, version: str) -> Source:
    from impasto.errors import InvalidRequest
    from impasto.latents import Space

    info = client.model(model, version)

    def space(seed: int) -> Space:
        if not info.z_dim:
            allowed = "a model that takes z; what else a model takes a server does not tell: leave out --server"
            raise InvalidRequest("model", model, allowed)
        return Space.z(info.z_dim)

    def style_of_seed(seed: int) -> Floats:
        allowed = "z; a server does not tell a seed's styles: leave out --server, or give them with --ws"
        raise InvalidRequest("space", "w", allowed)

    make = functools.partial(client.generate, model, version=version)
    return Source(make, max(info.buckets, default=1), space, lambda parameters: Space.ws(style_of_seed))


def _loaded(generator: Generator) -> Source:
    from impasto.latents import Space

    engine = generator.engine
    return Source(
        generator.generate,
        engine.buckets[-1],
        lambda seed: Space.of_inputs(engine.manifest.inputs, seed),
        lambda parameters: Space.ws(functools.partial(_styles_of_seed, engine, parameters)),
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
