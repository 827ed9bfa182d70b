"""The step batcher on a simulated GPU, beside request-level batching: the claims of benchmarks/step_simulation.py."""

import dataclasses
from collections import Counter
from collections.abc import Callable

import pytest

from benchmarks.step_simulation import (
    POLICY,
    SECONDS,
    Request,
    arrivals,
    oldest_first,
    shortest_first,
    step_level,
)
from impasto.errors import DeadlineExceeded, QueueFull
from impasto.scheduling import StepBatcher, StepRow
from tests.scheduling.batching_simulation import FakeClock

FULL_TICK = SECONDS[POLICY.max_batch]


@pytest.mark.parametrize("load", [0.7, 0.95])
def test_short_requests_are_served_five_times_sooner_at_equal_throughput(load: float) -> None:
    requests = arrivals(load, 20_000)
    offered = len(requests) / requests[-1].time
    steps, oldest, shortest = step_level(requests), oldest_first(requests), shortest_first(requests)
    assert steps.requests == oldest.requests == len(requests)
    assert steps.throughput == pytest.approx(oldest.throughput, rel=0.01)
    assert steps.throughput == pytest.approx(offered, rel=0.01)
    assert oldest.percentile(4, 95) > 5 * steps.percentile(4, 95)
    assert shortest.percentile(4, 95) > 5 * steps.percentile(4, 95)
    assert oldest.percentile(20, 95) > 4 * steps.percentile(20, 95)
    assert steps.occupancy > (0.95 if load == 0.95 else 0.9)
    assert steps.percentile(4, 99) < 5.5 * FULL_TICK  # four calls, and what is left of one when it comes


def test_long_requests_do_not_starve_for_it() -> None:
    requests = arrivals(0.95, 20_000)
    steps, oldest = step_level(requests), oldest_first(requests)
    assert steps.percentile(50, 50) < oldest.percentile(50, 50)
    assert steps.percentile(50, 95) < oldest.percentile(50, 95)
    assert steps.percentile(50, 99) < 1.2 * oldest.percentile(50, 99)
    assert max(steps.latencies[50]) < 1.2 * max(oldest.latencies[50])


@dataclasses.dataclass
class Log:
    """What became of the requests: latencies and calls of those served, and how many others, by step count."""

    served: dict[Request, float] = dataclasses.field(default_factory=dict)
    refused: Counter[int] = dataclasses.field(default_factory=Counter)
    full: Counter[int] = dataclasses.field(default_factory=Counter)
    late: Counter[int] = dataclasses.field(default_factory=Counter)
    end: float = 0.0

    def slowest(self, wanted: Callable[[Request], bool]) -> float:
        """The longest latency."""
        return max(seconds for request, seconds in self.served.items() if wanted(request))

    def goodput(self) -> float:
        """Served model rows a second over what full buckets do."""
        return sum(request.calls * request.width for request in self.served) * FULL_TICK / POLICY.max_batch / self.end


def serve(
    requests: list[Request], timeout: float | None, priority: Callable[[Request], int], max_queue: int = 256
) -> Log:
    clock, log = FakeClock(), Log()
    policy = dataclasses.replace(POLICY, max_queue=max_queue)
    batcher: StepBatcher[Request] = StepBatcher(policy, clock)
    coming = list(reversed(requests))
    while coming or len(batcher):
        tick = batcher.tick()
        end = coming[-1].time if tick is None else clock.now + SECONDS.get(tick.bucket, 0.0)
        while coming and coming[-1].time <= end:
            request = coming.pop()
            clock.now = request.time
            row = StepRow(request, request.calls, request.width)
            deadline = None if timeout is None else request.time + timeout
            try:
                batcher.submit([row], priority=priority(request), deadline=deadline)
            except DeadlineExceeded:
                log.refused[request.calls] += 1
            except QueueFull:
                log.full[request.calls] += 1
        clock.now = end
        if tick is not None:
            log.late.update(ended.ticket.calls for ended in tick.ended)
            for ticket in batcher.done(tick, SECONDS.get(tick.bucket, 0.0)):
                log.served[ticket.payload] = clock.now - ticket.payload.time
    log.end = clock.now
    others = sum((log.refused + log.full + log.late).values())
    assert len(log.served) + others == len(requests)
    return log


def test_overload_refuses_the_excess_and_serves_short_requests_as_ever() -> None:
    requests = arrivals(1.5, 6_000)
    log = serve(requests, timeout=None, priority=lambda request: 0)
    assert not log.refused
    assert not log.late
    assert log.goodput() > 0.98
    served = Counter(request.calls for request in log.served)
    assert log.slowest(lambda request: request.calls == 4) < 10 * FULL_TICK
    assert served[50] > 0.6 * sum(request.calls == 50 for request in requests)


def test_overload_with_timeouts_refuses_at_once_what_it_cannot_make_in_time() -> None:
    log = serve(arrivals(1.5, 6_000), timeout=10.0, priority=lambda request: 0)
    assert not log.full
    assert log.refused[50] > 500
    assert sum(log.late.values()) < 0.02 * len(log.served)
    assert log.goodput() > 0.97
    assert log.slowest(lambda request: True) < 10.0 + FULL_TICK


def test_generous_timeouts_on_every_request_change_nothing_for_short_ones() -> None:
    requests = arrivals(0.9, 6_000)
    with_timeouts = serve(requests, timeout=60.0, priority=lambda request: 0)
    without = serve(requests, timeout=None, priority=lambda request: 0)
    assert with_timeouts.served == without.served
    assert with_timeouts.slowest(lambda request: request.calls == 4) < 6 * FULL_TICK


def test_low_priority_waits_no_longer_than_the_starvation_limit_under_a_flood_of_high() -> None:
    requests = arrivals(1.5, 6_000)
    low = set(requests[::40])
    log = serve(requests, timeout=None, priority=lambda request: 3 if request in low else 1, max_queue=16)
    assert low <= log.served.keys()
    assert log.slowest(low.__contains__) < POLICY.starvation_limit + 52 * FULL_TICK
    assert log.slowest(lambda request: request.calls == 4 and request not in low) < 6 * FULL_TICK


def test_high_priority_hardly_notices_a_flood_of_low() -> None:
    requests = arrivals(1.5, 6_000)
    high = set(requests[::40])
    log = serve(requests, timeout=None, priority=lambda request: 1 if request in high else 3)
    assert high <= log.served.keys()
    slowdown = [log.served[request] / (request.calls * FULL_TICK) for request in high]
    assert max(slowdown) < 1.5
