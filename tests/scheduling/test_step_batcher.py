"""Which rows run in a tick, and how rows leave the step batcher."""

import math
from collections.abc import Sequence

import pytest

from impasto.errors import Cancelled, InvalidRequest, QueueFull, Unavailable
from impasto.scheduling import StepBatcher, StepPolicy, StepRow, Tick
from tests.scheduling.batching_simulation import FakeClock

POLICY = StepPolicy(buckets=(1, 2, 4, 8), slots=16, max_queue=16, starvation_limit=1000.0)
Batcher = StepBatcher[str]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def batcher(clock: FakeClock) -> Batcher:
    return StepBatcher(POLICY, clock)


def rows(names: Sequence[str], calls: int, width: int = 1) -> list[StepRow[str]]:
    return [StepRow(name, calls, width) for name in names]


def step(batcher: Batcher, clock: FakeClock, seconds: float = 1.0) -> tuple[Tick[str], list[str]]:
    """One tick, and what is done after it."""
    tick = batcher.tick()
    assert tick is not None
    clock.now += seconds
    return tick, [ticket.payload for ticket in batcher.done(tick, seconds)]


def names(tick: Tick[str] | None) -> list[str]:
    assert tick is not None
    return [ticket.payload for ticket, _, _ in tick.rows]


# Ticks.


def test_row_runs_once_a_tick_until_its_calls_are_made(batcher: Batcher, clock: FakeClock) -> None:
    (ticket,) = batcher.submit(rows("a", calls=3))
    for call in range(3):
        tick, finished = step(batcher, clock)
        assert [(row.payload, index) for row, _, index in tick.rows] == [("a", call)]
        assert tick.bucket == 1
        assert tick.admitted == ((ticket,) if call == 0 else ())
        assert finished == (["a"] if call == 2 else [])
    assert batcher.tick() is None
    assert len(batcher) == 0
    assert (ticket.made, ticket.slot, ticket.left) == (3, None, True)


def test_rows_of_different_lengths_join_and_leave_between_calls(batcher: Batcher, clock: FakeClock) -> None:
    batcher.submit(rows(["long"], calls=4))
    assert names(step(batcher, clock)[0]) == ["long"]
    batcher.submit(rows(["short"], calls=2))
    tick, _ = step(batcher, clock)
    assert sorted(names(tick)) == ["long", "short"]
    assert tick.bucket == 2
    assert {ticket.payload: index for ticket, _, index in tick.rows} == {"long": 1, "short": 0}
    assert step(batcher, clock)[1] == ["short"]
    assert step(batcher, clock)[1] == ["long"]


def test_row_keeps_its_slot_until_it_is_done(batcher: Batcher, clock: FakeClock) -> None:
    batcher.submit(rows("abcd", calls=5))
    first = {ticket.payload: slot for ticket, slot, _ in step(batcher, clock)[0].rows}
    assert len(set(first.values())) == 4
    batcher.submit(rows("efgh", calls=2))
    for _ in range(3):
        slots = {ticket.payload: slot for ticket, slot, _ in step(batcher, clock)[0].rows}
        assert {name: slot for name, slot in slots.items() if name in first} == first
        assert len(set(slots.values())) == len(slots)


def test_short_row_starts_in_the_next_tick_behind_a_full_load_of_long_ones(batcher: Batcher, clock: FakeClock) -> None:
    batcher.submit(rows([f"long {index}" for index in range(16)], calls=50))
    step(batcher, clock)
    running = batcher.tick()
    assert running is not None
    batcher.submit(rows(["short"], calls=4, width=2))
    clock.now += 1.0
    batcher.done(running, 1.0)
    finished: list[str] = []
    for _ in range(4):
        tick, finished = step(batcher, clock)
        assert "short" in names(tick)
        assert sum(ticket.width for ticket, _, _ in tick.rows) == 8
    assert finished == ["short"]


def test_paused_rows_go_on_before_fresh_ones_of_their_length(batcher: Batcher, clock: FakeClock) -> None:
    batcher.submit(rows("abcdefgh", calls=9))
    batcher.submit(rows("ijkl", calls=9))
    step(batcher, clock)
    batcher.submit(rows("ST", calls=1))
    assert names(step(batcher, clock)[0]) == list("STabcdef")
    assert sorted(names(step(batcher, clock)[0])) == list("abcdefgh")


def test_without_a_free_slot_rows_wait(clock: FakeClock) -> None:
    batcher: Batcher = StepBatcher(StepPolicy(buckets=(1, 2), slots=2), clock)
    batcher.submit(rows("ab", calls=3))
    step(batcher, clock)
    batcher.submit(rows(["short"], calls=1))
    for _ in range(2):
        tick, finished = step(batcher, clock)
        assert names(tick) == ["a", "b"]
        assert (batcher.running, batcher.waiting) == ((2, 1) if not finished else (0, 1))
    assert names(step(batcher, clock)[0]) == ["short"]


def test_rows_with_and_without_guidance_fill_a_bucket_together(batcher: Batcher, clock: FakeClock) -> None:
    batcher.submit(rows("abc", calls=5, width=2))
    batcher.submit(rows(["d"], calls=6, width=1))
    batcher.submit(rows(["e"], calls=7, width=2))
    batcher.submit(rows(["f"], calls=8, width=1))
    tick, _ = step(batcher, clock)
    assert names(tick) == ["a", "b", "c", "d", "f"]
    assert tick.bucket == 8


@pytest.mark.parametrize(
    ("at_4", "at_8", "expected"),
    [
        (0.08, 0.16, (4, 4)),  # 50 rows a second rather than 5 in 0.16 s
        (0.08, 0.09, (5, 8)),  # 55 rows a second rather than 50
    ],
)
def test_filled_bucket_runs_instead_where_it_does_more_rows_a_second(
    batcher: Batcher, clock: FakeClock, at_4: float, at_8: float, expected: tuple[int, int]
) -> None:
    batcher.submit(rows("abcd", calls=1))
    assert step(batcher, clock, at_4)[0].bucket == 4
    batcher.submit(rows("abcdefgh", calls=1))
    assert step(batcher, clock, at_8)[0].bucket == 8
    batcher.submit(rows("abcde", calls=20))
    tick, _ = step(batcher, clock)
    assert (len(tick.rows), tick.bucket) == expected
    assert names(tick) == list("abcde")[: expected[0]]


def test_bucket_that_has_not_been_measured_is_tried(batcher: Batcher, clock: FakeClock) -> None:
    batcher.submit(rows("abcde", calls=3))
    assert [step(batcher, clock, seconds)[0].bucket for seconds in (0.16, 0.15, 0.16)] == [8, 4, 8]


def test_only_one_tick_is_under_way(batcher: Batcher) -> None:
    batcher.submit(rows("a", calls=2))
    tick = batcher.tick()
    assert tick is not None
    with pytest.raises(RuntimeError, match="tick: found one under way"):
        batcher.tick()
    assert batcher.wake_at() is None
    batcher.done(tick, 1.0)
    with pytest.raises(RuntimeError, match="not under way"):
        batcher.done(tick, 1.0)
    with pytest.raises(RuntimeError, match="not under way"):
        batcher.fail(tick)
    assert batcher.wake_at() == 100.0


def test_idle_batcher_gives_nothing_and_sleeps(batcher: Batcher) -> None:
    assert batcher.submit([]) == []
    assert batcher.tick() is None
    assert batcher.wake_at() is None
    assert (len(batcher), batcher.waiting, batcher.running) == (0, 0, 0)


# Who runs.


def test_higher_priorities_go_first_then_fewest_calls_then_arrival(batcher: Batcher) -> None:
    batcher.submit(rows("wxy", calls=2), priority=3)
    batcher.submit(rows("uv", calls=9))
    batcher.submit(rows("rst", calls=4))
    batcher.submit(rows("q", calls=50), priority=1)
    batcher.submit(rows("p", calls=20), priority=1)
    assert names(batcher.tick()) == list("pqrstuvw")


@pytest.mark.parametrize("made", [0, 25, 47, 49])
def test_short_rows_go_before_long_ones_however_few_calls_those_have_left(
    batcher: Batcher, clock: FakeClock, made: int
) -> None:
    batcher.submit(rows("abcdefgh", calls=50))
    for _ in range(made):
        step(batcher, clock)
    batcher.submit(rows("ABC", calls=4))
    assert names(batcher.tick()) == list("ABCabcde")


def test_row_beyond_the_starvation_limit_has_half_of_each_tick(clock: FakeClock) -> None:
    batcher: Batcher = StepBatcher(StepPolicy(buckets=(4,), slots=8, starvation_limit=10.0), clock)
    batcher.submit(rows("ABC", calls=30), priority=3)
    for second in range(10):
        batcher.submit(rows([f"{second}{name}" for name in "abcd"], calls=1))
        assert not set(names(step(batcher, clock)[0])) & set("ABC")
    for second in range(10, 30):
        batcher.submit(rows([f"{second}{name}" for name in "ab"], calls=1), priority=1)
        assert names(step(batcher, clock)[0]) == ["A", "B", f"{second}a", f"{second}b"]


def test_time_in_ticks_is_no_waiting(clock: FakeClock) -> None:
    batcher: Batcher = StepBatcher(StepPolicy(buckets=(2,), slots=8, starvation_limit=10.0), clock)
    batcher.submit(rows("AB", calls=100), priority=3)
    for _ in range(50):
        step(batcher, clock)
    for second in range(10):
        batcher.submit(rows([f"{second}a", f"{second}b"], calls=1))
        assert not set(names(step(batcher, clock)[0])) & set("AB")
    batcher.submit(rows("ab", calls=1))
    assert names(step(batcher, clock)[0]) == ["A", "a"]


def test_starving_rows_take_no_more_slots_than_there_are(clock: FakeClock) -> None:
    batcher: Batcher = StepBatcher(StepPolicy(buckets=(4,), slots=2, starvation_limit=5.0), clock)
    batcher.submit(rows("AB", calls=9), priority=3)
    clock.now += 5.0
    batcher.submit(rows("cd", calls=1), priority=1)
    assert names(step(batcher, clock)[0]) == ["A", "B"]
    assert (batcher.running, batcher.waiting) == (2, 2)


def test_starving_row_with_guidance_runs_in_a_bucket_that_only_holds_it(clock: FakeClock) -> None:
    batcher: Batcher = StepBatcher(StepPolicy(buckets=(1, 2), slots=4, starvation_limit=5.0), clock)
    batcher.submit(rows(["wide"], calls=1, width=2), priority=3)
    clock.now += 5.0
    batcher.submit(rows("ab", calls=1), priority=1)
    assert names(batcher.tick()) == ["wide"]


# The queue limit.


def test_request_that_does_not_fit_is_refused_whole(batcher: Batcher, clock: FakeClock) -> None:
    batcher.submit(rows("x" * 14, calls=10))
    with pytest.raises(QueueFull, match="found 14 rows waiting at priority 2, no room for 3 more; allowed is 16"):
        batcher.submit(rows("abc", calls=10))
    assert len(batcher) == 14
    batcher.submit(rows("x" * 16, calls=10), priority=3)
    step(batcher, clock)
    assert len(batcher.submit(rows("abc", calls=10))) == 3  # rows that hold a slot do not count


def test_retry_delay_is_the_time_until_there_is_room(batcher: Batcher, clock: FakeClock) -> None:
    batcher.submit(rows("x" * 16, calls=10))
    with pytest.raises(QueueFull) as caught:
        batcher.submit(rows("a", calls=1))
    assert caught.value.retry_after == 0.01
    step(batcher, clock, seconds=0.5)
    batcher.submit(rows("y" * 8, calls=10))
    with pytest.raises(QueueFull) as caught:
        batcher.submit(rows("ab", calls=1))
    assert caught.value.retry_after == pytest.approx(2 / 16 * (16 * 10) / 8 * 0.5)


@pytest.mark.parametrize(
    ("field", "row", "priority"),
    [
        ("calls", StepRow("a", 0), 0),
        ("width", StepRow("a", 1, 0), 0),
        ("width", StepRow("a", 1, 9), 0),
        ("priority", StepRow("a", 1), 4),
        ("priority", StepRow("a", 1), -1),
    ],
)
def test_what_is_out_of_range_is_named_and_nothing_is_queued(
    batcher: Batcher, field: str, row: StepRow[str], priority: int
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        batcher.submit([StepRow("good", 1), row], priority=priority)
    assert caught.value.field == field
    assert len(batcher) == 0


def test_request_larger_than_the_queue_is_told_not_to_try_again(batcher: Batcher) -> None:
    with pytest.raises(InvalidRequest, match="rows: found 17; allowed is at most 16"):
        batcher.submit(rows("x" * 17, calls=1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("buckets", ()), ("buckets", (2, 1)), ("slots", 0), ("max_queue", 0), ("starvation_limit", math.nan)],
)
def test_a_setting_that_is_off_is_named(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        StepPolicy(**({"buckets": (1, 2), "slots": 4} | {field: value}))  # type: ignore[arg-type]
    assert caught.value.field == field
    assert repr(value) in str(caught.value)


# How rows leave.


def test_cancelled_row_that_waits_is_gone_at_once(batcher: Batcher) -> None:
    _, second, _ = batcher.submit(rows("abc", calls=2))
    assert batcher.cancel(second)
    assert not batcher.cancel(second)
    assert len(batcher) == 2
    tick = batcher.tick()
    assert names(tick) == ["a", "c"]
    assert tick is not None
    assert tick.ended == ()


def test_cancelled_row_frees_its_slot_at_the_next_tick(clock: FakeClock) -> None:
    batcher: Batcher = StepBatcher(StepPolicy(buckets=(1,), slots=1), clock)
    (first,) = batcher.submit(rows("a", calls=9))
    tick = batcher.tick()
    assert tick is not None
    batcher.submit(rows("b", calls=9))
    assert batcher.cancel(first)
    assert not batcher.cancel(first)
    batcher.done(tick, 1.0)
    tick = batcher.tick()
    assert names(tick) == ["b"]
    assert tick is not None
    assert [(ended.ticket, type(ended.error)) for ended in tick.ended] == [(first, Cancelled)]
    assert batcher.running == 1


def test_row_cancelled_in_its_last_call_is_not_done(batcher: Batcher) -> None:
    (ticket,) = batcher.submit(rows("a", calls=1))
    tick = batcher.tick()
    assert tick is not None
    assert batcher.cancel(ticket)
    assert batcher.done(tick, 1.0) == []
    assert batcher.wake_at() == 100.0
    last = batcher.tick()
    assert last is not None
    assert (last.rows, last.bucket) == ((), 0)
    assert [ended.ticket for ended in last.ended] == [ticket]
    assert batcher.done(last, 0.0) == []
    assert batcher.tick() is None
    assert batcher.running == 0


def test_row_that_is_done_cannot_be_cancelled(batcher: Batcher, clock: FakeClock) -> None:
    (ticket,) = batcher.submit(rows("a", calls=1))
    step(batcher, clock)
    assert not batcher.cancel(ticket)


def test_failed_tick_ends_its_rows_and_no_others(batcher: Batcher, clock: FakeClock) -> None:
    batcher.submit(rows("abcdefghij", calls=3))
    tick = batcher.tick()
    assert tick is not None
    batcher.cancel(tick.rows[0][0])
    assert [ticket.payload for ticket in batcher.fail(tick)] == list("bcdefgh")
    tick, _ = step(batcher, clock)
    assert names(tick) == ["i", "j"]
    assert [ended.ticket.payload for ended in tick.ended] == ["a"]
    assert batcher.running == 2


def test_close_returns_what_waits_and_lets_the_others_end(batcher: Batcher, clock: FakeClock) -> None:
    batcher.submit(rows("abcdefgh", calls=2))
    step(batcher, clock)
    batcher.submit(rows("xy", calls=9))
    batcher.submit(rows("w", calls=9), priority=1)
    assert [ticket.payload for ticket in batcher.close()] == ["w", "x", "y"]
    assert batcher.close() == []
    with pytest.raises(Unavailable):
        batcher.submit(rows("z", calls=1))
    assert step(batcher, clock)[1] == list("abcdefgh")
    assert batcher.tick() is None


# What a waiting caller is told.


def test_position_counts_the_waiting_rows_that_go_before(batcher: Batcher) -> None:
    long, longer = batcher.submit([StepRow("long", 20), StepRow("longer", 50)])
    (low,) = batcher.submit(rows(["low"], calls=4), priority=3)
    (short,) = batcher.submit(rows(["short"], calls=4))
    assert [batcher.position(ticket) for ticket in (short, long, longer, low)] == [0, 1, 2, 3]
    batcher.cancel(long)
    assert [batcher.position(ticket) for ticket in (short, long, longer, low)] == [0, 0, 1, 2]
    batcher.tick()
    assert batcher.position(low) == 0


def test_estimated_wait_is_when_a_place_is_free(clock: FakeClock) -> None:
    batcher: Batcher = StepBatcher(StepPolicy(buckets=(4,), slots=8), clock)
    batcher.submit([StepRow("a", 5, 2), StepRow("b", 11, 2)])
    step(batcher, clock, seconds=0.5)
    (next_one,) = batcher.submit(rows(["c"], calls=20, width=2))
    (after,) = batcher.submit(rows(["d"], calls=30, width=2))
    (short,) = batcher.submit(rows(["e"], calls=3))
    assert batcher.estimated_wait(short) == 0.0
    assert batcher.estimated_wait(next_one) == 4 * 0.5  # in the place of "a", which has 4 calls to make
    assert batcher.estimated_wait(after) == 13 * 0.5  # in that of "b", which pauses for the 3 calls of "e"
