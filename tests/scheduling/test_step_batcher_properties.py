"""Whatever comes in whatever order: hypothesis drives the step batcher beside a model of sets and counts."""

from collections import Counter

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

from impasto.errors import Cancelled, DeadlineExceeded, QueueFull, Unavailable
from impasto.scheduling import StepBatcher, StepPolicy, StepRow, StepTicket, Tick
from tests.scheduling.batching_simulation import FakeClock

POLICY = StepPolicy(buckets=(1, 2, 4), slots=6, max_queue=9, starvation_limit=0.5)
TICK = 1 / 1024  # times are exact in binary, and often equal
Row = StepTicket[int]
ROWS = st.lists(
    st.builds(
        StepRow,
        payload=st.just(0),
        calls=st.sampled_from((1, 2, 5)),
        width=st.integers(1, 2),
        group=st.sampled_from("ab"),
    ),
    max_size=6,
)


class StepBatcherBesideCounts(RuleBasedStateMachine):
    """Every rule checks what the batcher answers against who should wait, who runs, and the calls of each."""

    tickets: Bundle[Row] = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(8.0)
        self.batcher: StepBatcher[int] = StepBatcher(POLICY, self.clock)
        self.waiting: list[Row] = []
        self.running: dict[Row, int] = {}
        self.cancelled: set[Row] = set()
        self.calls: Counter[Row] = Counter()
        self.under_way: Tick[int] | None = None
        self.longest = 0.0

    @rule(target=tickets, rows=ROWS, priority=st.integers(0, 3), slack=st.none() | st.integers(-8, 4096))
    def submit(self, rows: list[StepRow[int]], priority: int, slack: int | None) -> MultipleResults[Row]:
        level = priority or 2
        deadline = None if slack is None else self.clock.now + slack * TICK
        room = sum(t.priority == level for t in self.waiting) + len(rows) <= POLICY.max_queue
        try:
            tickets = self.batcher.submit(rows, priority=priority, deadline=deadline)
        except QueueFull:
            assert not room
            return multiple()
        except DeadlineExceeded:
            assert slack is not None
            assert slack <= 0 or self.longest
            return multiple()
        assert room
        assert slack is None or slack > 0
        assert [(t.calls, t.width, t.group) for t in tickets] == [(r.calls, r.width, r.group) for r in rows]
        assert all((t.priority, t.deadline) == (level, deadline) for t in tickets)
        self.waiting += tickets
        return multiple(*tickets)

    @rule(ticket=consumes(tickets))
    def cancel(self, ticket: Row) -> None:
        there = ticket in self.waiting or ticket in self.running
        assert self.batcher.cancel(ticket) == there
        assert not self.batcher.cancel(ticket)
        if ticket in self.waiting:
            self.waiting.remove(ticket)
        elif there:
            self.cancelled.add(ticket)

    @rule(ticks=st.integers(0, 400))
    def time_passes(self, ticks: int) -> None:
        self.clock.now += ticks * TICK

    @precondition(lambda self: self.under_way is None)
    @rule()
    def tick(self) -> None:
        tick = self.batcher.tick()
        assert (tick is not None) == bool(self.waiting or self.running)
        if tick is None:
            return
        for ended in tick.ended:
            self.check_ended(ended.ticket, ended.error)
        assert not self.cancelled
        self.check_rows(tick)
        self.under_way = tick

    def check_ended(self, ticket: Row, error: Exception) -> None:
        if ticket in self.cancelled:
            assert isinstance(error, Cancelled)
            self.cancelled.remove(ticket)
        else:
            assert isinstance(error, DeadlineExceeded)
            assert ticket.deadline is not None
            assert self.clock.now >= ticket.deadline - ticket.calls_left * self.longest
        if ticket in self.running:
            del self.running[ticket]
        else:
            self.waiting.remove(ticket)

    def check_rows(self, tick: Tick[int]) -> None:
        chosen = [ticket for ticket, _, _ in tick.rows]
        assert bool(chosen) == bool(self.waiting or self.running)
        assert all(ticket.group == tick.group for ticket in chosen)
        assert list(tick.admitted) == [ticket for ticket in chosen if ticket not in self.running]
        self.check_who_runs(tick, chosen)
        for ticket in tick.admitted:
            older = [
                t
                for t in self.waiting
                if t.number < ticket.number
                and (t.calls, t.width, t.group, t.priority, t.deadline, ticket.deadline)
                == (ticket.calls, ticket.width, ticket.group, ticket.priority, None, None)
            ]
            assert not older
            self.waiting.remove(ticket)
        for ticket, slot, call in tick.rows:
            assert self.running.setdefault(ticket, slot) == slot
            assert call == self.calls[ticket]
        model_rows = sum(ticket.width for ticket in chosen)
        assert not chosen or tick.bucket == min(bucket for bucket in POLICY.buckets if bucket >= model_rows)
        assert all(t.deadline is None or t.deadline > self.clock.now for t in chosen)

    def check_who_runs(self, tick: Tick[int], chosen: list[Row]) -> None:
        """Before the model has seen the tick: the least rank runs unless a row starves, and nobody runs in vain."""
        paused = [ticket for ticket in self.running if ticket.group == tick.group and ticket not in chosen]
        fresh = self.waiting if len(self.running) < POLICY.slots else []
        others = paused + [ticket for ticket in fresh if ticket.group == tick.group and ticket not in chosen]
        aged = self.clock.now - POLICY.starvation_limit
        if chosen and not any(ticket.submitted + ticket.served <= aged for ticket in chosen + others):
            assert min(ticket.rank for ticket in chosen) <= min((t.rank for t in others), default=chosen[0].rank)
        room = tick.bucket - sum(ticket.width for ticket in chosen)
        assert tick.bucket < POLICY.max_batch or all(ticket.width > room for ticket in paused)

    @precondition(lambda self: self.under_way is not None)
    @rule(ticks=st.integers(0, 64))
    def done(self, ticks: int) -> None:
        assert self.under_way is not None
        self.clock.now += ticks * TICK
        self.longest = max(self.longest, ticks * TICK)
        self.calls.update(ticket for ticket, _, _ in self.under_way.rows)
        finished = self.batcher.done(self.under_way, ticks * TICK)
        through = [t for t, _, _ in self.under_way.rows if self.calls[t] == t.calls and t not in self.cancelled]
        assert finished == through
        for ticket in finished:
            del self.running[ticket]
        self.under_way = None

    @precondition(lambda self: self.under_way is not None)
    @rule()
    def fail(self) -> None:
        assert self.under_way is not None
        failed = self.batcher.fail(self.under_way)
        assert failed == [ticket for ticket, _, _ in self.under_way.rows if ticket not in self.cancelled]
        for ticket in failed:
            del self.running[ticket]
        self.under_way = None

    @precondition(lambda self: self.under_way is None)
    @rule()
    def close_drain_and_open_anew(self) -> None:
        rest = self.batcher.close()
        assert sorted(t.number for t in rest) == sorted(t.number for t in self.waiting)
        self.waiting.clear()
        with pytest.raises(Unavailable):
            self.batcher.submit([StepRow(0, 1)])
        calls_left = sum(t.calls - self.calls[t] for t in self.running)
        for _ in range(calls_left + 1):
            self.tick()
            if self.under_way is not None:
                self.done(ticks=1)
        assert not self.running
        self.batcher = StepBatcher(POLICY, self.clock)
        self.longest = 0.0

    @invariant()
    def rows_are_counted_and_slots_are_their_own(self) -> None:
        assert (self.batcher.waiting, self.batcher.running) == (len(self.waiting), len(self.running))
        assert len(self.batcher) == len(self.waiting) + len(self.running)
        assert (self.batcher.wake_at() is None) == (not len(self.batcher) or self.under_way is not None)
        assert len(set(self.running.values())) == len(self.running)
        assert all(0 <= slot < POLICY.slots for slot in self.running.values())
        assert all(ticket.slot == slot for ticket, slot in self.running.items())

    @invariant()
    def positions_are_places_among_those_that_wait(self) -> None:
        for group in "ab":
            waiting = [ticket for ticket in self.waiting if ticket.group == group]
            assert sorted(self.batcher.position(ticket) for ticket in waiting) == list(range(len(waiting)))
            assert all(self.batcher.estimated_wait(ticket) >= 0 for ticket in waiting)
        assert all(self.batcher.position(ticket) == 0 for ticket in self.running)


TestStepBatcherBesideCounts = StepBatcherBesideCounts.TestCase
TestStepBatcherBesideCounts.settings = settings(max_examples=150, stateful_step_count=50)


@settings(max_examples=150)
@given(calls=st.lists(st.integers(1, 9), min_size=1, max_size=24), made=st.integers(0, 6), asked=st.integers(1, 9))
def test_estimated_wait_is_the_wait_if_nothing_else_comes(calls: list[int], made: int, asked: int) -> None:
    """With one bucket and rows without guidance, where no place is ever left over."""
    clock = FakeClock(0.0)
    policy = StepPolicy(buckets=(4,), slots=64, starvation_limit=float("inf"))
    batcher: StepBatcher[int] = StepBatcher(policy, clock)

    def step() -> Tick[int] | None:
        tick = batcher.tick()
        if tick is not None:
            clock.now += 1.0
            batcher.done(tick, 1.0)
        return tick

    batcher.submit([StepRow(0, 1)])
    step()
    batcher.submit([StepRow(0, count) for count in calls])
    for _ in range(made):
        step()
    (ticket,) = batcher.submit([StepRow(1, asked)])
    expected, asked_at = batcher.estimated_wait(ticket), clock.now
    while ticket.slot is None and not ticket.left:
        step()
    assert clock.now - 1.0 - asked_at == expected
