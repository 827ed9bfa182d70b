"""The harness measured by servers of which it is known how long they take."""

from __future__ import annotations

import math

import pytest

from impasto.bench.drive import Call, open_loop
from impasto.bench.grpc_target import GrpcTarget, ImpastoWire
from impasto.bench.measure import refusal
from impasto.bench.result import Distribution, Load, MixEntry
from impasto.bench.traffic import orders
from tests.bench.delaying import Delaying, delaying, log_uniform
from tests.bench.scripted import ScriptedTarget

TRIES = 4
"""Runs of which one must agree: in the others the machine may have had something else to do."""


def driven(server: Delaying, rate: float, seconds: float) -> list[Call]:
    load = Load("poisson", (MixEntry("m"),), seconds=seconds, rate=rate, seed=1)
    with delaying(server) as address, GrpcTarget(address, ImpastoWire()) as target:
        return open_loop(target, orders(load))


def test_percentiles_are_those_that_the_server_took_within_three_per_cent() -> None:
    for _ in range(TRIES):
        server = Delaying(log_uniform(0.15, 1.2, seed=3))
        calls = driven(server, rate=150.0, seconds=4.0)
        assert len(calls) > 500
        assert all(call.completed for call in calls)
        assert all(call.latency_ms > server.seconds[call.order.seed] * 1e3 for call in calls)
        found = Distribution.of(call.latency_ms for call in calls)
        known = Distribution.of(seconds * 1e3 for seconds in server.seconds.values())
        ratios = {name: getattr(found, name) / getattr(known, name) for name in ("p50", "p90", "p95", "p99", "p99_9")}
        if max(ratios.values()) <= 1.03:
            break
    assert all(1.0 <= ratio <= 1.03 for ratio in ratios.values()), ratios
    for percent in (50, 90, 99):
        exact = getattr(found, f"p{percent}")
        assert found.histogram.percentile(percent) == pytest.approx(exact, rel=0.006)


def test_a_server_that_stalls_for_two_seconds_shows_in_the_percentiles() -> None:
    calls = driven(Delaying(lambda: 0.0, stall_at=0.5, stall=2.0), rate=100.0, seconds=5.0)
    found = Distribution.of(call.latency_ms for call in calls)
    assert found.p99_9 is not None
    assert found.p90 is not None
    assert found.smallest is not None
    assert found.p99_9 > 1_900
    # Two fifths of the time nobody was answered, and who came in the middle of it waited for a second.
    assert found.p90 > 700
    assert found.smallest < 200


def test_a_client_that_is_late_itself_gives_no_figures() -> None:
    load = Load("constant", (MixEntry("m"),), rate=200.0, requests=30)
    late = open_loop(ScriptedTarget(0.01, slow_client=0.02), orders(load))
    assert "client lag" in refusal(late)
    assert "allowed is 5%" in refusal(late)
    prompt = open_loop(ScriptedTarget(2.0), orders(load))
    assert refusal(prompt) == ""


def test_nearest_ranks_of_known_times() -> None:
    found = Distribution.of(float(time) for time in range(1, 1001))
    assert (found.p50, found.p90, found.p95, found.p99, found.p99_9) == (500, 900, 950, 990, 999)
    assert (found.smallest, found.largest, found.mean, found.count) == (1, 1000, 500.5, 1000)
    assert Distribution.of([]) == Distribution(0, 0.0)
    assert math.isnan(Distribution.of([]).histogram.percentile(50))
