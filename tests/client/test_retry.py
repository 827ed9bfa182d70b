from __future__ import annotations

import pytest

from impasto.client.retry import Retries, RetryPolicy
from impasto.errors import InvalidRequest, QueueFull, Unavailable


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def least(low: float, high: float) -> float:
    return low


def most(low: float, high: float) -> float:
    return high


def test_waits_double_up_to_the_limit() -> None:
    retries = Retries(RetryPolicy(attempts=6, first_delay=1, max_delay=5), None, Clock(), least)
    assert [retries.delay_after(Unavailable("x", 0.0)) for _ in range(5)] == [1, 2, 4, 5, 5]


def test_the_servers_delay_goes_before_our_own() -> None:
    retries = Retries(RetryPolicy(attempts=9, first_delay=1), None, Clock(), least)
    assert retries.delay_after(QueueFull("x", 7.5)) == 7.5


def test_jitter_only_lengthens_a_wait() -> None:
    retries = Retries(RetryPolicy(jitter=0.5), None, Clock(), most)
    assert retries.delay_after(Unavailable("x", 2.0)) == 3.0


def test_the_last_failure_is_raised() -> None:
    retries = Retries(RetryPolicy(attempts=2), None, Clock(), least)
    retries.delay_after(Unavailable("first", 1.0))
    with pytest.raises(Unavailable, match="second"):
        retries.delay_after(Unavailable("second", 1.0))


def test_a_wait_that_reaches_the_deadline_is_not_begun() -> None:
    clock = Clock()
    retries = Retries(RetryPolicy(), 10.0, clock, least)
    clock.now += 4.0
    assert retries.remaining() == 6.0
    assert retries.delay_after(Unavailable("x", 5.9)) == 5.9
    with pytest.raises(Unavailable):
        retries.delay_after(Unavailable("x", 6.0))


def test_bad_requests_are_not_tried_again() -> None:
    with pytest.raises(InvalidRequest):
        Retries(RetryPolicy(), None, Clock(), least).delay_after(InvalidRequest("psi", "x", "y"))


def test_no_time_is_left_after_the_deadline() -> None:
    clock = Clock()
    retries = Retries(RetryPolicy(), 1.0, clock, least)
    clock.now += 2.0
    assert retries.remaining() == 0.0
