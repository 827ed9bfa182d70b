from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from impasto.engine.null import write_null_bundle
from impasto.server.config import ServerConfig
from impasto.server.server import Server
from tests.support.bundles import write_tiny_bundle


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional StyleGAN2 of 8×8 pictures, and null models of 64×64 and 1200×1200."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_bundle(folder)
    write_null_bundle(folder)
    write_null_bundle(folder, "large", 1200, 1200)
    return folder


@contextmanager
def running(models: Path, **settings: Any) -> Iterator[str]:
    """The address of a server in this process, on a thread and an event loop of its own."""
    config = ServerConfig(listen="127.0.0.1:0", metrics_listen=None, models=(models,), **settings)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> Server:
        server = Server(config)
        await server.start()
        return server

    try:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(300)
        try:
            yield server.address
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(300)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[str]:
    """The address of a server of all models."""
    with running(models, load=("tiny", "null", "large")) as address:
        yield address
