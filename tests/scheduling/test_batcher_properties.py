"""Whatever comes in whatever order: hypothesis drives the batcher beside a model that is a plain list."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from impasto.errors import DeadlineExceeded, QueueFull, Unavailable
from impasto.scheduling import BatchPolicy, DynamicBatcher, Ticket
from tests.scheduling.batching_simulation import Arrival, FakeClock, simulate

POLICY = BatchPolicy(buckets=(1, 2, 4), max_queue_delay=1 / 64, max_queue=9, starvation_limit=0.5)
TICK = 1 / 1024  # times are exact in binary, and often equal
Row = Ticket[int]


class BatcherBesideAList(RuleBasedStateMachine):
    """Every rule checks what the batcher answers against the list of rows that should be waiting."""

    tickets: Bundle[Row] = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(8.0)
        self.batcher: DynamicBatcher[int] = DynamicBatcher(POLICY, self.clock)
        self.waiting: list[Row] = []
        self.submitted = 0
        self.measured: dict[int, float] = {}

    def in_order(self) -> list[Row]:
        aged = self.clock.now - POLICY.starvation_limit
        return sorted(self.waiting, key=lambda t: (t.submitted > aged, t.submitted > aged and t.priority, t.number))

    def leave(self, tickets: Sequence[Row]) -> None:
        for ticket in tickets:
            self.waiting.remove(ticket)

    def drop_expired(self) -> list[Row]:
        expired = self.batcher.expire()
        for ticket in expired:
            assert ticket.deadline is not None
            assert self.clock.now >= ticket.deadline - max(self.measured.values(), default=0.0)
        self.leave(expired)
        return expired

    @rule(
        target=tickets,
        rows=st.integers(0, 6),
        priority=st.integers(0, 3),
        slack=st.none() | st.integers(-8, 512),
    )
    def submit(self, rows: int, priority: int, slack: int | None) -> MultipleResults[Row]:
        self.drop_expired()
        level = priority or 2
        deadline = None if slack is None else self.clock.now + slack * TICK
        room = sum(t.priority == level for t in self.waiting) + rows <= POLICY.max_queue
        before = len(self.batcher)
        payloads = range(self.submitted, self.submitted + rows)
        refusal: QueueFull | DeadlineExceeded | None = None
        try:
            tickets = self.batcher.submit(payloads, priority=priority, deadline=deadline)
        except (QueueFull, DeadlineExceeded) as error:
            refusal = error
        if refusal is not None:
            assert len(self.batcher) == before
            if isinstance(refusal, QueueFull):
                assert not room
                assert refusal.retry_after > 0
            else:
                assert slack is not None
                assert slack <= 0 or self.measured
            return multiple()
        assert room
        assert slack is None or slack > 0
        assert [(t.payload, t.priority, t.deadline) for t in tickets] == [(p, level, deadline) for p in payloads]
        self.submitted += rows
        self.waiting += tickets
        return multiple(*tickets)

    @rule(ticket=consumes(tickets))
    def cancel(self, ticket: Row) -> None:
        waited = ticket in self.waiting
        assert self.batcher.cancel(ticket) == waited
        assert not self.batcher.cancel(ticket)
        if waited:
            self.waiting.remove(ticket)

    @rule(ticks=st.integers(0, 400))
    def time_passes(self, ticks: int) -> None:
        self.clock.now += ticks * TICK

    @rule()
    def expire(self) -> None:
        self.drop_expired()
        assert all(t.deadline is None or t.deadline > self.clock.now for t in self.waiting)
        assert self.batcher.expire() == []

    @rule()
    def take(self) -> None:
        batch = self.batcher.take()
        taken = batch.tickets if batch else []
        expired = self.drop_expired()
        assert not set(taken) & set(expired)
        assert taken == self.in_order()[: len(taken)]
        due = [t for t in self.waiting if t.submitted + POLICY.max_queue_delay <= self.clock.now]
        if batch is None:
            assert len(self.waiting) < POLICY.max_batch
            assert not due
            return
        assert len(taken) == min(len(self.waiting), POLICY.max_batch)
        assert batch.bucket == min(bucket for bucket in POLICY.buckets if bucket >= len(taken))
        assert all(t.deadline is None or t.deadline > self.clock.now for t in taken)
        if not any(t.deadline for t in self.waiting):
            assert due or len(taken) == POLICY.max_batch
        self.leave(taken)

    @rule(bucket=st.sampled_from(POLICY.buckets), ticks=st.integers(0, 64))
    def record(self, bucket: int, ticks: int) -> None:
        self.batcher.record(bucket, ticks * TICK)
        self.measured[bucket] = max(self.measured.get(bucket, 0.0), ticks * TICK)

    @precondition(lambda self: self.waiting)
    @rule()
    def sleep_until_woken(self) -> None:
        while (wake := self.batcher.wake_at()) is not None and wake <= self.clock.now:
            before = len(self.waiting)
            self.take()
            assert len(self.waiting) < before
        if wake is None:
            return
        assert wake <= self.clock.now + POLICY.max_queue_delay
        self.clock.now = (self.clock.now + wake) / 2
        assert self.batcher.take() is None
        assert self.batcher.expire() == []
        self.clock.now = wake
        batch = self.batcher.take()
        taken = batch.tickets if batch else []
        assert taken or self.drop_expired()
        self.leave(taken)

    @rule()
    def close_and_open_anew(self) -> None:
        rest = self.batcher.close()
        assert sorted(t.number for t in rest) == sorted(t.number for t in self.waiting)
        with pytest.raises(Unavailable):
            self.batcher.submit([1])
        self.batcher = DynamicBatcher(POLICY, self.clock)
        self.waiting.clear()
        self.measured.clear()

    @invariant()
    def all_that_wait_are_counted(self) -> None:
        assert len(self.batcher) == len(self.waiting)
        assert (self.batcher.wake_at() is None) == (not self.waiting)

    @invariant()
    def positions_are_places_in_the_order(self) -> None:
        self.drop_expired()
        positions = [self.batcher.position(ticket) for ticket in self.in_order()]
        assert positions == list(range(len(self.waiting)))
        waits = [self.batcher.estimated_wait(ticket) for ticket in self.in_order()]
        assert waits == sorted(waits)
        assert all(wait >= 0 for wait in waits)


TestBatcherBesideAList = BatcherBesideAList.TestCase
TestBatcherBesideAList.settings = settings(max_examples=150, stateful_step_count=40)


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        time=st.integers(0, 2000).map(lambda ticks: ticks * TICK),
        rows=st.integers(1, 6),
        priority=st.integers(0, 3),
        timeout=st.none() | st.integers(1, 600).map(lambda ticks: ticks * TICK),
    ),
    max_size=40,
).map(lambda arrivals: sorted(arrivals, key=lambda arrival: arrival.time))


@settings(max_examples=150)
@given(arrivals=ARRIVALS, instances=st.integers(1, 3), a_row=st.integers(1, 40), a_batch=st.integers(0, 100))
def test_every_row_is_run_or_refused_or_expired_exactly_once(
    arrivals: list[Arrival], instances: int, a_row: int, a_batch: int
) -> None:
    policy = BatchPolicy(
        buckets=(1, 2, 4), max_queue_delay=1 / 64, max_queue=9, starvation_limit=0.5, instances=instances
    )
    log = simulate(policy, lambda bucket: (a_batch + a_row * bucket) * TICK, arrivals)
    ended = [t.number for run in log.runs for t in run.tickets] + [t.number for t, _ in log.expired]
    assert sorted(ended) == list(range(len(log.accepted)))
    refused = [arrival for arrival, _ in log.full] + log.unmeetable
    assert len(log.accepted) + sum(arrival.rows for arrival in refused) == sum(arrival.rows for arrival in arrivals)
    for run in log.runs:
        assert len(run.tickets) <= run.bucket
        assert all(t.deadline is None or t.deadline > run.started for t in run.tickets)


@settings(max_examples=150)
@given(waiting=st.integers(0, 9), rows=st.integers(1, 9), timeout=st.integers(1, 800), constant=st.booleans())
def test_deadline_that_is_accepted_is_met_if_nothing_else_comes(
    waiting: int, rows: int, timeout: int, constant: bool
) -> None:
    seconds = {1: 64, 2: 64, 4: 64} if constant else {1: 16, 2: 24, 4: 64}
    policy = BatchPolicy(buckets=(1, 2, 4), max_queue_delay=0.0, max_queue=18)
    learn = [Arrival(float(index), rows=size) for index, size in enumerate((1, 2, 4))]
    load = [Arrival(8.0, rows=waiting)] if waiting else []
    asked = Arrival(8.0 + TICK, rows=rows, timeout=timeout * TICK)
    log = simulate(policy, lambda bucket: seconds[bucket] * TICK, [*learn, *load, asked])
    made = [run.finished for run in log.runs for t in run.tickets if t.payload is asked]
    if log.unmeetable:
        unhurried = Arrival(asked.time, rows=rows)
        log = simulate(policy, lambda bucket: seconds[bucket] * TICK, [*learn, *load, unhurried])
        finished = max(run.finished for run in log.runs)
        assert not made
        assert not constant or finished >= asked.time + timeout * TICK
    else:
        assert len(made) == rows
        assert max(made) < asked.time + timeout * TICK
