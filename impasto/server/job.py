"""The pictures of one request, on their way through a model."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from impasto.engine.picture import PictureRequest, Pixels
from impasto.scheduling import Ticket
from impasto.server.encoding import Data, Encoder


class Made(NamedTuple):
    """A picture, and how it came about; times in seconds. `data` is what the job's encoder made, if it has one."""

    pixels: Pixels
    metadata: dict[str, Any]
    queue_seconds: float
    execute_seconds: float
    batch_size: int
    data: Data | None = None
    encode_seconds: float = 0.0


class Row(NamedTuple):
    """One picture of a job, as it waits and runs."""

    job: Job
    number: int
    request: PictureRequest


class Job:
    """Iterate over it (async) for (index, Made) as pictures get ready; leaving its `with` block frees what still waits.

    The iteration raises what went wrong: DeadlineExceeded, Unavailable or InternalError. `queue_seconds`,
    `execute_seconds` and `encode_seconds` are those of the slowest picture so far, `batch_sizes` has one entry each.
    """

    def __init__(
        self, requests: Sequence[PictureRequest], encoder: Encoder | None, on_close: Callable[[Job], None]
    ) -> None:
        self.rows = [Row(self, number, request) for number, request in enumerate(requests)]
        self.tickets: list[Ticket[Row]] = []
        self.encoder = encoder
        self.open = True
        self.submitted = time.monotonic()
        self.queue_seconds = self.execute_seconds = self.encode_seconds = 0.0
        self.batch_sizes = [0] * len(requests)
        self._on_close = on_close
        self._ready: deque[tuple[int, Made]] = deque()
        self._left = len(requests)
        self._error: Exception | None = None
        self._awaited = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether all pictures were made and taken."""
        return not self._left

    def deliver(self, index: int, made: Made) -> None:
        """A picture is ready."""
        self.queue_seconds = max(self.queue_seconds, made.queue_seconds)
        self.execute_seconds = max(self.execute_seconds, made.execute_seconds)
        self.encode_seconds = max(self.encode_seconds, made.encode_seconds)
        self.batch_sizes[index] = made.batch_size
        self._ready.append((index, made))
        if len(self._ready) >= self._awaited:
            self._wake()

    def fail(self, error: Exception) -> None:
        """A picture cannot be made, and so the request fails."""
        self._error = error
        self._wake()

    async def all(self) -> list[Made]:
        """All pictures, in the order of the request."""
        if len(self._ready) < self._left:
            await self._until_ready(self._left)
        self._left = 0
        return [made for _, made in sorted(self._ready)]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Made]:
        if self.complete:
            raise StopAsyncIteration
        if not self._ready:
            await self._until_ready(1)
        self._left -= 1
        return self._ready.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.open = False
        self._on_close(self)
        # A row refers to its job: without this, only the garbage collector would free them.
        self.rows.clear()
        self.tickets.clear()

    async def _until_ready(self, pictures: int) -> None:
        while len(self._ready) < pictures:
            if self._error:
                raise self._error
            self._awaited = pictures
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
