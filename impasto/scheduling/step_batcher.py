"""The step batcher: rows that take many calls of a model join and leave its batch between two calls.

A tick is one call. Before each, rows that were cancelled or cannot meet their deadline are dropped, and the next ones
are chosen among those that hold a slot and those that wait: by priority, then those whose deadline presses (the
earliest first), then the fewest calls in all, then the earliest deadline, then arrival. So a short row waits for no
long one: that one pauses in its slot. Rows that have waited for the starvation limit have half of each tick.

Calls in all count and not those left, so that a short row goes before a long one that is all but done; the latencies
are the same otherwise (`benchmarks.step_simulation`). A deadline presses once the row needs two thirds of the time that
is left: were the earliest deadline always first, calls that all carry the same generous timeout would be served in
order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from impasto.errors import Cancelled, DeadlineExceeded, InvalidRequest, QueueFull, Unavailable
from impasto.scheduling.estimate import MEMORY
from impasto.scheduling.step_deadlines import DeadlineChecks
from impasto.scheduling.step_group import StepGroup
from impasto.scheduling.step_policy import StepPolicy
from impasto.scheduling.step_tick import Ended, Tick
from impasto.scheduling.step_ticket import StepRow, StepTicket

__all__ = ["Ended", "StepBatcher", "StepPolicy", "StepRow", "StepTicket", "Tick"]

T = TypeVar("T")
MIN_RETRY = 0.01
"""Shortest delay, in seconds, that a refused caller is told to wait before trying again."""
PRESSING = 1.5
"""A deadline presses once what is left of the time is so many times what the row needs."""


class StepBatcher(Generic[T]):
    """Rows wait here for a slot, and keep it, call by call, until they are done.

    Every accepted ticket leaves exactly once: by done() or fail(), in a tick's `ended`, by close(), or by the cancel()
    of a row that waits. One tick is under way at a time: tick(), then done() or fail() of it.
    All times are seconds of `clock`, which must never go back (time.monotonic). Call it from one thread.
    """

    def __init__(self, policy: StepPolicy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._groups: dict[Hashable, StepGroup[T]] = {}
        self._free = list(reversed(range(policy.slots)))
        self._cancelled: dict[StepTicket[T], None] = {}
        self._deadlines: DeadlineChecks[T] = DeadlineChecks()
        self._waiting = [0] * (policy.priority_levels + 1)
        self._work = [0] * (policy.priority_levels + 1)
        self._accepted = 0
        self._turn_at = 0.0
        self._under_way: Tick[T] | None = None
        self._closed = False

    def __len__(self) -> int:
        """Rows that have not left."""
        return self.waiting + self.running

    @property
    def waiting(self) -> int:
        """Rows that wait for a slot."""
        return sum(self._waiting)

    @property
    def running(self) -> int:
        """Slots in use."""
        return self._policy.slots - len(self._free)

    def submit(
        self, rows: Sequence[StepRow[T]], *, priority: int = 0, deadline: float | None = None
    ) -> list[StepTicket[T]]:
        """Queue rows, all of them or none, at a priority from 1 (the highest; 0: the default).

        Raises InvalidRequest (calls or width out of range, no such priority, or more rows than ever fit),
        DeadlineExceeded (passed, or the estimate does not meet it), QueueFull (with the delay until there is likely
        room) and Unavailable (closed).
        """
        if self._closed:
            raise Unavailable("queue: closed, takes no more rows")
        now, priority = self._clock(), priority or self._policy.default_priority
        self._check(rows, priority)
        if deadline is not None and not deadline > now:
            raise DeadlineExceeded(
                f"deadline: found one that passed {now - deadline:.3g} s ago; allowed is a later one"
            )
        if self._waiting[priority] + len(rows) > self._policy.max_queue:
            raise self._queue_full(len(rows), priority, now)
        if deadline is not None:
            self._check_deadline(rows, priority, deadline, now)
        first, self._accepted = self._accepted, self._accepted + len(rows)
        tickets = [
            StepTicket(row.payload, row.calls, row.width, row.group, priority, deadline, now, number)
            for number, row in enumerate(rows, first)
        ]
        for ticket in tickets:
            self._add(ticket, now)
        return tickets

    def cancel(self, ticket: StepTicket[T]) -> bool:
        """Let a row go: True if it will not be done, False if it has left or was cancelled before.

        One that waits is gone now; one that holds a slot is in the next tick's `ended`, whatever becomes of this one.
        """
        if ticket.left or ticket in self._cancelled:
            return False
        if ticket.slot is None:
            self._remove(ticket)
        else:
            self._cancelled[ticket] = None
        return True

    def tick(self) -> Tick[T] | None:
        """The call to make now; None if there is nothing to run and nothing to tell."""
        if self._under_way is not None:
            raise RuntimeError("tick: found one under way; done() or fail() comes before the next")
        now = self._clock()
        ended = (*self._drop_cancelled(), *self._drop_late(now))
        turn = self._turn(now)
        if turn is None:
            return self._begin(Tick(None, (), 0, (), ended)) if ended else None
        name, group = turn
        chosen, bucket = group.choose(len(self._free), now)
        admitted = tuple([ticket for ticket in chosen if ticket.slot is None])
        for ticket in admitted:
            self._leave_queue(ticket)
            group.admit(ticket, self._free.pop())
        self._turn_at = group.used
        rows = tuple([(ticket, ticket.slot, ticket.made) for ticket in chosen if ticket.slot is not None])
        return self._begin(Tick(name, rows, bucket, admitted, ended))

    def done(self, tick: Tick[T], seconds: float) -> list[StepTicket[T]]:
        """The call has been made in so many seconds; returns the rows that are done, whose slots are free."""
        self._end(tick)
        if not tick.rows:
            return []
        tickets = [ticket for ticket, _, _ in tick.rows]
        self._groups[tick.group].advance(tickets, tick.bucket, seconds, self._clock())
        finished = [ticket for ticket in tickets if not ticket.calls_left and ticket not in self._cancelled]
        for ticket in finished:
            self._remove(ticket)
        return finished

    def fail(self, tick: Tick[T]) -> list[StepTicket[T]]:
        """The call has failed: removes and returns its rows, save those that the next tick tells as cancelled."""
        self._end(tick)
        failed = [ticket for ticket, _, _ in tick.rows if ticket not in self._cancelled]
        for ticket in failed:
            self._remove(ticket)
        return failed

    def wake_at(self) -> float | None:
        """When tick() has something to give: now, or None if it has nothing until another submit() or done()."""
        return self._clock() if len(self) and self._under_way is None else None

    def position(self, ticket: StepTicket[T]) -> int:
        """Waiting rows of its group that go before this one as things stand; 0 if it does not wait."""
        if ticket.left or ticket.slot is not None:
            return 0
        return self._groups[ticket.group].queue_before(ticket)

    def estimated_wait(self, ticket: StepTicket[T]) -> float:
        """Seconds until this row's first call is likely to start; 0 if it does not wait for a slot."""
        if ticket.left or ticket.slot is not None:
            return 0.0
        group, now = self._groups[ticket.group], self._clock()
        start, _ = group.ticks_behind(group.before(ticket), [(ticket.calls_left, ticket.width)])
        return start * group.typical_tick(now) * self._sharing(group)

    def close(self) -> list[StepTicket[T]]:
        """Refuse new rows from now on; remove and return those that wait. Those that hold a slot go on."""
        self._closed = True
        rest = [ticket for group in self._groups.values() for ticket in group.in_queue()]
        for ticket in rest:
            self._remove(ticket)
        return rest

    def _begin(self, tick: Tick[T]) -> Tick[T]:
        self._under_way = tick
        return tick

    def _end(self, tick: Tick[T]) -> None:
        if tick is not self._under_way:
            raise RuntimeError("tick: found one that is not under way; only that can end")
        self._under_way = None

    def _add(self, ticket: StepTicket[T], now: float) -> None:
        group = self._groups.get(ticket.group)
        if group is None:
            self._forget_idle_groups(now)
            group = self._groups[ticket.group] = StepGroup(self._policy)
        if not len(group):
            # A group that had nothing to run has no claim to the time that the others used meanwhile.
            used = [other.used for other in self._groups.values() if len(other)]
            group.used = max(group.used, min(used, default=self._turn_at))
        group.add(ticket)
        self._waiting[ticket.priority] += 1
        self._work[ticket.priority] += ticket.calls * ticket.width
        if ticket.deadline is not None:
            self._deadlines.shrink(len(self))
            self._deadlines.add(ticket, now)

    def _leave_queue(self, ticket: StepTicket[T]) -> None:
        self._waiting[ticket.priority] -= 1
        self._work[ticket.priority] -= ticket.calls * ticket.width

    def _remove(self, ticket: StepTicket[T]) -> None:
        slot = self._groups[ticket.group].remove(ticket)
        if slot is None:
            self._leave_queue(ticket)
        else:
            self._free.append(slot)

    def _drop_cancelled(self) -> list[Ended[T]]:
        cancelled = list(self._cancelled)
        self._cancelled.clear()
        for ticket in cancelled:
            self._remove(ticket)
        return [Ended(ticket, Cancelled("cancelled between two calls")) for ticket in cancelled]

    def _drop_late(self, now: float) -> list[Ended[T]]:
        """End the rows whose deadline cannot be met any more, and let those go ahead whose deadline presses."""
        return [ended for ticket in self._deadlines.due(now) if (ended := self._watch(ticket, now)) is not None]

    def _watch(self, ticket: StepTicket[T], now: float) -> Ended[T] | None:
        """Look at a row's deadline, and say when to look again."""
        assert ticket.deadline is not None
        group = self._groups[ticket.group]
        needed = ticket.calls_left * group.least_tick(ticket.width, now)
        if now >= ticket.deadline - needed:
            self._remove(ticket)
            return Ended(ticket, _too_late(ticket.deadline - now, needed))
        likely = ticket.calls_left * group.typical_tick(now) * self._sharing(group)
        if not ticket.presses and now >= ticket.deadline - PRESSING * likely:
            group.press(ticket)
        event = ticket.deadline - (needed if ticket.presses else PRESSING * likely)
        # Half-way at the latest, because the estimates that foretell the event change; at once, if there are none yet.
        self._deadlines.add(ticket, min(event, (now + ticket.deadline) / 2) if likely else now)
        return None

    def _turn(self, now: float) -> tuple[Hashable, StepGroup[T]] | None:
        """The group that runs: the one that has used the least time, of those with the highest priority.

        Rows that starve give their group its turn whatever their priority.
        """
        free = len(self._free)
        ready = [(name, group) for name, group in self._groups.items() if group.running or (free and group.waiting)]
        if len(ready) < 2:
            return ready[0] if ready else None
        highest = min(group.best_priority() for _, group in ready)
        entitled = [
            (name, group) for name, group in ready if group.best_priority() == highest or group.starves(free, now)
        ]
        return min(entitled, key=lambda turn: turn[1].used)

    def _forget_idle_groups(self, now: float) -> None:
        idle = [name for name, group in self._groups.items() if not len(group) and now >= group.last_used + MEMORY]
        for name in idle:
            del self._groups[name]

    def _sharing(self, group: StepGroup[T]) -> int:
        """How many groups take turns while this one has rows."""
        return 1 + sum(1 for other in self._groups.values() if other is not group and len(other))

    def _check(self, rows: Sequence[StepRow[T]], priority: int) -> None:
        policy = self._policy
        if not 1 <= priority <= policy.priority_levels:
            raise InvalidRequest(
                "priority", priority, f"1 (the highest) to {policy.priority_levels}, or 0: the default"
            )
        if len(rows) > policy.max_queue:
            raise InvalidRequest("rows", len(rows), f"at most {policy.max_queue}, all that may wait at a priority")
        for row in rows:
            if row.calls < 1:
                raise InvalidRequest("calls", row.calls, "at least 1")
            if not 1 <= row.width <= policy.max_batch:
                raise InvalidRequest("width", row.width, f"1 to {policy.max_batch}, the largest bucket")

    def _check_deadline(self, rows: Sequence[StepRow[T]], priority: int, deadline: float, now: float) -> None:
        for name in dict.fromkeys(row.group for row in rows):
            group = self._groups.get(name)
            if group is None:
                continue
            spans = [(row.calls, row.width) for row in rows if row.group == name]
            _, ticks = group.ticks_behind(group.before_deadline(priority, deadline), spans)
            needed = ticks * group.typical_tick(now, sum(width for _, width in spans)) * self._sharing(group)
            if now >= deadline - needed:
                raise _too_late(deadline - now, needed)

    def _queue_full(self, rows: int, priority: int, now: float) -> QueueFull:
        limit, waiting = self._policy.max_queue, self._waiting[priority]
        share = (waiting + rows - limit) / waiting
        calls = (sum(self._work[:priority]) + share * self._work[priority]) / self._policy.max_batch
        tick = max((group.typical_tick(now) for group in self._groups.values() if len(group)), default=0.0)
        retry_after = max(MIN_RETRY, calls * tick)
        return QueueFull(
            f"queue: found {waiting} rows waiting at priority {priority}, no room for {rows} more; allowed is {limit}; "
            f"try again in {retry_after:.3g} s",
            retry_after,
        )


def _too_late(left: float, needed: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"deadline: found {left:.3g} s left; allowed is more than {needed:.3g} s, the estimate of what is to be done"
    )
