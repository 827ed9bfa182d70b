"""A loaded model that makes a picture in one call: its engine, the queue before it and the instances that run it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Executor

from impasto.engine.picture import Engine, PictureRequest
from impasto.errors import DeadlineExceeded, Unavailable
from impasto.scheduling import BatchPolicy, DynamicBatcher
from impasto.server.delivery import Delivery
from impasto.server.encoding import Encoder
from impasto.server.faults import internal_error
from impasto.server.instances import Instances, Run
from impasto.server.job import Job, Made, Row
from impasto.server.metrics import ModelMetrics
from impasto.server.statistics import Statistics


class BatchedModel:
    """Takes requests for pictures and gives the pictures. For the event loop.

    Batches form in the queue: an idle instance takes what waits at once, or after the policy's queue delay. While two
    batches an instance wait to be encoded no further one starts, so that a slow encoding fills the queue, which has a
    limit, and not the memory.
    """

    def __init__(self, engine: Engine, policy: BatchPolicy, *, encoders: Executor, metrics: ModelMetrics) -> None:
        self.engine = engine
        self.name = engine.manifest.name
        self.version = engine.manifest.version
        self.statistics = Statistics()
        self.in_flight = 0
        self._accepting = True
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._batcher: DynamicBatcher[Row] = DynamicBatcher(policy, time.monotonic)
        self._instances = Instances(engine, policy.instances, more=lambda: len(self._batcher) > 0, on_runs=self._ran)
        self._delivery = Delivery(encoders, metrics, self.name, on_encoded=self._pump)
        self._max_encoding = 2 * engine.buckets[-1] * policy.instances
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._settled: asyncio.Future[None] | None = None

    @property
    def queue_length(self) -> int:
        """Pictures that wait for a batch."""
        return len(self._batcher)

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
        """Put the pictures of a request into the queue, all or none; use the job in a `with` block at once.

        `priority` 1 is the most urgent, 0 the default; `deadline` is of time.monotonic(). InvalidRequest, QueueFull,
        DeadlineExceeded (past, or cannot be met), or Unavailable while the model is being unloaded. There is no
        `progress` to tell before a picture is made. Without `described` the pictures have no metadata.
        """
        if not self._accepting:
            raise Unavailable(f"model {self.name} version {self.version} is being unloaded")
        for request in requests:
            self.engine.check(request)
        job = Job(requests, encoder, self._close_job, described=described)
        job.tickets = self._batcher.submit(job.rows, priority=priority, deadline=deadline)
        self.in_flight += 1
        self._pump()
        return job

    async def make(
        self, requests: Sequence[PictureRequest], *, priority: int = 0, deadline: float | None = None
    ) -> list[Made]:
        """The pictures of a request, in its order; errors as `submit`. Cancelling the task frees what still waits."""
        with self.submit(requests, priority=priority, deadline=deadline) as job:
            return await job.all()

    def position(self, job: Job) -> int:
        """Pictures that run before the job's first one."""
        return self._batcher.position(job.tickets[0])

    def estimated_wait(self, job: Job) -> float:
        """Seconds until the job's first picture is likely to run."""
        return self._batcher.estimated_wait(job.tickets[0])

    async def finish(self) -> None:
        """Refuse new requests, make what was accepted, then free the engine. Call it once."""
        self._accepting = False
        self._settled = self._loop.create_future()
        self._pump()
        await self._settled
        await self._instances.close()
        await asyncio.to_thread(self.engine.close)

    def abort(self) -> None:
        """Refuse new requests, and fail those that wait."""
        self._accepting = False
        for ticket in self._batcher.close():
            ticket.payload.job.fail(Unavailable("the server has stopped"))
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
        self._pump()

    def _pump(self) -> None:
        """Start the batches that can start, and answer those whose time is over."""
        if self._pumping:  # a short batch has run within `start`: the loop below goes on
            return
        self._pumping = True
        try:
            for ticket in self._batcher.expire():
                ticket.payload.job.fail(DeadlineExceeded("deadline: it passed in the queue, or cannot be met any more"))
            while len(self._batcher) and self._has_room() and (batch := self._batcher.take()):
                self._instances.start(batch)
        finally:
            self._pumping = False
        if len(self._batcher):
            self._set_timer()
        elif self._settled and self._instances.all_idle and not self._settled.done():
            self._settled.set_result(None)

    def _has_room(self) -> bool:
        return self._instances.ready and self._delivery.encoding < self._max_encoding

    def _set_timer(self) -> None:
        wake = self._batcher.wake_at() if self._has_room() else self._batcher.expires_at()
        if wake is None or (self._timer and self._timer.when() <= wake):
            return
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(wake, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _ran(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if run.batch_seconds is not None:
                self._batcher.record(run.batch.bucket, run.batch_seconds, idle=self._instances.idle > 0)
        self._pump()
        for run in runs:
            self._deliver(run)

    def _deliver(self, run: Run) -> None:
        batch, size = run.batch, len(run.batch.tickets)
        if isinstance(run.results, Exception):
            fault = internal_error(f"a batch of {size} on model {self.name}", run.results)
            for ticket in run.tickets:
                ticket.payload.job.fail(fault)
            return
        if run.batch_seconds is not None:
            self._metrics.executed(size, batch.bucket - size, run.batch_seconds)
            self.statistics.executed(size, run.batch_seconds)
        seconds = run.ended - run.started
        for ticket, (pixels, metadata, data) in zip(run.tickets, run.results, strict=True):
            queued = run.started - ticket.submitted
            self._metrics.queue_seconds.observe(queued)
            self._delivery.deliver(ticket.payload, Made(pixels, metadata, queued, seconds, size, data))
