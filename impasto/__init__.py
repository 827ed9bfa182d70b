"""Impasto serves trained image generators, over gRPC or inside your process.

    import impasto

    generator = impasto.load("starry")                 # in-process
    client = impasto.Client("127.0.0.1:8001")          # over gRPC
    for picture in generator.generate(seeds=[1, 2], psi=0.7):
        picture.save(f"{picture.seed}.png")

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from impasto import errors

if TYPE_CHECKING:
    from impasto.client import AsyncClient, Client, RetryPolicy, Tls
    from impasto.engine.generator import Generator, load
    from impasto.images import Picture

    __version__: str

__all__ = ["AsyncClient", "Client", "Generator", "Picture", "RetryPolicy", "Tls", "__version__", "errors", "load"]

_HOMES = {
    "AsyncClient": "impasto.client",
    "Client": "impasto.client",
    "Generator": "impasto.engine.generator",
    "Picture": "impasto.images",
    "RetryPolicy": "impasto.client",
    "Tls": "impasto.client",
    "load": "impasto.engine.generator",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'impasto' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from impasto.installing import install_command

        remedy = install_command("cpu")
        raise errors.BackendUnavailable(f"impasto.{name} needs {error.name}; remedy: {remedy}") from error


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("impasto")
    except PackageNotFoundError:
        return "0+checkout"


def __dir__() -> list[str]:
    return sorted(__all__)
