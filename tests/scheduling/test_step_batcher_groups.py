"""Rows of other models and resolutions take turns."""

import pytest

from impasto.errors import DeadlineExceeded
from impasto.scheduling import StepBatcher, StepPolicy, StepRow
from tests.scheduling.batching_simulation import FakeClock

POLICY = StepPolicy(buckets=(1, 2, 4), slots=16, starvation_limit=50.0)
Batcher = StepBatcher[str]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def batcher(clock: FakeClock) -> Batcher:
    return StepBatcher(POLICY, clock)


def submit(batcher: Batcher, group: str, calls: int, rows: int = 1, priority: int = 0) -> None:
    batcher.submit([StepRow(group, calls, group=group)] * rows, priority=priority)


def step(batcher: Batcher, clock: FakeClock, seconds: dict[str, float] | None = None) -> str:
    """The group of a tick that takes 1 s, or as long as it is said to."""
    tick = batcher.tick()
    assert tick is not None
    assert {ticket.group for ticket, _, _ in tick.rows} == {tick.group}
    length = (seconds or {}).get(str(tick.group), 1.0)
    clock.now += length
    batcher.done(tick, length)
    return str(tick.group)


def test_rows_of_different_groups_never_share_a_tick_and_take_turns(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "a", calls=3, rows=2)
    submit(batcher, "b", calls=3)
    submit(batcher, "c", calls=3)
    assert [step(batcher, clock) for _ in range(9)] == ["a", "b", "c"] * 3
    assert batcher.tick() is None


def test_turns_are_by_time_and_not_by_count(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "quick", calls=1000)
    submit(batcher, "slow", calls=1000)
    seconds = {"quick": 0.25, "slow": 2.0}
    turns = [step(batcher, clock, seconds) for _ in range(90)]
    assert turns.count("quick") == 80
    assert turns.count("slow") == 10


def test_group_with_many_rows_has_no_more_time_than_one_with_few(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "many", calls=100, rows=100)
    submit(batcher, "few", calls=100)
    turns = [step(batcher, clock) for _ in range(40)]
    assert turns.count("few") == 20


def test_group_that_was_idle_has_no_claim_to_the_time_that_others_used(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "early", calls=1)
    step(batcher, clock)
    submit(batcher, "busy", calls=200)
    for _ in range(50):
        step(batcher, clock)
    submit(batcher, "early", calls=20)
    submit(batcher, "new", calls=20)
    turns = [step(batcher, clock) for _ in range(30)]
    assert {group: turns.count(group) for group in ("busy", "early", "new")} == {"busy": 10, "early": 10, "new": 10}


def test_claim_is_also_lost_while_all_were_idle(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "busy", calls=50)
    for _ in range(50):
        step(batcher, clock)
    submit(batcher, "new", calls=20)
    submit(batcher, "busy", calls=20)
    assert [step(batcher, clock) for _ in range(20)].count("busy") == 10


def test_higher_priority_goes_first_across_groups_until_another_starves(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "low", calls=100, priority=3)
    submit(batcher, "high", calls=100, priority=1)
    turns = [step(batcher, clock) for _ in range(60)]
    assert turns[:50] == ["high"] * 50
    assert turns[50:] == ["low"] * 10  # which has its claim to half of the time


def test_group_whose_high_priority_is_done_takes_turns_as_any_other(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "a", calls=1, priority=1)
    submit(batcher, "a", calls=40, rows=4)
    submit(batcher, "b", calls=40)
    turns = [step(batcher, clock) for _ in range(21)]
    assert turns[0] == "a"
    assert turns[1:].count("b") in (10, 11)


def test_light_group_starts_at_once_beside_one_that_is_overloaded(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "flood", calls=30, rows=200)
    for _ in range(100):
        step(batcher, clock)
    submit(batcher, "light", calls=4)
    assert [step(batcher, clock) for _ in range(8)].count("light") == 4


def test_wait_is_estimated_with_the_turns_of_others(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "a", calls=11, rows=4)
    submit(batcher, "b", calls=11)
    for _ in range(2):
        step(batcher, clock)
    (ticket,) = batcher.submit([StepRow("a", 20, group="a")])
    assert batcher.estimated_wait(ticket) == 10 * 1.0 * 2


def test_deadline_that_the_turns_of_others_miss_is_refused(batcher: Batcher, clock: FakeClock) -> None:
    submit(batcher, "a", calls=1)
    step(batcher, clock)
    batcher.submit([StepRow("a", 5, group="a")], deadline=clock.now + 5.5)
    submit(batcher, "b", calls=9)
    with pytest.raises(DeadlineExceeded, match=r"found 5\.5 s left; allowed is more than 10 s"):
        batcher.submit([StepRow("a", 5, group="a")], deadline=clock.now + 5.5)


def test_groups_that_came_and_went_are_forgotten(batcher: Batcher, clock: FakeClock) -> None:
    for index in range(1000):
        submit(batcher, f"{index}", calls=1)
        step(batcher, clock)
    assert len(batcher._groups) < 50
