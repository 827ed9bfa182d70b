"""Deadlines at admission, in the queue and before execution."""

import math

import pytest

from impasto.errors import DeadlineExceeded
from impasto.scheduling import BatchPolicy, DynamicBatcher, Ticket
from tests.scheduling.batching_simulation import FakeClock

POLICY = BatchPolicy(buckets=(1, 2, 4, 8), max_queue_delay=0.5, max_queue=64, starvation_limit=10.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def batcher(clock: FakeClock) -> DynamicBatcher[str]:
    return DynamicBatcher(POLICY, clock)


def payloads(tickets: list[Ticket[str]]) -> list[str]:
    return [ticket.payload for ticket in tickets]


# At admission.


@pytest.mark.parametrize("deadline", [99.0, 100.0, -math.inf, math.nan])
def test_deadline_that_has_passed_is_refused(batcher: DynamicBatcher[str], deadline: float) -> None:
    with pytest.raises(DeadlineExceeded):
        batcher.submit(["a"], deadline=deadline)
    assert len(batcher) == 0


def test_without_a_record_any_later_deadline_is_accepted(batcher: DynamicBatcher[str]) -> None:
    batcher.submit(["row"] * 60)
    assert len(batcher.submit(["a"], deadline=100.001)) == 1


def test_deadline_shorter_than_the_execution_is_refused(batcher: DynamicBatcher[str]) -> None:
    batcher.record(1, 2.0)
    with pytest.raises(DeadlineExceeded, match=r"found 1\.5 s from now; allowed is more than 2 s"):
        batcher.submit(["a"], deadline=101.5)
    assert len(batcher.submit(["a"], deadline=102.5)) == 1


def test_deadline_shorter_than_the_queue_is_refused(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    batcher.record(8, 2.0)
    batcher.submit(["row"] * 24)
    batcher.take()
    clock.now = 101.0  # 1 s left of the running batch, two batches wait, then its own
    with pytest.raises(DeadlineExceeded):
        batcher.submit(["a"], deadline=107.75)
    assert len(batcher.submit(["a"], deadline=108.25)) == 1


def test_higher_priority_jumps_the_queue_and_so_meets_a_shorter_deadline(batcher: DynamicBatcher[str]) -> None:
    batcher.record(8, 2.0)
    batcher.submit(["row"] * 16)
    with pytest.raises(DeadlineExceeded):
        batcher.submit(["a"], deadline=103.0)
    assert len(batcher.submit(["a"], deadline=103.0, priority=1)) == 1


def test_deadline_must_hold_for_the_last_row_of_a_request(batcher: DynamicBatcher[str]) -> None:
    batcher.record(8, 2.0)
    with pytest.raises(DeadlineExceeded):
        batcher.submit(["row"] * 9, deadline=103.0)
    assert len(batcher) == 0
    assert len(batcher.submit(["row"] * 8, deadline=103.0)) == 8


def test_wrong_estimate_does_not_refuse_for_ever(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    batcher.record(1, 5.0)
    with pytest.raises(DeadlineExceeded):
        batcher.submit(["a"], deadline=101.0)
    clock.now = 140.0
    assert len(batcher.submit(["a"], deadline=141.0)) == 1


# In the queue.


def test_row_expires_at_its_deadline(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    batcher.submit(["row"] * 8)
    batcher.submit(["a"], deadline=103.0)
    batcher.take()
    assert batcher.expires_at() == 103.0
    clock.now = 102.9375
    assert batcher.expire() == []
    clock.now = 103.0
    assert payloads(batcher.expire()) == ["a"]
    assert batcher.expire() == []
    assert batcher.expires_at() is None
    assert len(batcher) == 0


def test_row_expires_as_soon_as_no_execution_can_end_in_time(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    for seconds in (0.75, 1.0, 1.25):
        batcher.record(1, seconds)
    batcher.submit(["row"] * 8)
    batcher.take()
    batcher.submit(["a"], deadline=103.0)
    assert batcher.expires_at() == 102.25  # the quickest of the last batches would just end in time
    clock.now = 102.25
    assert payloads(batcher.expire()) == ["a"]


def test_rows_expire_in_order_of_deadline_not_of_arrival(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    for deadline in (105.0, 102.0, 107.0, 103.0):
        batcher.submit([str(deadline)], deadline=deadline)
    clock.now = 104.0
    assert payloads(batcher.expire()) == ["102.0", "103.0"]
    assert batcher.expires_at() == 105.0


def test_late_row_can_be_cancelled_until_it_is_told(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    (ticket,) = batcher.submit(["a"], deadline=101.0)
    clock.now = 101.0
    assert batcher.take() is None
    assert batcher.cancel(ticket)
    assert batcher.expire() == []


def test_cancelled_and_taken_rows_do_not_expire(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    (cancelled,) = batcher.submit(["a"], deadline=101.0)
    batcher.submit(["b"], deadline=102.0)
    batcher.cancel(cancelled)
    clock.now = 100.5
    batcher.take()
    clock.now = 105.0
    assert batcher.expire() == []


def test_rows_that_left_are_not_kept_until_their_deadline(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    batcher.submit(["stays"], deadline=1e5)
    for _ in range(2000):
        (ticket,) = batcher.submit(["goes"], deadline=1e6)
        batcher.cancel(ticket)
    assert len(batcher._deadlines) < 100


# Before execution.


def test_late_row_is_not_in_the_batch_and_is_told_by_expire(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    batcher.submit(["a"])
    batcher.submit(["late"], deadline=101.0)
    batcher.submit(["b"])
    clock.now = 101.0
    batch = batcher.take()
    assert batch is not None
    assert payloads(batch.tickets) == ["a", "b"]
    assert batch.bucket == 2
    assert batcher.wake_at() == 101.0
    assert payloads(batcher.expire()) == ["late"]


def test_row_that_its_full_batch_would_finish_too_late_is_not_run(
    batcher: DynamicBatcher[str], clock: FakeClock
) -> None:
    batcher.record(1, 0.5)
    batcher.record(8, 4.0)
    batcher.submit(["tight"], deadline=102.0)
    batcher.submit(["row"] * 8)
    batch = batcher.take()
    assert batch is not None
    assert payloads(batch.tickets) == ["row"] * 8
    assert payloads(batcher.expire()) == ["tight"]


def test_waiting_for_batch_mates_does_not_gamble_a_deadline(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    batcher.record(1, 1.0)
    clock.now = 100.0
    batcher.submit(["a"], deadline=101.75)
    assert batcher.wake_at() == 100.25  # one queue delay before the latest start
    clock.now = 100.25
    batch = batcher.take()
    assert batch is not None
    assert payloads(batch.tickets) == ["a"]
