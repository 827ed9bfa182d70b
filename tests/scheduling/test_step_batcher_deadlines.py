"""Deadlines of rows that take many calls: refused, hurried, ended."""

import math

import pytest

from impasto.errors import DeadlineExceeded
from impasto.scheduling import StepBatcher, StepPolicy, StepRow, StepTicket
from tests.scheduling.batching_simulation import FakeClock

POLICY = StepPolicy(buckets=(1, 2, 4), slots=16, starvation_limit=math.inf)
SECONDS = {1: 0.5, 2: 0.75, 4: 1.0}
Batcher = StepBatcher[str]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def batcher(clock: FakeClock) -> Batcher:
    """One that has measured each of its buckets."""
    batcher: Batcher = StepBatcher(POLICY, clock)
    for bucket in POLICY.buckets:
        batcher.submit([StepRow("warm-up", 1)] * bucket)
        step(batcher, clock)
    clock.now = 104.0
    return batcher


def step(batcher: Batcher, clock: FakeClock) -> tuple[list[str], list[str], list[str]]:
    """Names of the rows of a tick, of those that ended before it, and of those done after it."""
    tick = batcher.tick()
    assert tick is not None
    seconds = SECONDS.get(tick.bucket, 0.0)
    clock.now += seconds
    done = batcher.done(tick, seconds)
    assert all(isinstance(ended.error, DeadlineExceeded) for ended in tick.ended)
    return (
        [ticket.payload for ticket, _, _ in tick.rows],
        [ended.ticket.payload for ended in tick.ended],
        [ticket.payload for ticket in done],
    )


def submit(
    batcher: Batcher, name: str, calls: int, deadline: float | None = None, priority: int = 0
) -> StepTicket[str]:
    (ticket,) = batcher.submit([StepRow(name, calls)], deadline=deadline, priority=priority)
    return ticket


@pytest.mark.parametrize("deadline", [103.0, 104.0, math.nan])
def test_deadline_that_has_passed_is_refused(batcher: Batcher, deadline: float) -> None:
    with pytest.raises(DeadlineExceeded, match=r"deadline: found one that passed .* allowed is a later one"):
        submit(batcher, "late", 1, deadline)
    assert len(batcher) == 0


def test_deadline_that_its_own_calls_miss_is_refused(batcher: Batcher) -> None:
    with pytest.raises(DeadlineExceeded, match=r"deadline: found 5 s left; allowed is more than 5 s"):
        submit(batcher, "late", 10, deadline=109.0)
    submit(batcher, "in time", 10, deadline=109.25)


def test_deadline_behind_earlier_ones_is_refused(batcher: Batcher) -> None:
    for _ in range(4):
        submit(batcher, "before", 10, deadline=115.0)
    with pytest.raises(DeadlineExceeded, match=r"found 12 s left; allowed is more than 12 s"):
        submit(batcher, "late", 2, deadline=116.0)
    submit(batcher, "in time", 1, deadline=116.0)
    submit(batcher, "earlier", 2, deadline=114.0)


def test_rows_without_deadline_do_not_stand_in_its_way(batcher: Batcher, clock: FakeClock) -> None:
    for index in range(8):
        submit(batcher, f"whenever {index}", 5)
    submit(batcher, "urgent", 10, deadline=104.0 + 10.25)
    runs = [step(batcher, clock) for _ in range(10)]
    assert all("urgent" in rows for rows, _, _ in runs)
    assert "urgent" in runs[-1][2]


def test_unmeasured_batcher_refuses_no_deadline_to_come(clock: FakeClock) -> None:
    fresh: Batcher = StepBatcher(POLICY, clock)
    submit(fresh, "who knows", 1000, deadline=100.25)
    assert len(fresh) == 1


def test_row_whose_deadline_presses_goes_before_shorter_ones(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "hurried", 10, deadline=124.0)
    for index in range(100):
        submit(batcher, f"short {index}", 1)
    runs = [step(batcher, clock) for _ in range(16)]
    # 10 calls take 10 s of full ticks: they press once 15 s are left, after five ticks of 1 s.
    assert ["hurried" in rows for rows, _, _ in runs] == 5 * [False] + 10 * [True] + [False]
    assert runs[14][2][0] == "hurried"
    assert clock.now < 124.0


def test_generous_deadline_lets_short_rows_go_first(batcher: Batcher, clock: FakeClock) -> None:
    for index in range(4):
        submit(batcher, f"long {index}", 20, deadline=164.0)
    step(batcher, clock)
    submit(batcher, "short", 4, deadline=165.0)
    assert "short" in step(batcher, clock)[0]


def test_earliest_of_pressing_deadlines_goes_first_and_no_lower_priority(clock: FakeClock) -> None:
    fresh: Batcher = StepBatcher(POLICY, clock)
    for index in range(3):
        submit(fresh, f"first {index}", 2, priority=1)
    submit(fresh, "later", 8, deadline=112.0)
    submit(fresh, "sooner", 9, deadline=111.0)
    assert step(fresh, clock)[0] == ["first 0", "first 1", "first 2", "later"]  # nothing is known to press yet
    assert step(fresh, clock)[0] == ["first 0", "first 1", "first 2", "sooner"]
    assert step(fresh, clock)[0] == ["sooner", "later"]


def test_row_that_waits_is_ended_once_its_calls_do_not_fit(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "waits", 4, deadline=109.0, priority=3)
    for index in range(100):
        submit(batcher, f"before {index}", 1, priority=1)
    ended = [step(batcher, clock)[1] for _ in range(5)]
    assert ended == [[], [], [], ["waits"], []]  # 2 s before the deadline, for 4 calls of at least 0.5 s


def test_running_row_is_ended_once_its_calls_do_not_fit(batcher: Batcher, clock: FakeClock) -> None:
    ticket = submit(batcher, "slow", 4, deadline=107.0)
    assert step(batcher, clock) == (["slow"], [], [])
    clock.now += 0.75  # the engine was busy elsewhere: 1.75 s left for three calls of 0.5 s
    assert step(batcher, clock) == (["slow"], [], [])
    clock.now += 0.25  # 1 s left for two
    assert step(batcher, clock) == ([], ["slow"], [])
    assert ticket.left
    assert (batcher.running, len(batcher)) == (0, 0)


def test_row_that_keeps_its_pace_is_done_in_time(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "steady", 10, deadline=109.0625)
    runs = [step(batcher, clock) for _ in range(10)]
    assert runs[-1][2] == ["steady"]
    assert all(not ended for _, ended, _ in runs)


def test_rows_accepted_before_anything_was_measured_are_ended_early_all_the_same(clock: FakeClock) -> None:
    fresh: Batcher = StepBatcher(POLICY, clock)
    submit(fresh, "hopeless", 100, deadline=116.0)
    assert step(fresh, clock) == (["hopeless"], [], [])
    assert step(fresh, clock) == ([], ["hopeless"], [])


def test_thousands_of_deadlines_that_came_and_went_leave_no_trace(batcher: Batcher, clock: FakeClock) -> None:
    for _ in range(2000):
        batcher.cancel(submit(batcher, "gone", 4, deadline=1e9))
    assert len(batcher._deadlines) < 200
