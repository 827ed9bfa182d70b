"""Rows that may share a call of the model."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from impasto.scheduling.estimate import ExecutionEstimate
from impasto.scheduling.step_policy import StepPolicy
from impasto.scheduling.step_queue import StepQueue
from impasto.scheduling.step_ticket import BY_RANK, StepTicket

T = TypeVar("T")


class StepGroup(Generic[T]):
    """The rows of one model and resolution: those that wait for a slot, and those that hold one."""

    def __init__(self, policy: StepPolicy) -> None:
        self._policy = policy
        self._queue: StepQueue[T] = StepQueue()
        self._running: list[StepTicket[T]] = []
        self._estimate = ExecutionEstimate(policy.buckets)
        self._rows_at = [0] * (policy.priority_levels + 1)
        self._model_rows = 0
        self.used = 0.0
        """Seconds of ticks, by which groups take turns."""
        self.last_used = 0.0
        """When its last tick ended."""

    def __len__(self) -> int:
        return len(self._queue) + len(self._running)

    @property
    def waiting(self) -> int:
        """Rows without a slot."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Rows with a slot."""
        return len(self._running)

    def add(self, ticket: StepTicket[T]) -> None:
        """Queue a row."""
        self._queue.add(ticket)
        self._rows_at[ticket.priority] += 1
        self._model_rows += ticket.width

    def admit(self, ticket: StepTicket[T], slot: int) -> None:
        """Give a waiting row a slot."""
        self._queue.remove(ticket)
        self._running.append(ticket)
        ticket.slot = slot

    def remove(self, ticket: StepTicket[T]) -> int | None:
        """Take a row out; returns the slot that it held."""
        slot = ticket.slot
        if slot is None:
            self._queue.remove(ticket)
        else:
            self._running.remove(ticket)
        ticket.slot, ticket.left = None, True
        self._rows_at[ticket.priority] -= 1
        self._model_rows -= ticket.width
        return slot

    def press(self, ticket: StepTicket[T]) -> None:
        """Have a row go before the others of its priority, by its deadline."""
        if ticket.slot is None:
            self._queue.rerank(ticket, ticket.rank_by_deadline())
        else:
            ticket.rank = ticket.rank_by_deadline()

    def choose(self, free: int, now: float) -> tuple[list[StepTicket[T]], int]:
        """The rows to run now, at most `free` of them without a slot, and the bucket for them."""
        max_batch = self._policy.max_batch
        # Both parts are all but sorted, which makes this sort nearly linear.
        self._running.sort(key=BY_RANK)
        candidates = sorted(self._running + self._queue.first(min(free, max_batch)), key=BY_RANK)
        if starving := self._starving(free, now):
            ahead = _fill(starving, max(max_batch // 2, starving[0].width), free)
            candidates = list(dict.fromkeys(ahead + candidates))
        return self._fitted(_fill(candidates, max_batch, free), free, now)

    def advance(self, tickets: Iterable[StepTicket[T]], bucket: int, seconds: float, now: float) -> None:
        """These rows have had a call, all in one tick of that length."""
        self._estimate.record(bucket, seconds, now)
        self.used += seconds
        self.last_used = now
        for ticket in tickets:
            ticket.made += 1
            ticket.served += seconds

    def best_priority(self) -> int:
        """The highest priority of its rows, of which it must have one."""
        return next(priority for priority, rows in enumerate(self._rows_at) if rows)

    def starves(self, free: int, now: float) -> bool:
        """Has a row that could run and has waited for the starvation limit."""
        return bool(self._starving(min(free, 1), now))

    def in_queue(self) -> list[StepTicket[T]]:
        """Waiting rows, in order of rank."""
        return self._queue.first(len(self._queue))

    def queue_before(self, ticket: StepTicket[T]) -> int:
        """Waiting rows of a lesser rank than this waiting one's."""
        return self._queue.ahead_of(ticket.rank)

    def before(self, ticket: StepTicket[T]) -> list[StepTicket[T]]:
        """Rows of a lesser rank than this waiting one's, in order."""
        running = [other for other in self._running if other.rank < ticket.rank]
        return sorted(running + self._queue.first(self.queue_before(ticket)), key=BY_RANK)

    def before_deadline(self, priority: int, deadline: float) -> list[StepTicket[T]]:
        """Rows that go before that deadline once it presses: of higher priority, or with an earlier one, in order."""
        until = (priority, deadline)
        return sorted([t for t in self._running + self.in_queue() if _by_deadline(t) <= until], key=_by_deadline)

    def least_tick(self, width: int, now: float) -> float:
        """Seconds of the fastest tick that is known to hold a row of that width; 0 if none is known."""
        times = (self._estimate.least(bucket, now) for bucket in self._policy.buckets if bucket >= width)
        return next(filter(None, times), 0.0)

    def typical_tick(self, now: float, more: int = 0) -> float:
        """Seconds of a tick with the rows that are there, and so many model rows more."""
        bucket = self._policy.bucket_for(self._model_rows + more)
        return self._estimate.typical(bucket, now) or self.least_tick(1, now)

    def ticks_behind(self, before: Iterable[StepTicket[T]], spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Ticks until the first of these (calls, width) starts and the last ends, once those before have their places.

        Each row takes the places in the largest bucket that are free first, as if no other came.
        """
        places = [0] * self._policy.max_batch
        for ticket in before:
            _place(places, ticket.calls_left, ticket.width)
        starts = [_place(places, calls, width) for calls, width in spans]
        return min(starts), max(start + calls for start, (calls, _) in zip(starts, spans, strict=True))

    def _starving(self, free: int, now: float) -> list[StepTicket[T]]:
        """Rows that could run and have waited in all for the starvation limit, the oldest first."""
        aged = now - self._policy.starvation_limit
        waiting = self._queue.oldest(aged, min(free, self._policy.max_batch))
        paused = [ticket for ticket in self._running if ticket.submitted + ticket.served <= aged]
        return sorted(paused + waiting, key=_number) if paused else waiting

    def _fitted(self, chosen: list[StepTicket[T]], free: int, now: float) -> tuple[list[StepTicket[T]], int]:
        """Of these rows, those to run and their bucket: all, or what fills the next smaller one if that does more.

        More is model rows a second, by the measured times: 17 rows in a bucket of 32 do less than 16 in one of 16.
        A bucket without a record counts as fast, and so is tried.
        """
        rows = _model_rows(chosen)
        bucket = self._policy.bucket_for(rows)
        smaller = [size for size in self._policy.buckets if chosen[0].width <= size < rows]
        if rows == bucket or not smaller:
            return chosen, bucket
        fewer = _fill(chosen, smaller[-1], free)
        fewer_rows = _model_rows(fewer)
        fewer_bucket = self._policy.bucket_for(fewer_rows)
        seconds, fewer_seconds = self._estimate.typical(bucket, now), self._estimate.typical(fewer_bucket, now)
        return (fewer, fewer_bucket) if fewer_rows * seconds > rows * fewer_seconds else (chosen, bucket)


def _fill(candidates: Iterable[StepTicket[T]], room: int, free: int) -> list[StepTicket[T]]:
    """Candidates in their order, each that fits in the room and has a slot or finds one free."""
    chosen: list[StepTicket[T]] = []
    for ticket in candidates:
        if ticket.width > room:
            continue
        if ticket.slot is None:
            if not free:
                continue
            free -= 1
        chosen.append(ticket)
        room -= ticket.width
        if not room:
            break
    return chosen


def _model_rows(tickets: Iterable[StepTicket[T]]) -> int:
    return sum([ticket.width for ticket in tickets])


def _place(places: list[int], calls: int, width: int) -> int:
    """Let a row into the places that are free first, for so many calls; returns the tick at which it starts."""
    for _ in range(width - 1):
        heapq.heappop(places)
    start = places[0]
    heapq.heapreplace(places, start + calls)
    for _ in range(width - 1):
        heapq.heappush(places, start + calls)
    return start


def _by_deadline(ticket: StepTicket[T]) -> tuple[int, float]:
    return ticket.priority, math.inf if ticket.deadline is None else ticket.deadline


def _number(ticket: StepTicket[T]) -> int:
    return ticket.number
