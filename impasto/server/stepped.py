"""A loaded model that makes its pictures in steps: they join and leave its batch between two calls of the model."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from impasto.engine.picture import Floats, PictureRequest
from impasto.engine.stepwise import StepEngine, StepRow, wants_preview
from impasto.errors import DeadlineExceeded, ImpastoError, Unavailable
from impasto.scheduling import StepBatcher, StepPolicy, StepTicket, Tick
from impasto.scheduling import StepRow as QueuedRow
from impasto.server.delivery import Delivery
from impasto.server.encoding import Encoder
from impasto.server.faults import internal_error
from impasto.server.job import Job, Made, Row, StepDone
from impasto.server.metrics import ModelMetrics
from impasto.server.statistics import Statistics

Ticket = StepTicket[Row]
T = TypeVar("T")


@dataclass(slots=True)
class _Course:
    """What is known of a picture under way: when its first call began, and the most rows of a batch it was in."""

    started: float
    rows: int = 0


class _Undecoded(NamedTuple):
    ticket: Ticket
    course: _Course
    latent: Floats


class _Called(NamedTuple):
    """A call has been made: which rows could not start, previews, and the latents of the rows whose last it was."""

    started: float
    ended: float
    refused: dict[Ticket, Exception]
    previews: dict[Ticket, Made]
    latents: dict[Ticket, Floats]


class SteppedModel:
    """Takes requests for pictures and gives the pictures. For the event loop; `thread` runs the engine.

    The thread makes one call of the model after the other, and between two of them at most one batch is decoded. Models
    that share the thread, and so the device, take turns, a call each. While two batches wait to be encoded there is no
    further call, so that a slow encoding fills the queue, which has a limit.
    """

    def __init__(
        self, engine: StepEngine, policy: StepPolicy, *, thread: Executor, encoders: Executor, metrics: ModelMetrics
    ) -> None:
        self.engine = engine
        self.name = engine.manifest.name
        self.version = engine.manifest.version
        self.statistics = Statistics()
        self.in_flight = 0
        self._accepting = True
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._batcher: StepBatcher[Row] = StepBatcher(policy, time.monotonic)
        self._courses: dict[Ticket, _Course] = {}
        self._undecoded: deque[_Undecoded] = deque()
        self._delivery = Delivery(encoders, metrics, self.name, on_encoded=self._pump)
        self._max_encoding = 2 * policy.max_batch
        self._thread = thread
        self._busy = False
        self._decoded_last = False
        self._settled: asyncio.Future[None] | None = None

    @property
    def queue_length(self) -> int:
        """Pictures that wait for a slot."""
        return self._batcher.waiting

    @property
    def slots_in_use(self) -> int:
        """Pictures whose state is held."""
        return self._batcher.running

    def submit(
        self,
        requests: Sequence[PictureRequest],
        *,
        priority: int = 0,
        deadline: float | None = None,
        encoder: Encoder | None = None,
        progress: bool = False,
        described: bool = True,
    ) -> Job:
        """As `LoadedModel.submit`."""
        if not self._accepting:
            raise Unavailable(f"model {self.name} version {self.version} is being unloaded")
        for request in requests:
            self.engine.check(request)
        job = Job(requests, encoder, self._close_job, progress=progress, described=described)
        rows = [QueuedRow(row, *self.engine.work(row.request)) for row in job.rows]
        job.tickets = self._batcher.submit(rows, priority=priority, deadline=deadline)
        self.in_flight += 1
        self._pump()
        return job

    async def make(
        self, requests: Sequence[PictureRequest], *, priority: int = 0, deadline: float | None = None
    ) -> list[Made]:
        """As `LoadedModel.make`."""
        with self.submit(requests, priority=priority, deadline=deadline) as job:
            return await job.all()

    def position(self, job: Job) -> int:
        """Pictures that get a slot before the job's first one."""
        return self._batcher.position(job.tickets[0])

    def estimated_wait(self, job: Job) -> float:
        """Seconds until the first step of the job's first picture is likely."""
        return self._batcher.estimated_wait(job.tickets[0])

    async def finish(self) -> None:
        """Refuse new requests, make what was accepted, then free the engine. Call it once."""
        self._accepting = False
        self._settled = self._loop.create_future()
        self._pump()
        await self._settled
        await asyncio.to_thread(self.engine.close)

    def abort(self) -> None:
        """Refuse new requests, and fail those that are not done."""
        self._accepting = False
        stopped = Unavailable("the server has stopped")
        for ticket in self._batcher.close():
            ticket.payload.job.fail(stopped)
        for ticket in self._courses:
            self._batcher.cancel(ticket)
            ticket.payload.job.fail(stopped)
        self._pump()

    def _close_job(self, job: Job) -> None:
        self.in_flight -= 1
        seconds = time.monotonic() - job.submitted
        if job.complete:
            queued, executed = job.queue_seconds, job.execute_seconds
            self.statistics.succeeded(len(job.rows), total=seconds, queue=queued, execute=executed)
            return
        self.statistics.failed(seconds)
        for ticket in job.tickets:
            self._batcher.cancel(ticket)
        self._undecoded = deque(waiting for waiting in self._undecoded if waiting.ticket.payload.job is not job)
        self._pump()

    def _pump(self) -> None:
        """Have the thread decode or make a call, if it is idle and there is something to do."""
        if self._busy:
            return
        if self._undecoded and not self._decoded_last:
            self._decode()
            return
        while self._delivery.encoding < self._max_encoding and (tick := self._batcher.tick()):
            for ended in tick.ended:
                self._courses.pop(ended.ticket, None)
                if isinstance(ended.error, DeadlineExceeded):
                    ended.ticket.payload.job.fail(ended.error)
            if tick.rows:
                self._call(tick)
                return
            self._batcher.done(tick, 0.0)
        if self._undecoded:
            self._decode()
        elif self._settled and not self._settled.done() and not len(self._batcher):
            self._settled.set_result(None)

    def _on_thread(self, work: Callable[[], T], then: Callable[[T | Exception], None]) -> None:
        """Do the work on the model's thread; `then` gets its result, or the error, on the event loop."""

        def run() -> None:
            result: T | Exception
            try:
                result = work()
            except Exception as error:
                result = error
            self._loop.call_soon_threadsafe(end, result)

        def end(result: T | Exception) -> None:
            self._busy = False
            then(result)

        self._busy = True
        self._thread.submit(run)

    def _call(self, tick: Tick[Row]) -> None:
        self._decoded_last = False
        for ticket in tick.admitted:
            self._courses[ticket] = _Course(time.monotonic())
        self._on_thread(lambda: _make_call(self.engine, tick), lambda called: self._called(tick, called))

    def _called(self, tick: Tick[Row], called: _Called | Exception) -> None:
        if isinstance(called, Exception):
            fault = internal_error(f"a step of {len(tick.rows)} on model {self.name}", called)
            for ticket in self._batcher.fail(tick):
                self._courses.pop(ticket, None)
                ticket.payload.job.fail(fault)
            self._pump()
            return
        for ticket, error in called.refused.items():
            known = isinstance(error, ImpastoError)
            self._batcher.cancel(ticket)
            ticket.payload.job.fail(error if known else internal_error(f"a picture of model {self.name}", error))
        seconds, rows = called.ended - called.started, len(tick.rows)
        for ticket, _, _ in tick.rows:
            course = self._courses[ticket]
            if course.rows < rows:
                course.rows = rows
        for ticket in self._batcher.done(tick, seconds):
            self._undecoded.append(_Undecoded(ticket, self._courses.pop(ticket), called.latents[ticket]))
        self._pump()  # the thread goes on; what follows need not be waited for
        self._metrics.executed(rows, tick.bucket - sum(ticket.width for ticket, _, _ in tick.rows), seconds)
        self.statistics.executed(rows, seconds)
        for ticket in tick.admitted:
            self._metrics.queue_seconds.observe(called.started - ticket.submitted)
        for ticket, _, call in tick.rows:
            row = ticket.payload
            if row.job.progress and ticket not in called.refused:
                row.job.tell(row.number, StepDone(call + 1, ticket.calls))
        for ticket, preview in called.previews.items():
            self._delivery.preview(ticket.payload, preview)

    def _decode(self) -> None:
        self._decoded_last = True
        batch = [self._undecoded.popleft() for _ in range(min(len(self._undecoded), self.engine.decode_batch))]
        self._on_thread(lambda: _make_pictures(self.engine, batch), lambda made: self._made(batch, made))

    def _made(self, batch: list[_Undecoded], made: list[Made] | Exception) -> None:
        self._pump()
        if isinstance(made, Exception):
            fault = internal_error(f"decoding {len(batch)} pictures of model {self.name}", made)
            for undecoded in batch:
                undecoded.ticket.payload.job.fail(fault)
            return
        for undecoded, picture in zip(batch, made, strict=True):
            self._delivery.deliver(undecoded.ticket.payload, picture)


def _make_call(engine: StepEngine, tick: Tick[Row]) -> _Called:
    started = time.monotonic()
    refused: dict[Ticket, Exception] = {}
    for ticket in tick.admitted:
        assert ticket.slot is not None
        try:
            engine.start(ticket.slot, ticket.payload.request)
        except Exception as error:  # one that cannot start must not harm its batch-mates
            refused[ticket] = error
    rows = {ticket: _step_row(ticket, slot, call) for ticket, slot, call in tick.rows if ticket not in refused}
    shown = engine.step(list(rows.values())) if rows else {}
    slots = {row.slot: ticket for ticket, row in rows.items()} if shown else {}
    previews = {slots[slot]: _preview(engine, slots[slot].payload, latent) for slot, latent in shown.items()}
    latents = {ticket: engine.latent(row.slot) for ticket, row in rows.items() if row.call + 1 == ticket.calls}
    return _Called(started, time.monotonic(), refused, previews, latents)


def _preview(engine: StepEngine, row: Row, latent: Floats) -> Made:
    pixels = engine.preview(latent)
    return Made(pixels, row.metadata(engine.describe), 0.0, 0.0, 0, row.ready(pixels))


def _step_row(ticket: Ticket, slot: int, call: int) -> StepRow:
    row = ticket.payload
    if not row.job.progress or row.request.denoising is None:
        return StepRow(slot, call)
    return StepRow(slot, call, wants_preview(call + 1, ticket.calls, row.request.denoising.preview_every))


def _make_pictures(engine: StepEngine, batch: Sequence[_Undecoded]) -> list[Made]:
    pixels = engine.decode([undecoded.latent for undecoded in batch])
    ended = time.monotonic()
    return [
        Made(
            picture,
            ticket.payload.metadata(engine.describe),
            course.started - ticket.submitted,
            ended - course.started,
            course.rows,
            ticket.payload.ready(picture),
        )
        for picture, (ticket, course, _) in zip(pixels, batch, strict=True)
    ]
