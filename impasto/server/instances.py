"""The instances of a model: threads that each run one batch, or one row, at a time on its engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, NamedTuple

from impasto.engine.picture import Engine, Pixels
from impasto.scheduling import Batch
from impasto.scheduling.ticket import Ticket
from impasto.server.encoding import Data
from impasto.server.job import Row
from impasto.server.process import on_any_core

SHORT_SECONDS = 0.0001
"""What is shorter than this runs on the event loop: to wake a thread and get the interpreter back takes longer."""
Tickets = Sequence[Ticket[Row]]


class Ran(NamedTuple):
    """A row that has run: its pixels, its metadata, and its data where they took no thread of their own."""

    pixels: Pixels
    metadata: dict[str, Any]
    data: Data | None


@dataclass(slots=True)
class Run:
    """Rows of a batch that have run together: from when to when, and what came of each, or the error.

    `batch_seconds` is the time of the whole batch, once all of it has run.
    """

    batch: Batch[Row]
    tickets: Tickets
    started: float
    ended: float
    results: list[Ran] | Exception
    batch_seconds: float | None = None


@dataclass(slots=True)
class _Started:
    """A batch that was started: how many of its parts have not ended, and when the first of them began."""

    batch: Batch[Row]
    left: int
    began: float = float("inf")


class Instances:
    """Start a batch whenever they are `ready`; `on_runs` gets what has run on the event loop.

    An engine with lanes gets the rows of a batch one by one, so that no lane waits for the end of a batch; and as soon
    as the last of them has found a lane the next batch may start, so that no lane waits for the event loop. Nor does a
    row wait for its batch-mates, unless there is `more` to run: then replies leave together, once a batch, which spares
    the server and its callers most of the times they are woken. What was made in less than SHORT_SECONDS the last time,
    in the same bucket, runs before `start` returns.
    """

    def __init__(
        self, engine: Engine, count: int, *, more: Callable[[], bool], on_runs: Callable[[Sequence[Run]], None]
    ) -> None:
        self._engine = engine
        self._more = more
        self._on_runs = on_runs
        self._loop = asyncio.get_running_loop()
        self._ended: deque[Run] = deque()
        self._counting = threading.Lock()
        self._short = dict.fromkeys(engine.buckets, False)
        self._parts: SimpleQueue[tuple[_Started, Tickets] | None] = SimpleQueue()
        names = (f"{engine.manifest.name}-{engine.manifest.version}-{i}" for i in range(count * (engine.lanes or 1)))
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        self.idle = len(self._threads)
        """Threads with nothing to do, less the rows that wait for one."""
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> bool:
        """Whether a batch may start: a thread is idle, or no row waits for one of the lanes."""
        return self.idle > 0 or (self.idle == 0 and self._engine.lanes > 0)

    @property
    def all_idle(self) -> bool:
        """Whether nothing is running."""
        return self.idle == len(self._threads)

    def start(self, batch: Batch[Row]) -> None:
        """Run the batch; call it while `ready`."""
        rows = batch.tickets
        parts = [[ticket] for ticket in rows] if self._engine.lanes else [rows]
        started = _Started(batch, len(parts))
        self.idle -= len(parts)
        short = self._short[batch.bucket]
        for tickets in parts:
            if short:
                self._end(started, self._run(batch, tickets))
            else:
                self._parts.put((started, tickets))
        if short:
            self._collect()

    async def close(self) -> None:
        """End the threads, once the batches that were started have run."""
        for _ in self._threads:
            self._parts.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self) -> None:
        on_any_core()
        while part := self._parts.get():
            started, tickets = part
            if self._engine.lanes and self._parts.empty() and self._more():
                self._loop.call_soon_threadsafe(self._collect)  # so that the next batch waits when this row has run
            self._end(started, self._run(started.batch, tickets))
            if self._parts.empty() or not self._more():
                self._loop.call_soon_threadsafe(self._collect)

    def _run(self, batch: Batch[Row], tickets: Tickets) -> Run:
        if self._engine.lanes:
            # Nobody waits for these any more. A batch that runs in one call keeps them, and its bucket.
            tickets = [ticket for ticket in tickets if ticket.payload.job.open]
        requests = [ticket.payload.request for ticket in tickets]
        began = ended = time.monotonic()
        results: list[Ran] | Exception = []
        try:
            if requests:
                pixels = self._engine.run(requests)
                ended = time.monotonic()
                results = [self._ran(ticket.payload, made) for ticket, made in zip(tickets, pixels, strict=True)]
        except Exception as error:
            ended, results = time.monotonic(), error
        return Run(batch, tickets, began, ended, results)

    def _ran(self, row: Row, pixels: Pixels) -> Ran:
        return Ran(pixels, row.metadata(self._engine.describe), row.ready(pixels))

    def _end(self, started: _Started, run: Run) -> None:
        """Leave the run for `_collect`."""
        with self._counting:
            started.left -= 1
            started.began = min(started.began, run.started)
            if not started.left:
                run.batch_seconds = run.ended - started.began
            self._ended.append(run)

    def _collect(self) -> None:
        runs = [self._ended.popleft() for _ in range(len(self._ended))]
        self.idle += len(runs)
        for run in runs:
            if run.tickets and not isinstance(run.results, Exception):
                self._short[run.batch.bucket] = run.ended - run.started < SHORT_SECONDS
        if runs:
            self._on_runs(runs)
