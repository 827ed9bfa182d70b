"""One run: check the pictures, warm up, then take the load as often as asked."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from impasto.bench.capacity import highest_rate
from impasto.bench.drive import Call, closed_loop, open_loop
from impasto.bench.gate import References, check_pictures
from impasto.bench.gpu import GpuWatch
from impasto.bench.loadgen import LoadGenScenario, run_loadgen
from impasto.bench.measure import Taken, refusal, repeat_of
from impasto.bench.processes import ProcessWatch
from impasto.bench.result import (
    Capacity,
    Generator,
    Load,
    LoadGenVerdict,
    Repeat,
    Run,
    Scenario,
    ServerUsage,
    Trial,
)
from impasto.bench.sweep import Settings, run_name
from impasto.bench.target import Target
from impasto.bench.traffic import Order, orders

WARM_UP_CALLS = 8
"""Callers that warm a system up: as many as fill its batches."""
MULTI_STREAM = 8
"""Samples in a query of MLPerf's MultiStream."""
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Spec:
    """What to run. `percentile` of latencies within the load's limit is what a search for the highest rate wants.

    `trace` replaces the load's own arrivals; `logs` is where LoadGen writes.
    """

    scenario: Scenario
    load: Load
    repeats: int = 5
    warm_up: float = 2.0
    settings: Settings = dataclasses.field(default_factory=dict)
    generator: Generator = "impasto"
    percentile: float = 99.0
    trace: tuple[Order, ...] = ()
    logs: Path | None = None
    gpu: int | None = None

    @property
    def searches(self) -> bool:
        """Whether the highest rate within the latency limit is to be found first."""
        load = self.load
        return self.scenario == "server" and load.rate is None and not self.trace and load.latency_limit_ms is not None

    @property
    def seconds(self) -> float:
        """About how long it takes, for a progress bar."""
        last = self.trace[-1].due if self.trace else self.load.seconds or 0.0
        return self.warm_up + last * (self.repeats + (6 if self.searches else 0))

    def name(self, target: Target) -> str:
        """The run's name in a result."""
        loadgen = " by LoadGen" if self.generator == "mlperf-loadgen" else ""
        return run_name(target.system, target.protocol, self.scenario + loadgen, self.load, self.settings)


def run(target: Target, references: References | None, spec: Spec, progress: Progress = lambda _: None) -> Run:
    """Measure. What fails the check of pictures, or meets a client that is too slow, has no repeats but a reason.

    Without `references` nothing is checked, which is for systems that make no pictures. `progress` gets seconds done.
    """
    precision = str(target.settings.get("precision", "fp32"))
    gate = None if references is None else check_pictures(target, references, spec.load.mix, precision)
    found = Run(
        name=spec.name(target),
        system=target.system,
        protocol=target.protocol,
        scenario=spec.scenario,
        load=spec.load,
        settings={**target.settings, **spec.settings},
        generator=spec.generator,
        gate=gate,
    )
    if gate is not None and not gate.passed:
        refused = f"pictures differ: found {gate.psnr_db:.1f} dB; allowed is {gate.tolerance_db:g} dB or more"
        return dataclasses.replace(found, refused=refused)
    return _measured(found, target, spec, _Clock(progress))


class _Clock:
    """Adds up the seconds of several loads for one progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0.0
        self._now = 0.0

    def at(self, seconds: float) -> None:
        self._now = seconds
        self._progress(self._done + seconds)

    def next(self) -> None:
        self._done += self._now
        self._now = 0.0


def _measured(found: Run, target: Target, spec: Spec, clock: _Clock) -> Run:
    warm = _warm_up(target, spec, clock)
    capacity: Capacity | None = None
    load = spec.load
    if spec.searches:
        capacity = _search(target, spec, warm, clock)
        if not capacity.rate:
            refused = f"no rate: found none with p{capacity.percentile:g} within {capacity.latency_limit_ms:g} ms"
            return dataclasses.replace(found, refused=refused, capacity=capacity)
        load = dataclasses.replace(load, rate=capacity.rate)
    repeats: list[Repeat] = []
    verdict: LoadGenVerdict | None = None
    for number in range(spec.repeats):
        numbered = dataclasses.replace(load, seed=load.seed + number)
        calls, repeat, verdict = _repeat(target, dataclasses.replace(spec, load=numbered), warm, clock)
        if reason := refusal(calls) or _lost_to_loadgen(calls, verdict):
            return dataclasses.replace(found, load=load, refused=reason, capacity=capacity, loadgen=verdict)
        repeats.append(repeat)
    return dataclasses.replace(found, load=load, repeats=tuple(repeats), capacity=capacity, loadgen=verdict)


def _lost_to_loadgen(calls: Sequence[Call], verdict: LoadGenVerdict | None) -> str:
    """Why LoadGen's verdict does not hold: it counts every answer, and knows nothing of failed ones."""
    lost = sum(not call.completed for call in calls)
    return f"{lost} of {len(calls)} requests failed, which MLPerf LoadGen does not know" if verdict and lost else ""


def _warm_up(target: Target, spec: Spec, clock: _Clock) -> float:
    """Requests/s of a short closed loop, whose figures count for nothing else."""
    load = dataclasses.replace(spec.load, rate=None, requests=None, seed=2**31)
    calls = closed_loop(target, orders(load), WARM_UP_CALLS, spec.warm_up, clock.at)
    clock.next()
    good = [call for call in calls if call.completed]
    if not good:
        return 1.0
    return len(good) / (max(call.answered for call in good) - calls[0].due)


def _search(target: Target, spec: Spec, warm: float, clock: _Clock) -> Capacity:
    limit = spec.load.latency_limit_ms
    assert limit is not None

    def try_rate(rate: float) -> Trial:
        load = dataclasses.replace(spec.load, rate=rate)
        calls = open_loop(target, orders(load), clock.at)
        clock.next()
        found = repeat_of(calls, load, _nothing(target, load)).latency.histogram.percentile(spec.percentile)
        lost = any(not call.completed for call in calls)
        return Trial(rate, found, not lost and not refusal(calls) and found <= limit)

    return highest_rate(try_rate, warm / 2, latency_limit_ms=limit, percentile=spec.percentile)


def _repeat(
    target: Target, spec: Spec, warm: float, clock: _Clock
) -> tuple[Sequence[Call], Repeat, LoadGenVerdict | None]:
    """One measurement of the load."""
    load, model = spec.load, spec.load.mix[0].model
    verdict: LoadGenVerdict | None = None
    before, model_cpu = target.counters(model), target.model_cpu_seconds()
    client_cpu, began = time.process_time(), time.perf_counter()
    with ProcessWatch(target.pids()) as processes, GpuWatch(spec.gpu) as gpu:
        if spec.generator == "mlperf-loadgen":
            assert spec.logs is not None
            folder = spec.logs / f"{spec.scenario}-{load.seed}"
            driven = run_loadgen(target, _loadgen_scenario(spec.scenario), load, folder, expected_rate=warm)
            calls, verdict = driven.calls, driven.verdict
            clock.at(load.seconds or 0.0)
        else:
            calls = _drive(target, spec, clock)
    clock.next()
    client = (time.process_time() - client_cpu) / (time.perf_counter() - began)
    answered = sum(call.completed for call in calls)
    server = None
    if processes.processes and answered:
        in_model = target.model_cpu_seconds()
        spent = None if in_model is None or model_cpu is None else 1e3 * (in_model - model_cpu) / answered
        total = 1e3 * processes.cpu_seconds / answered
        server = ServerUsage(total, spent, processes.resident_mib, processes.processes)
    images = sum(len(call.order.seeds) for call in calls if call.completed)
    taken = Taken(client, before, target.counters(model), target.buckets(model), server, gpu.usage(images))
    return calls, repeat_of(calls, load, taken), verdict


def _drive(target: Target, spec: Spec, clock: _Clock) -> list[Call]:
    load = spec.load
    if spec.trace:
        return open_loop(target, spec.trace, clock.at)
    if spec.scenario == "server":
        return open_loop(target, orders(load), clock.at)
    return closed_loop(target, orders(load), load.concurrency or 1, load.seconds, clock.at)


def _nothing(target: Target, load: Load) -> Taken:
    counters = target.counters(load.mix[0].model)
    return Taken(0.0, counters, counters)


def _loadgen_scenario(scenario: Scenario) -> LoadGenScenario:
    assert scenario != "closed"
    return scenario
