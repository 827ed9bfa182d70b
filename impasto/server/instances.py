"""The instances of a model: threads that each run one batch at a time on its engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

from impasto.engine.picture import Engine, Pixels
from impasto.scheduling import Batch
from impasto.server.job import Row

SHORT_SECONDS = 0.0001
"""A batch shorter than this runs on the event loop: to wake a thread and get the interpreter back takes longer."""


class Run(NamedTuple):
    """A batch that has run: from when to when, and the pixels and metadata of its rows, or the error."""

    batch: Batch[Row]
    started: float
    ended: float
    results: list[tuple[Pixels, dict[str, Any]]] | Exception


class Instances:
    """Start batches while `idle` is above 0; `on_run` gets each Run on the event loop, its instance idle again.

    A batch in whose bucket the last one was shorter than SHORT_SECONDS runs before `start` returns.
    """

    def __init__(self, engine: Engine, count: int, on_run: Callable[[Run], None]) -> None:
        self.idle = count
        self._engine = engine
        self._on_run = on_run
        self._loop = asyncio.get_running_loop()
        self._short = dict.fromkeys(engine.buckets, False)
        self._batches: SimpleQueue[Batch[Row] | None] = SimpleQueue()
        names = (f"{engine.manifest.name}-{engine.manifest.version}-{index}" for index in range(count))
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    @property
    def all_idle(self) -> bool:
        """Whether no batch is running."""
        return self.idle == len(self._threads)

    def start(self, batch: Batch[Row]) -> None:
        """Run the batch on an idle instance."""
        self.idle -= 1
        if self._short[batch.bucket]:
            self._end(self._run(batch))
        else:
            self._batches.put(batch)

    async def close(self) -> None:
        """End the threads, once the batches that were started have run."""
        for _ in self._threads:
            self._batches.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        while batch := self._batches.get():
            self._loop.call_soon_threadsafe(self._end, self._run(batch))

    def _run(self, batch: Batch[Row]) -> Run:
        requests = [ticket.payload.request for ticket in batch.tickets]
        started = time.monotonic()
        try:
            pixels = self._engine.run(requests)
            ended = time.monotonic()
            return Run(batch, started, ended, list(zip(pixels, map(self._engine.describe, requests), strict=True)))
        except Exception as error:
            return Run(batch, started, time.monotonic(), error)

    def _end(self, run: Run) -> None:
        self.idle += 1
        self._short[run.batch.bucket] = run.ended - run.started < SHORT_SECONDS
        self._on_run(run)
