"""Step batching against request-level batching in simulated time: the scheduler alone, with a cost model of a GPU.

    python -m benchmarks.step_simulation

Requests of 4, 20 and 50 steps, a third each, half of them with guidance (two model rows a call), arrive at Poisson
times. Load is what they ask for over what full buckets do. Step batching is `impasto.scheduling.StepBatcher`. The
request-level ways hold the same buckets and cost model, take as many waiting requests as fit whenever the GPU is idle,
and run them to their end:

- oldest: requests of one step count form a batch, the count whose oldest has waited longest goes next. This is
  what Triton's dynamic batcher does, which joins only requests of equal shape, in order of arrival;
- shortest: the same, but the smallest count goes next;
- mixed: whatever waits forms a batch, which lasts until its longest request ends.

A way keeps up with its load if it serves requests at the rate at which they come, within a per cent. Speed is compared
with the best of those that do. Then the batcher's own time: of a tick that chooses 32 of 128 rows that hold slots, with
256 more waiting, and of simulating a million requests on one core.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

import typer

from benchmarks.report import show, write
from impasto.scheduling import StepBatcher, StepPolicy, StepRow

LOADS = (0.7, 0.8, 0.9, 0.95)
STEPS = (4, 20, 50)
WIDTHS = (1, 2)
FIXED, A_ROW = 0.007, 0.0014
"""Seconds of a call: 7 ms, and 1.4 ms more for each model row.

So one guided request alone has 102 calls a second, which is what stable-fast reports for Stable Diffusion 1.5 at 512²
on an H100 (104.6), and a full bucket spends 1.6 ms a row, as MLPerf 5.1's 96 calls a second of SDXL at 1024² on an
H200 come to when scaled by the operations of a call, 0.8 to 6 TFLOP.
"""
POLICY = StepPolicy(buckets=(1, 2, 4, 8, 16, 32), slots=128, max_queue=10**9)
SECONDS = {bucket: FIXED + A_ROW * bucket for bucket in POLICY.buckets}
CAPACITY = POLICY.max_batch / SECONDS[POLICY.max_batch]
"""Model rows a second in full buckets."""


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A picture to be made: when it arrives, its calls, and its model rows a call."""

    time: float
    calls: int
    width: int


@dataclasses.dataclass
class Outcome:
    """What became of the requests: their latencies by step count, and how full the calls were."""

    latencies: dict[int, list[float]] = dataclasses.field(default_factory=lambda: defaultdict(list))
    ticks: int = 0
    filled: float = 0.0
    end: float = 0.0
    most_slots: int = 0

    @property
    def requests(self) -> int:
        """Requests that were served."""
        return sum(map(len, self.latencies.values()))

    @property
    def throughput(self) -> float:
        """Requests a second, until the last was served."""
        return self.requests / self.end

    @property
    def occupancy(self) -> float:
        """Model rows over bucket, mean over the calls."""
        return self.filled / self.ticks

    def percentile(self, steps: int, percent: int) -> float:
        """Seconds within which so many per cent of the requests of that step count were served."""
        return quantiles(self.latencies[steps], n=100)[percent - 1]


def arrivals(load: float, count: int, seed: int = 1) -> list[Request]:
    """Requests at Poisson times that together ask for that share of the capacity."""
    draw, now, requests = random.Random(seed), 0.0, []
    rows = sum(STEPS) / len(STEPS) * sum(WIDTHS) / len(WIDTHS)
    for _ in range(count):
        now += draw.expovariate(load * CAPACITY / rows)
        requests.append(Request(now, draw.choice(STEPS), draw.choice(WIDTHS)))
    return requests


def step_level(requests: Sequence[Request], policy: StepPolicy = POLICY) -> Outcome:
    """Serve the requests, in order of time, with a step batcher."""
    outcome, now, coming, count = Outcome(), 0.0, 0, len(requests)
    batcher: StepBatcher[Request] = StepBatcher(policy, lambda: now)
    rows = [StepRow(request, request.calls, request.width) for request in requests]
    while True:
        tick = batcher.tick()
        end = now + SECONDS[tick.bucket] if tick is not None else requests[coming].time if coming < count else None
        if end is None:
            outcome.end = now
            return outcome
        while coming < count and requests[coming].time <= end:
            now = requests[coming].time
            batcher.submit((rows[coming],))
            coming += 1
        now = end
        if tick is not None:
            outcome.ticks += 1
            outcome.filled += sum([ticket.width for ticket, _, _ in tick.rows]) / tick.bucket
            outcome.most_slots = max(outcome.most_slots, batcher.running)
            for ticket in batcher.done(tick, SECONDS[tick.bucket]):
                outcome.latencies[ticket.calls].append(now - ticket.payload.time)


def request_level(
    requests: Sequence[Request], queue_of: Callable[[Request], int], order: Callable[[Request], float]
) -> Outcome:
    """Serve them in batches that run to their end: of one queue each, the one whose first is least in the order."""
    outcome, now, coming, count = Outcome(), 0.0, 0, len(requests)
    queues: dict[int, deque[Request]] = defaultdict(deque)
    while True:
        while coming < count and requests[coming].time <= now:
            queues[queue_of(requests[coming])].append(requests[coming])
            coming += 1
        waiting = [queue for queue in queues.values() if queue]
        if not waiting:
            if coming == count:
                outcome.end = now
                return outcome
            now = requests[coming].time
            continue
        batch = _take(min(waiting, key=lambda queue: order(queue[0])))
        rows, calls = sum(request.width for request in batch), max(request.calls for request in batch)
        bucket = POLICY.bucket_for(rows)
        now += calls * SECONDS[bucket]
        outcome.ticks += calls
        outcome.filled += calls * rows / bucket
        for request in batch:
            outcome.latencies[request.calls].append(now - request.time)


def oldest_first(requests: Sequence[Request]) -> Outcome:
    """Batches of one step count, the count whose oldest request has waited longest."""
    return request_level(requests, lambda request: request.calls, lambda request: request.time)


def shortest_first(requests: Sequence[Request]) -> Outcome:
    """Batches of one step count, the smallest count."""
    return request_level(requests, lambda request: request.calls, lambda request: request.calls)


def mixed_counts(requests: Sequence[Request]) -> Outcome:
    """Batches of whatever waits."""
    return request_level(requests, lambda request: 0, lambda request: request.time)


WAYS = {
    "steps": step_level,
    "oldest": oldest_first,
    "shortest": shortest_first,
    "mixed": mixed_counts,
}


def main(requests: int = 100_000, many: int = 1_000_000, seed: int = 1) -> None:
    """Compare the ways over REQUESTS requests at each load, and time the simulation of MANY at 0.95."""
    rows, claims = [], []
    for load in LOADS:
        coming = arrivals(load, requests, seed)
        offered = len(coming) / coming[-1].time
        outcomes = {name: way(coming) for name, way in WAYS.items()}
        rows += [_row(load, name, outcome, offered) for name, outcome in outcomes.items()]
        claims.append(_claim(load, outcomes, offered))
    show("simulated GPU, latencies in seconds", rows)
    print("\n".join(claims))
    choosing = choosing_seconds()
    print(f"choosing 32 of 128 rows takes {choosing * 1e6:.0f} µs, to tick() and done()")
    timed = _timed(many, seed)
    print(
        f"{many} requests at a load of 0.95 took {timed['cpu s']:.1f} s of a core, {timed['µs a tick']:.0f} µs a tick, "
        f"and {timed['wall s']:.1f} s by the clock, with {timed['load average']:.1f} processes running"
    )
    policy = dataclasses.asdict(POLICY)
    own = {"choosing 32 of 128 µs": choosing * 1e6, "simulation": timed}
    print(write("step_simulation", rows, claims=claims, **own, policy=policy, seconds=SECONDS))


def choosing_seconds(ticks: int = 1000) -> float:
    """Median seconds of tick() and done() with every slot held, each fourth of them by shorter rows than the last."""
    now = 0.0
    batcher: StepBatcher[None] = StepBatcher(POLICY, lambda: now)
    for calls in (5000, 4000, 3000, 2000):
        batcher.submit([StepRow(None, calls)] * POLICY.max_batch)
        tick = batcher.tick()
        assert tick is not None
        batcher.done(tick, SECONDS[tick.bucket])
    batcher.submit([StepRow(None, 6000)] * 256)
    assert (batcher.running, batcher.waiting) == (128, 256)
    times = []
    for _ in range(ticks):
        start = perf_counter()
        tick = batcher.tick()
        assert tick is not None
        batcher.done(tick, SECONDS[tick.bucket])
        times.append(perf_counter() - start)
        now += SECONDS[tick.bucket]
    return median(times)


def _take(queue: deque[Request]) -> list[Request]:
    """Remove the requests that come first, as many as fill the largest bucket."""
    batch, room = [], POLICY.max_batch
    while queue and queue[0].width <= room:
        batch.append(queue.popleft())
        room -= batch[-1].width
    return batch


def _keeps_up(outcome: Outcome, offered: float) -> bool:
    return outcome.throughput > 0.99 * offered


def _row(load: float, name: str, outcome: Outcome, offered: float) -> dict[str, Any]:
    short, middle, long = STEPS
    return {
        "load": load,
        "way": name,
        "per s": outcome.throughput,
        "keeps up": _keeps_up(outcome, offered),
        "occupancy": outcome.occupancy,
        f"{short}: p50": outcome.percentile(short, 50),
        f"{short}: p95": outcome.percentile(short, 95),
        f"{middle}: p95": outcome.percentile(middle, 95),
        f"{long}: p95": outcome.percentile(long, 95),
        f"{long}: p99": outcome.percentile(long, 99),
        f"{long}: max": max(outcome.latencies[long]),
    }


def _claim(load: float, outcomes: dict[str, Outcome], offered: float) -> str:
    steps, short = outcomes["steps"], STEPS[0]
    others = {name: way for name, way in outcomes.items() if way is not steps and _keeps_up(way, offered)}
    name = min(others, key=lambda name: others[name].percentile(short, 95))
    faster = others[name].percentile(short, 95) / steps.percentile(short, 95)
    throughput = steps.throughput / others[name].throughput
    return (
        f"load {load}: p95 of {short} steps is {faster:.1f} times lower than with '{name}', at {throughput:.3f} "
        f"of its throughput; occupancy {100 * steps.occupancy:.1f} %; at most {steps.most_slots} slots in use"
    )


def _timed(count: int, seed: int) -> dict[str, Any]:
    coming = arrivals(0.95, count, seed)
    wall, cpu = perf_counter(), process_time()
    outcome = step_level(coming)
    wall, cpu = perf_counter() - wall, process_time() - cpu
    return {
        "requests": outcome.requests,
        "ticks": outcome.ticks,
        "cpu s": cpu,
        "wall s": wall,
        "µs a tick": cpu / outcome.ticks * 1e6,
        "load average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    typer.run(main)
