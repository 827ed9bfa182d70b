"""The dynamic batcher: single rows in, batches out.

A batch forms at once when the waiting rows fill the largest bucket, otherwise when the oldest of them has waited
`max_queue_delay`, and earlier where waiting would gamble a deadline. It takes as many rows as fit, in the order
that `WaitingRows` keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from impasto.errors import DeadlineExceeded, InvalidRequest, QueueFull, Unavailable
from impasto.scheduling.deadlines import Deadlines
from impasto.scheduling.estimate import ExecutionEstimate
from impasto.scheduling.instances import Instances
from impasto.scheduling.policy import BatchPolicy
from impasto.scheduling.ticket import Ticket
from impasto.scheduling.waiting import WaitingRows

__all__ = ["Batch", "BatchPolicy", "DynamicBatcher", "Ticket"]

T = TypeVar("T")
MIN_RETRY = 0.01
"""Shortest delay, in seconds, that a refused caller is told to wait before trying again."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """Rows to run together, and the smallest bucket that holds them; padding is the engine's work."""

    tickets: list[Ticket[T]]
    bucket: int


class DynamicBatcher(Generic[T]):
    """Rows wait here until a batch of them forms for an idle engine.

    Every accepted ticket leaves exactly once: by take(), expire() or close(), or by a cancel() that says True.
    All times are seconds of `clock`, which must never go back (time.monotonic). Call it from one thread.
    """

    def __init__(self, policy: BatchPolicy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._estimate = ExecutionEstimate(policy.buckets)
        self._waiting: WaitingRows[T] = WaitingRows(policy.priority_levels)
        self._deadlines: Deadlines[T] = Deadlines(self._waiting)
        self._late: dict[Ticket[T], None] = {}
        self._accepted = 0
        self._instances = Instances(policy.instances, clock())
        self._closed = False

    def __len__(self) -> int:
        """Rows that have not left: those that wait, and late ones that expire() has yet to return."""
        return len(self._waiting) + len(self._late)

    def submit(self, payloads: Sequence[T], *, priority: int = 0, deadline: float | None = None) -> list[Ticket[T]]:
        """Queue one row a payload, all of them or none, at a priority from 1 (the highest; 0: the default).

        Raises InvalidRequest (no such priority, or more rows than ever fit), DeadlineExceeded (passed, or the estimate
        of queue and execution does not meet it), QueueFull (with the delay until there is likely room) and
        Unavailable (closed).
        """
        if self._closed:
            raise Unavailable("queue: closed, takes no more rows")
        policy, rows, now = self._policy, len(payloads), self._clock()
        priority = priority or policy.default_priority
        if not 1 <= priority <= policy.priority_levels:
            raise InvalidRequest(
                "priority", priority, f"1 (the highest) to {policy.priority_levels}, or 0: the default"
            )
        if rows > policy.max_queue:
            raise InvalidRequest("rows", rows, f"at most {policy.max_queue}, all that may wait at a priority")
        if deadline is not None and not deadline > now:
            raise DeadlineExceeded(
                f"deadline: found one that passed {now - deadline:.3g} s ago; allowed is a later one"
            )
        self._drop_late(now)
        if self._waiting.at(priority) + rows > policy.max_queue:
            raise self._queue_full(rows, priority, now)
        if deadline is not None:
            self._check_deadline(deadline, rows, priority, now)
        first, self._accepted = self._accepted, self._accepted + rows
        tickets = [Ticket(payload, priority, deadline, now, number) for number, payload in enumerate(payloads, first)]
        self._waiting.add(tickets)
        if deadline is not None:
            for ticket in tickets:
                self._deadlines.add(deadline, ticket)
        return tickets

    def cancel(self, ticket: Ticket[T]) -> bool:
        """Take a waiting row out: True if it waited and is gone, False if it has left before."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            return True
        if ticket in self._late:
            del self._late[ticket]
            return True
        return False

    def expire(self) -> list[Ticket[T]]:
        """Remove and return the rows whose deadline has passed or cannot be met any more."""
        if self._deadlines:
            self._drop_late(self._clock())
        if not self._late:
            return []
        late = list(self._late)
        self._late.clear()
        return late

    def take(self) -> Batch[T] | None:
        """The batch to run now, None if there is nothing to run yet. Call it when an engine is idle.

        Rows whose deadline this batch would miss are not in it: expire() returns them.
        """
        if not self._waiting:
            return None
        now = self._clock()
        self._drop_late(now)
        rows, policy = len(self._waiting), self._policy
        if not rows or (rows < policy.max_batch and policy.max_queue_delay and now < self._due_at(now)):
            return None
        tickets = self._waiting.pop(policy.max_batch, self._aged(now))
        bucket = policy.bucket_for(len(tickets))
        self._instances.started(now, self._estimate.typical(bucket, now))
        return Batch(tickets, bucket)

    def wake_at(self) -> float | None:
        """When take() or expire() could next give something without another submit; None if nothing waits.

        Not later than now while take() has a batch to give: with no engine idle to run it, see expires_at().
        """
        rows, now = len(self._waiting), self._clock()
        if self._late or rows >= self._policy.max_batch:
            return now
        return self._due_at(now) if rows else None

    def expires_at(self) -> float | None:
        """When expire() gives something next if nothing is taken before; None if no waiting row has a deadline."""
        now = self._clock()
        if self._late:
            return now
        earliest = self._deadlines.earliest()
        return earliest and self._latest_start(earliest[0], now)

    def record(self, bucket: int, seconds: float, *, idle: bool = True) -> None:
        """A batch has run in that bucket for so long: feeds the estimate. `idle`: its engine has no other to run."""
        now = self._clock()
        self._estimate.record(bucket, seconds, now)
        if idle:
            self._instances.finished(now)

    def position(self, ticket: Ticket[T]) -> int:
        """Rows that go before this one as things stand; 0 if it does not wait. Quickest for the newest row."""
        return self._waiting.ahead_of(ticket, self._aged(self._clock())) if ticket in self._waiting else 0

    def estimated_wait(self, ticket: Ticket[T]) -> float:
        """Seconds until this row's batch is likely to start; 0 if it does not wait."""
        if ticket not in self._waiting:
            return 0.0
        now = self._clock()
        wait = self._wait_behind(self._waiting.ahead_of(ticket, self._aged(now)), now)
        return wait if len(self._waiting) >= self._policy.max_batch else max(wait, self._due_at(now) - now)

    def close(self) -> list[Ticket[T]]:
        """Refuse new rows from now on; remove and return those that wait."""
        self._closed = True
        rest = [*self._late, *self._waiting.pop(len(self._waiting), self._aged(self._clock()))]
        self._late.clear()
        return rest

    def _aged(self, now: float) -> float:
        return now - self._policy.starvation_limit

    def _due_at(self, now: float) -> float:
        """When the waiting rows, at least one and too few for a full batch, go anyway."""
        oldest, delay = self._waiting.oldest(), self._policy.max_queue_delay
        assert oldest is not None
        due = oldest.submitted + delay
        if (earliest := self._deadlines.earliest()) is not None:
            bucket = self._policy.bucket_for(len(self._waiting))
            due = min(due, earliest[0] - self._estimate.typical(bucket, now) - delay)
        return due

    def _latest_start(self, deadline: float, now: float) -> float:
        """When the next batch, made of what waits now, must start to end before that deadline."""
        return deadline - self._estimate.least(self._policy.bucket_for(len(self._waiting)), now)

    def _drop_late(self, now: float) -> None:
        """Set aside the rows whose deadline the next batch cannot meet, for expire() to return."""
        while (earliest := self._deadlines.earliest()) is not None:
            deadline, ticket = earliest
            if now < self._latest_start(deadline, now):
                break
            self._waiting.remove(ticket)
            self._late[ticket] = None

    def _wait_behind(self, rows: int, now: float) -> float:
        """Seconds until the batch starts that holds a row with so many before it."""
        max_batch = self._policy.max_batch
        return self._instances.wait(rows // max_batch, now, self._estimate.typical(max_batch, now))

    def _check_deadline(self, deadline: float, rows: int, priority: int, now: float) -> None:
        last = self._waiting.ahead_of_new(priority, self._aged(now)) + rows - 1
        bucket = self._policy.bucket_for(len(self._waiting) + rows)
        needed = self._wait_behind(last, now) + self._estimate.typical(bucket, now)
        if now >= deadline - needed:
            raise DeadlineExceeded(
                f"deadline: found {deadline - now:.3g} s from now; allowed is more than {needed:.3g} s, "
                "the estimate of queue and execution"
            )

    def _queue_full(self, rows: int, priority: int, now: float) -> QueueFull:
        limit, waiting = self._policy.max_queue, self._waiting.at(priority)
        last_to_leave = self._waiting.ahead_of_new(priority, self._aged(now)) + rows - limit - 1
        retry_after = max(MIN_RETRY, self._wait_behind(last_to_leave, now))
        return QueueFull(
            f"queue: found {waiting} rows waiting at priority {priority}, no room for {rows} more; allowed is {limit}; "
            f"try again in {retry_after:.3g} s",
            retry_after,
        )
