"""A server in simulated time: a batch of 8 takes 80 ms, so that its capacity is 100 rows a second."""

import dataclasses
import random

import pytest

from impasto.scheduling import BatchPolicy
from tests.scheduling.batching_simulation import Arrival, Log, poisson, simulate

POLICY = BatchPolicy(buckets=(1, 2, 4, 8), max_queue_delay=0.005, max_queue=64)
SECONDS = {1: 0.02, 2: 0.03, 4: 0.05, 8: 0.08}
CAPACITY = 100.0
FULL_QUEUE_WAIT = (64 / 8 + 1) * 0.08
DURATION = 60.0


def assert_nothing_is_lost(log: Log, arrivals: list[Arrival]) -> None:
    run = [ticket.number for run in log.runs for ticket in run.tickets]
    expired = [ticket.number for ticket, _ in log.expired]
    assert sorted(run + expired) == [ticket.number for ticket in log.accepted]
    assert len(log.accepted) + len(log.full) + len(log.unmeetable) == len(arrivals)


@pytest.mark.parametrize("max_queue_delay", [0.0, 0.005])
def test_overload_keeps_full_batches_and_refuses_the_excess(max_queue_delay: float) -> None:
    arrivals = poisson(1.5 * CAPACITY, DURATION)
    policy = dataclasses.replace(POLICY, max_queue_delay=max_queue_delay)
    log = simulate(policy, SECONDS.__getitem__, arrivals)
    assert_nothing_is_lost(log, arrivals)
    assert log.rate(2.0, DURATION) == pytest.approx(CAPACITY, rel=0.01)
    assert all(len(run.tickets) == 8 for run in log.runs if 2.0 < run.started < DURATION)
    assert log.longest_queue == 64
    assert max(log.waits(priority=2)) <= FULL_QUEUE_WAIT
    assert len(log.full) / len(arrivals) == pytest.approx(1 / 3, abs=0.03)
    assert all(0.01 <= retry_after <= 0.08 for _, retry_after in log.full)


def test_overload_with_deadlines_refuses_at_once_what_it_cannot_make_in_time() -> None:
    arrivals = poisson(1.5 * CAPACITY, DURATION, timeout=0.4)
    jitter = random.Random(1)
    log = simulate(POLICY, lambda bucket: SECONDS[bucket] * jitter.uniform(0.95, 1.1), arrivals)
    assert_nothing_is_lost(log, arrivals)
    assert log.rate(2.0, DURATION) > 0.95 * CAPACITY
    assert not log.full
    assert len(log.unmeetable) > 0.28 * len(arrivals)
    assert len(log.expired) < 0.03 * len(log.accepted)
    for ticket, told in log.expired:
        assert ticket.deadline is not None
        assert told < ticket.deadline
    in_time = [run.finished < (t.deadline or 0.0) for run in log.runs if run.started > 2.0 for t in run.tickets]
    assert sum(in_time) > 0.95 * len(in_time)


def test_light_load_is_served_within_queue_delay_and_one_running_batch() -> None:
    arrivals = poisson(0.2 * CAPACITY, DURATION)
    log = simulate(POLICY, SECONDS.__getitem__, arrivals)
    assert_nothing_is_lost(log, arrivals)
    assert not log.full
    assert max(log.waits(priority=2)) <= 0.08 + 0.005
    assert sum(log.waits(priority=2)) / len(arrivals) < 0.015


def test_two_instances_serve_twice_as_much() -> None:
    arrivals = poisson(3 * CAPACITY, DURATION)
    log = simulate(dataclasses.replace(POLICY, instances=2), SECONDS.__getitem__, arrivals)
    assert_nothing_is_lost(log, arrivals)
    assert log.rate(2.0, DURATION) == pytest.approx(2 * CAPACITY, rel=0.01)


def test_low_priority_waits_little_longer_than_the_starvation_limit_under_a_flood_of_high() -> None:
    flood = poisson(1.5 * CAPACITY, DURATION, priority=1)
    trickle = poisson(5.0, DURATION, priority=3)
    log = simulate(POLICY, SECONDS.__getitem__, sorted(flood + trickle, key=lambda arrival: arrival.time))
    assert len(log.waits(priority=3)) == len(trickle)
    assert max(log.waits(priority=3)) <= POLICY.starvation_limit + 2 * 0.08
    assert max(log.waits(priority=1)) <= FULL_QUEUE_WAIT + 2 * 0.08
    assert log.rate(2.0, DURATION) == pytest.approx(CAPACITY, rel=0.01)


def test_high_priority_hardly_notices_a_flood_of_low() -> None:
    flood = poisson(1.5 * CAPACITY, DURATION, priority=3)
    few = poisson(5.0, DURATION, priority=1)
    log = simulate(POLICY, SECONDS.__getitem__, sorted(flood + few, key=lambda arrival: arrival.time))
    assert len(log.waits(priority=1)) == len(few)
    assert max(log.waits(priority=1)) <= 0.08 + 0.005


def test_request_larger_than_a_batch_is_made_in_several() -> None:
    log = simulate(POLICY, SECONDS.__getitem__, [Arrival(1.0, rows=20)])
    assert [len(run.tickets) for run in log.runs] == [8, 8, 4]
    assert [run.started for run in log.runs] == pytest.approx([1.0, 1.08, 1.16])
