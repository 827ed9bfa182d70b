"""The pictures of one request, on their way through a model."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from impasto.engine.picture import PictureRequest, Pixels
from impasto.server.encoding import Data, Encoder


class Made(NamedTuple):
    """A picture, and how it came about; times in seconds. `data` is what the job's encoder made, if it has one.

    `metadata` is empty where the job is not `described`.
    """

    pixels: Pixels
    metadata: dict[str, Any]
    queue_seconds: float
    execute_seconds: float
    batch_size: int
    data: Data | None = None
    encode_seconds: float = 0.0


UNREAD_STEPS = 16


class StepDone(NamedTuple):
    """A picture has done `step` of its `steps`."""

    step: int
    steps: int


class Previewed(NamedTuple):
    """How a picture looks so far."""

    made: Made


Progress = StepDone | Previewed


class Row(NamedTuple):
    """One picture of a job, as it waits and runs."""

    job: Job
    number: int
    request: PictureRequest

    def metadata(self, describe: Callable[[PictureRequest], dict[str, Any]]) -> dict[str, Any]:
        """The picture's metadata, if its job wants them."""
        return describe(self.request) if self.job.described else {}

    def ready(self, pixels: Pixels) -> Data | None:
        """The picture's data as its job wants it, if it is quickly made; on the thread that made the pixels."""
        return self.job.encoder.ready(pixels) if self.job.encoder else None


class Job:
    """Iterate over it (async) for (index, Made) as pictures get ready; leaving its `with` block frees what still waits.

    With `progress` there are (index, StepDone) and (index, Previewed) between them, of a model that works in steps; of
    those not yet taken the last UNREAD_STEPS steps and the newest preview of each picture are kept, so that a slow
    reader holds no pile of them. The iteration raises what went wrong: DeadlineExceeded, Unavailable or InternalError.
    `queue_seconds`, `execute_seconds` and `encode_seconds` are those of the slowest picture so far, `batch_sizes` has
    one entry each.
    """

    def __init__(
        self,
        requests: Sequence[PictureRequest],
        encoder: Encoder | None,
        on_close: Callable[[Job], None],
        *,
        progress: bool = False,
        described: bool = True,
    ) -> None:
        self.rows = [Row(self, number, request) for number, request in enumerate(requests)]
        self.tickets: list[Any] = []
        self.encoder = encoder
        self.progress = progress
        self.described = described
        self.open = True
        self.submitted = time.monotonic()
        self.queue_seconds = self.execute_seconds = self.encode_seconds = 0.0
        self.batch_sizes = [0] * len(requests)
        self._on_close = on_close
        self._ready: OrderedDict[tuple[int, type, int], Made | Progress] = OrderedDict()
        self._left = len(requests)
        self._error: Exception | None = None
        self._awaited = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether all pictures were made and taken."""
        return not self._left

    def deliver(self, index: int, made: Made) -> None:
        """A picture is ready; of no use to a job that is closed."""
        if not self.open:
            return
        self.queue_seconds = max(self.queue_seconds, made.queue_seconds)
        self.execute_seconds = max(self.execute_seconds, made.execute_seconds)
        self.encode_seconds = max(self.encode_seconds, made.encode_seconds)
        self.batch_sizes[index] = made.batch_size
        self._ready[index, Made, 0] = made
        if len(self._ready) >= self._awaited:
            self._wake()

    def tell(self, index: int, progress: Progress) -> None:
        """A picture has come further; for a job with `progress`."""
        if not self.open:
            return
        key = (index, type(progress), progress.step % UNREAD_STEPS if isinstance(progress, StepDone) else 0)
        if key in self._ready:
            del self._ready[key]  # so that the new one comes last
        self._ready[key] = progress
        if self._waiter:
            self._wake()

    def fail(self, error: Exception) -> None:
        """A picture cannot be made, and so the request fails."""
        self._error = error
        self._wake()

    async def all(self) -> list[Made]:
        """All pictures, in the order of the request; for a job without `progress`."""
        if len(self._ready) < self._left:
            await self._until_ready(self._left)
        self._left = 0
        made = {index: item for (index, _, _), item in self._ready.items() if isinstance(item, Made)}
        return [made[index] for index in sorted(made)]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Made | Progress]:
        if self.complete:
            raise StopAsyncIteration
        if not self._ready:
            await self._until_ready(1)
        (index, _, _), item = self._ready.popitem(last=False)
        if isinstance(item, Made):
            self._left -= 1
        return index, item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.open = False
        self._on_close(self)
        # A row refers to its job: without this, only the garbage collector would free them.
        self.rows.clear()
        self.tickets.clear()
        self._ready.clear()  # a scheduler may keep the row, and so the job, until its deadline

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
