"""Engines that a test holds, counts or breaks, in a real server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from impasto.engine.picture import Engine, PictureRequest, Pixels
from impasto.engine.registry import open_engine
from impasto.export.bundle import Bundle
from impasto.server.server import Server
from tests.support.inference import serving

Seeds = list[int | None]
GUARD_SECONDS = 60.0


class HookedEngine:
    """An engine that calls `before` with the seeds of each batch, on the thread that runs it."""

    def __init__(self, engine: Engine, before: Callable[[Seeds], None], buckets: tuple[int, ...]) -> None:
        self.buckets = buckets
        self._engine = engine
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, requests: Sequence[PictureRequest]) -> list[Pixels]:
        """The pictures of the engine itself."""
        self._before([request.seed for request in requests])
        return self._engine.run(requests)


class BatchGate:
    """Holds each batch until it is let through; `batches` has the seeds of all that came to it, in order."""

    def __init__(self) -> None:
        self.batches: list[Seeds] = []
        self._tickets = threading.Semaphore(0)
        self._is_open = threading.Event()

    def __call__(self, seeds: Seeds) -> None:
        self.batches.append(seeds)
        while not self._is_open.is_set() and not self._tickets.acquire(timeout=0.01):
            pass
        # A server may run very short batches on its event loop, where one that waits here would hold up the test.
        time.sleep(0.001)

    def let_through(self, batches: int) -> None:
        """Let so many batches pass."""
        self._tickets.release(batches)

    def open(self) -> None:
        """Let all pass from now on."""
        self._is_open.set()


def assert_rows_stand_alone(engine: Engine, requests: Sequence[PictureRequest]) -> None:
    """Assert that each request's picture has the same bytes alone, in batches of every size and in every slot of them.

    The requests are for different pictures.
    """
    alone = [engine.run([request])[0].image_float.tobytes() for request in requests]
    assert len(set(alone)) == len(alone)
    for count in range(2, len(requests) + 1):
        for shift in range(len(requests)):
            chosen = [(shift + place) % len(requests) for place in range(count)]
            together = engine.run([requests[place] for place in chosen])
            assert [picture.image_float.tobytes() for picture in together] == [alone[place] for place in chosen]


@asynccontextmanager
async def serving_hooked(
    models: Path,
    name: str,
    before: Callable[[Seeds], None],
    *,
    buckets: tuple[int, ...] = (1, 2, 4, 8),
    **settings: Any,
) -> AsyncIterator[Server]:
    """A server of a model whose engine calls `before`."""

    def opened(bundle: Bundle, **options: Any) -> HookedEngine:
        return HookedEngine(open_engine(bundle, **options), before, buckets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("impasto.server.host.open_engine", opened)
        async with serving(models, name, **settings) as server:
            yield server


@asynccontextmanager
async def serving_gated(models: Path, name: str, gate: BatchGate, **settings: Any) -> AsyncIterator[Server]:
    """A server of a model whose batches wait at the gate, which opens at the end."""
    async with serving_hooked(models, name, gate, **settings) as server:
        try:
            yield server
        finally:
            gate.open()


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds. TimeoutError after a long while."""
    async with asyncio.timeout(GUARD_SECONDS):
        while not condition():  # noqa: ASYNC110 - the server's own state sets no event
            await asyncio.sleep(0.002)
