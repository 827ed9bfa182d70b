"""A server in simulated time: arrivals in, what became of every row out."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from impasto.errors import DeadlineExceeded, QueueFull
from impasto.scheduling import BatchPolicy, DynamicBatcher, Ticket


class FakeClock:
    """A clock that moves when it is told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Arrival:
    """A request of some rows; `timeout` is its deadline, counted from its arrival."""

    time: float
    rows: int = 1
    priority: int = 0
    timeout: float | None = None


@dataclass(frozen=True)
class Run:
    """A batch that has run."""

    started: float
    finished: float
    bucket: int
    tickets: list[Ticket[Arrival]]


@dataclass
class Log:
    """What became of the rows."""

    accepted: list[Ticket[Arrival]] = field(default_factory=list)
    full: list[tuple[Arrival, float]] = field(default_factory=list)
    unmeetable: list[Arrival] = field(default_factory=list)
    expired: list[tuple[Ticket[Arrival], float]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    longest_queue: int = 0

    def waits(self, priority: int) -> list[float]:
        """Seconds from submission to the start of the batch, of each row that ran."""
        return [run.started - t.submitted for run in self.runs for t in run.tickets if t.priority == priority]

    def rate(self, begin: float, end: float) -> float:
        """Rows a second that were finished in that time."""
        return sum(len(run.tickets) for run in self.runs if begin < run.finished <= end) / (end - begin)


def simulate(policy: BatchPolicy, seconds: Callable[[int], float], arrivals: Sequence[Arrival]) -> Log:
    """Serve the arrivals, in order of time, with engines that take `seconds(bucket)` a batch, until all is done."""
    clock, log = FakeClock(), Log()
    batcher: DynamicBatcher[Arrival] = DynamicBatcher(policy, clock)
    running: list[tuple[float, int, Run]] = []
    coming = list(reversed(arrivals))
    while coming or running or len(batcher):
        idle = len(running) < policy.instances
        wake = batcher.wake_at() if idle else batcher.expires_at()
        events = [wake] if wake is not None else []
        events += [coming[-1].time] if coming else []
        events += [running[0][0]] if running else []
        clock.now = max(clock.now, min(events))
        while running and running[0][0] <= clock.now:
            run = heapq.heappop(running)[2]
            batcher.record(run.bucket, run.finished - run.started)
            log.runs.append(run)
        while coming and coming[-1].time <= clock.now:
            _submit(batcher, coming.pop(), log)
        log.expired += [(ticket, clock.now) for ticket in batcher.expire()]
        while len(running) < policy.instances and (batch := batcher.take()) is not None:
            run = Run(clock.now, clock.now + seconds(batch.bucket), batch.bucket, batch.tickets)
            heapq.heappush(running, (run.finished, batch.tickets[0].number, run))
        log.longest_queue = max(log.longest_queue, len(batcher))
    return log


def poisson(rate: float, duration: float, priority: int = 0, timeout: float | None = None) -> list[Arrival]:
    """Single rows at random times, the same ones in every run of the tests."""
    draw, now, arrivals = random.Random(f"{rate} {priority}"), 0.0, []
    while (now := now + draw.expovariate(rate)) < duration:
        arrivals.append(Arrival(now, priority=priority, timeout=timeout))
    return arrivals


def _submit(batcher: DynamicBatcher[Arrival], arrival: Arrival, log: Log) -> None:
    deadline = None if arrival.timeout is None else arrival.time + arrival.timeout
    try:
        log.accepted += batcher.submit([arrival] * arrival.rows, priority=arrival.priority, deadline=deadline)
    except QueueFull as error:
        log.full.append((arrival, error.retry_after))
    except DeadlineExceeded:
        log.unmeetable.append(arrival)
