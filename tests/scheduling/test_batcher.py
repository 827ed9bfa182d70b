"""When batches form, in which order rows go, and how they leave."""

import pytest

from impasto.errors import InvalidRequest, QueueFull, Unavailable
from impasto.scheduling import Batch, BatchPolicy, DynamicBatcher
from tests.scheduling.batching_simulation import FakeClock

POLICY = BatchPolicy(buckets=(1, 2, 4, 8), max_queue_delay=0.5, max_queue=16, starvation_limit=10.0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def batcher(clock: FakeClock) -> DynamicBatcher[str]:
    return DynamicBatcher(POLICY, clock)


def payloads(batch: Batch[str] | None) -> list[str]:
    assert batch is not None
    return [ticket.payload for ticket in batch.tickets]


# When batches form.


def test_full_batch_forms_at_once(batcher: DynamicBatcher[str]) -> None:
    batcher.submit(list("abcdefg"))
    assert batcher.take() is None
    batcher.submit(["h", "i"])
    assert batcher.wake_at() == 100.0
    batch = batcher.take()
    assert payloads(batch) == list("abcdefgh")
    assert batch is not None
    assert batch.bucket == 8
    assert len(batcher) == 1


def test_few_rows_wait_for_the_queue_delay_of_the_oldest(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    batcher.submit(["a"])
    clock.now = 100.25
    batcher.submit(["b", "c"])
    assert batcher.wake_at() == 100.5
    clock.now = 100.4375
    assert batcher.take() is None
    clock.now = 100.5
    batch = batcher.take()
    assert payloads(batch) == ["a", "b", "c"]
    assert batch is not None
    assert batch.bucket == 4


def test_queue_delay_counts_from_the_oldest_of_any_priority(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    batcher.submit(["low"], priority=3)
    clock.now = 100.25
    batcher.submit(["high"], priority=1)
    assert batcher.wake_at() == 100.5
    clock.now = 100.5
    assert payloads(batcher.take()) == ["high", "low"]


def test_queue_delay_of_a_cancelled_row_no_longer_counts(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    (first,) = batcher.submit(["a"])
    clock.now = 100.25
    batcher.submit(["b"])
    batcher.cancel(first)
    assert batcher.wake_at() == 100.75


def test_rows_that_waited_for_the_engine_go_at_once(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    batcher.submit(list("abcdefghi"))
    batcher.take()
    clock.now = 103.0
    assert payloads(batcher.take()) == ["i"]


def test_without_queue_delay_a_row_never_waits(clock: FakeClock) -> None:
    batcher: DynamicBatcher[str] = DynamicBatcher(BatchPolicy(buckets=(1, 8), max_queue_delay=0.0), clock)
    batcher.submit(["a"])
    assert batcher.wake_at() == 100.0
    assert payloads(batcher.take()) == ["a"]


def test_idle_batcher_gives_nothing_and_sleeps(batcher: DynamicBatcher[str]) -> None:
    assert batcher.take() is None
    assert batcher.expire() == []
    assert batcher.wake_at() is None
    assert batcher.expires_at() is None
    assert len(batcher) == 0


# In which order rows go.


def test_higher_priorities_go_first_and_rows_of_one_keep_their_order(batcher: DynamicBatcher[str]) -> None:
    batcher.submit(["c1", "c2"], priority=3)
    batcher.submit(["b1"])
    batcher.submit(["a1"], priority=1)
    batcher.submit(["b2"], priority=2)
    batcher.submit(["a2", "a3", "a4"], priority=1)
    batcher.submit(["b3"])
    assert payloads(batcher.take()) == ["a1", "a2", "a3", "a4", "b1", "b2", "b3", "c1"]


def test_row_beyond_the_starvation_limit_goes_before_higher_priorities(
    batcher: DynamicBatcher[str], clock: FakeClock
) -> None:
    batcher.submit(["low"], priority=3)
    clock.now = 109.9375
    batcher.submit([f"early {index}" for index in range(8)], priority=1)
    assert "low" not in payloads(batcher.take())
    batcher.submit([f"later {index}" for index in range(8)], priority=1)
    clock.now = 110.0
    assert payloads(batcher.take()) == ["low", *(f"later {index}" for index in range(7))]


def test_starving_rows_go_in_order_of_age_whatever_their_priority(
    batcher: DynamicBatcher[str], clock: FakeClock
) -> None:
    batcher.submit(["oldest"], priority=3)
    clock.now = 101.0
    batcher.submit(["second"], priority=1)
    clock.now = 102.0
    batcher.submit(["third"], priority=3)
    clock.now = 115.0
    batcher.submit(["fresh"], priority=1)
    assert payloads(batcher.take()) == ["oldest", "second", "third", "fresh"]


def test_priority_outside_the_levels_is_refused(batcher: DynamicBatcher[str]) -> None:
    for priority in (-1, 4):
        with pytest.raises(InvalidRequest, match=rf"priority: found {priority}; allowed is 1 .* to 3"):
            batcher.submit(["a"], priority=priority)
    assert len(batcher) == 0


# The queue limit.


def test_request_that_does_not_fit_is_refused_whole(batcher: DynamicBatcher[str]) -> None:
    batcher.submit(["row"] * 14)
    with pytest.raises(QueueFull, match="found 14 rows waiting at priority 2, no room for 3 more; allowed is 16"):
        batcher.submit(["a", "b", "c"])
    assert len(batcher) == 14
    assert len(batcher.submit(["a", "b"])) == 2


def test_each_priority_has_a_queue_of_its_own(batcher: DynamicBatcher[str]) -> None:
    batcher.submit(["low"] * 16, priority=3)
    assert len(batcher.submit(["high"] * 16, priority=1)) == 16
    assert len(batcher) == 32


def test_request_larger_than_the_queue_is_told_not_to_try_again(batcher: DynamicBatcher[str]) -> None:
    with pytest.raises(InvalidRequest, match="rows: found 17; allowed is at most 16"):
        batcher.submit(["row"] * 17)


def test_cancelled_and_expired_rows_make_room(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    first, *_ = batcher.submit(["row"] * 15)
    batcher.submit(["short"], deadline=101.0)
    batcher.cancel(first)
    clock.now = 101.0
    assert len(batcher.submit(["new", "newer"])) == 2


def test_retry_delay_is_the_time_until_there_is_room(batcher: DynamicBatcher[str]) -> None:
    for _ in range(3):
        batcher.record(8, 2.0)
    batcher.submit(["row"] * 16)
    batcher.submit(["before"] * 8, priority=1)
    with pytest.raises(QueueFull) as caught:
        batcher.submit(["a"])
    assert caught.value.retry_after == 2.0  # the first batch takes the higher priority, the second makes room
    batcher.take()
    with pytest.raises(QueueFull) as caught:
        batcher.submit(["a"] * 8)
    assert caught.value.retry_after == 2.0  # the batch that runs ends, the next takes eight
    with pytest.raises(QueueFull) as caught:
        batcher.submit(["a"] * 9)
    assert caught.value.retry_after == 4.0  # one batch runs, two more must start


def test_retry_delay_is_never_zero(batcher: DynamicBatcher[str]) -> None:
    batcher.submit(["row"] * 16)
    with pytest.raises(QueueFull) as caught:
        batcher.submit(["a"])
    assert caught.value.retry_after == 0.01


# How rows leave.


def test_cancelled_row_is_never_taken(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    _, second, _ = batcher.submit(["a", "b", "c"])
    assert batcher.cancel(second)
    assert not batcher.cancel(second)
    assert len(batcher) == 2
    clock.now = 101.0
    assert payloads(batcher.take()) == ["a", "c"]


def test_running_row_cannot_be_cancelled(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    (ticket,) = batcher.submit(["a"])
    clock.now = 101.0
    batcher.take()
    assert not batcher.cancel(ticket)


def test_close_returns_what_waits_and_refuses_what_comes(batcher: DynamicBatcher[str]) -> None:
    batcher.submit(["b", "c"])
    batcher.submit(["a"], priority=1)
    assert [ticket.payload for ticket in batcher.close()] == ["a", "b", "c"]
    assert len(batcher) == 0
    assert batcher.take() is None
    assert batcher.wake_at() is None
    assert batcher.close() == []
    with pytest.raises(Unavailable):
        batcher.submit(["d"])


def test_close_returns_late_rows_that_were_not_told_yet(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    batcher.submit(["late"], deadline=100.25)
    clock.now = 100.25
    assert batcher.take() is None
    assert len(batcher) == 1
    assert [ticket.payload for ticket in batcher.close()] == ["late"]
    assert batcher.expire() == []


def test_tickets_tell_what_was_submitted(batcher: DynamicBatcher[str]) -> None:
    batcher.submit(["z"])
    first, second = batcher.submit(["a", "b"], priority=3, deadline=107.0)
    assert (first.payload, first.priority, first.deadline, first.submitted, first.number) == ("a", 3, 107.0, 100.0, 1)
    assert (second.payload, second.number) == ("b", 2)


def test_request_of_no_rows_queues_nothing(batcher: DynamicBatcher[str]) -> None:
    assert batcher.submit([]) == []
    assert batcher.wake_at() is None


# What a waiting caller is told.


def test_position_counts_the_rows_that_go_before(batcher: DynamicBatcher[str], clock: FakeClock) -> None:
    first, second = batcher.submit(["a", "b"])
    (low,) = batcher.submit(["c"], priority=3)
    assert [batcher.position(ticket) for ticket in (first, second, low)] == [0, 1, 2]
    (high,) = batcher.submit(["d"], priority=1)
    assert [batcher.position(ticket) for ticket in (high, first, second, low)] == [0, 1, 2, 3]
    batcher.cancel(first)
    assert [batcher.position(ticket) for ticket in (high, first, second, low)] == [0, 0, 1, 2]
    clock.now = 115.0
    (fresh,) = batcher.submit(["e"], priority=1)
    assert [batcher.position(ticket) for ticket in (second, low, high, fresh)] == [0, 1, 2, 3]


def test_estimated_wait_counts_the_running_batch_and_the_full_ones_before(clock: FakeClock) -> None:
    batcher: DynamicBatcher[str] = DynamicBatcher(POLICY, clock)
    batcher.record(8, 4.0)
    running = batcher.submit(["running"] * 8)
    batcher.take()
    tickets = batcher.submit(["row"] * 16)
    clock.now = 101.0
    assert batcher.estimated_wait(running[0]) == 0.0
    assert batcher.estimated_wait(tickets[0]) == 3.0
    assert batcher.estimated_wait(tickets[7]) == 3.0
    assert batcher.estimated_wait(tickets[8]) == 7.0
    clock.now = 103.5
    batcher.record(8, 3.5)
    assert batcher.estimated_wait(tickets[0]) == 0.0
    assert batcher.estimated_wait(tickets[8]) == 3.5


def test_estimated_wait_at_an_idle_engine_is_what_is_left_of_the_queue_delay(
    batcher: DynamicBatcher[str], clock: FakeClock
) -> None:
    (ticket,) = batcher.submit(["a"])
    clock.now = 100.125
    assert batcher.estimated_wait(ticket) == 0.375


def test_estimates_know_how_many_instances_share_the_queue(clock: FakeClock) -> None:
    batcher: DynamicBatcher[str] = DynamicBatcher(BatchPolicy(buckets=(1, 8), instances=2), clock)
    batcher.record(8, 4.0)
    tickets = batcher.submit(["row"] * 48)
    assert [batcher.estimated_wait(tickets[8 * batch]) for batch in range(6)] == [0.0, 0.0, 4.0, 4.0, 8.0, 8.0]
    batcher.take()
    clock.now = 101.0
    batcher.take()
    assert [batcher.estimated_wait(tickets[8 * batch]) for batch in range(2, 6)] == [3.0, 4.0, 7.0, 8.0]
    clock.now = 103.0
    batcher.record(8, 4.0)
    assert [batcher.estimated_wait(tickets[8 * batch]) for batch in range(2, 6)] == [0.0, 2.0, 4.0, 6.0]


def test_batch_that_ends_frees_the_instance_that_ran_it(clock: FakeClock) -> None:
    batcher: DynamicBatcher[str] = DynamicBatcher(BatchPolicy(buckets=(1, 8), instances=2), clock)
    batcher.record(8, 4.0)
    tickets = batcher.submit(["row"] * 24)
    batcher.take()
    assert batcher.estimated_wait(tickets[16]) == 4.0
    clock.now = 103.0
    batcher.record(8, 3.0)
    assert batcher.estimated_wait(tickets[16]) == 0.0
