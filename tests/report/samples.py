"""Results as `impasto bench` and `python -m benchmarks.gpu` would write them on cards that are made up.

A card is a number: pictures/s at batch 1. Latencies come from a simulated queue in front of it, so that they have the
shapes of real ones: batches grow with the rate, and near its capacity the tail explodes.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from impasto.bench.result import (
    Capacity,
    Distribution,
    Gate,
    Gpu,
    Load,
    Machine,
    MixEntry,
    Model,
    Repeat,
    Result,
    Run,
    ServerUsage,
    Trial,
)

REPEATS = 5
RATES = (10.0, 20.0, 40.0, 60.0, 80.0)
BATCHES = (1, 2, 4, 8)
MAX_BATCH = 8
GATE = Gate("torch fp32", (1, 2, 3, 4), psnr_db=61.3, tolerance_db=50.0)


def execute_ms(batch: int, speed: float) -> float:
    """A batch's time on a card that makes `speed` pictures/s one by one: half of it is paid once."""
    return 1000 / speed * (0.5 + 0.5 * batch)


def served(rate: float, speed: float, requests: int, draw: random.Random) -> Repeat:
    """One card behind a queue under Poisson arrivals, which takes up to MAX_BATCH of those that wait."""
    due = 0.0
    arrivals = [due := due + draw.expovariate(rate) * 1000 for _ in range(requests)]
    now, index = 0.0, 0
    queued: list[float] = []
    executed: list[float] = []
    sizes: dict[int, int] = {}
    while index < requests:
        now = max(now, arrivals[index])
        batch = [time for time in arrivals[index : index + MAX_BATCH] if time <= now]
        took = execute_ms(len(batch), speed) * draw.gauss(1, 0.03)
        queued += [now - time for time in batch]
        executed += [took] * len(batch)
        sizes[len(batch)] = sizes.get(len(batch), 0) + 1
        now += took
        index += len(batch)
    whole = [wait + took + 2.1 for wait, took in zip(queued, executed, strict=True)]
    stages = {"client": 0.1, "encode": 1.2, "transport": 0.8}
    return dataclasses.replace(
        repeat(requests / (now / 1000), whole, now / 1000),
        stages={name: Distribution(requests, mean) for name, mean in stages.items()}
        | {"queue": Distribution.of(queued), "execute": Distribution.of(executed)},
        batch_sizes=sizes,
        padding={1: sizes.get(3, 0)},
    )


def repeat(images_per_second: float, latencies: list[float], seconds: float = 10.0) -> Repeat:
    """A repeat of these latencies in ms, one picture a request."""
    count = len(latencies)
    return Repeat(
        seconds=seconds,
        sent=count,
        completed=count,
        rejected=0,
        failed=0,
        images=count,
        images_per_second=images_per_second,
        latency=Distribution.of(latencies),
        client_lag=0.01,
        client_cpu=0.1,
        server=ServerUsage(cpu_ms_per_request=1.4, model_cpu_ms_per_request=0.9, rss_mib=512.0),
    )


def load(rate: float | None = None, batch: int = 1) -> Load:
    """Requests for `starry`, as Poisson arrivals where a rate is given."""
    mix = (MixEntry("starry", batch=batch),)
    return Load("poisson", mix, seconds=10.0, rate=rate) if rate else Load("at-once", mix, requests=256)


def result(card: str, speed: float, *, note: str = "", commit: str = "4f2c9d1", requests: int = 400) -> Result:
    """A file of one card: a sweep of rates, and one of batches offline."""
    draw = random.Random(f"{card} {commit}")
    runs = []
    for rate in RATES:
        repeats = tuple(served(rate, speed, requests, draw) for _ in range(REPEATS))
        runs.append(serving(f"starry server {rate:g}/s", load(rate), repeats))
    for batch in BATCHES:
        times = [[execute_ms(batch, speed) * draw.gauss(1, 0.02) for _ in range(50)] for _ in range(REPEATS)]
        repeats = tuple(repeat(50 * batch * 1000 / sum(latencies), latencies) for latencies in times)
        name = f"starry offline batch={batch}"
        settings: dict[str, str | int | float] = {"batch": batch}
        offline = load(batch=batch)
        runs.append(Run(name, "impasto", "in-process", "offline", offline, settings, gate=GATE, repeats=repeats))
    gpu = Gpu(card, driver="595.21", memory_mib=24576, sm_clock_mhz=2040, memory_clock_mhz=6251, power_limit_w=72.0)
    packages = {"torch": "2.13.0", "tensorrt": "11.4.0", "grpcio": "1.85.1"}
    machine = Machine("AMD EPYC 9354", 16, 131072, 3250.0, "Linux 6.8", "3.11.9", packages, (gpu,))
    model = Model("starry", "1", "9b1c44e07ad2f3c1", "stylegan2", 256, 256)
    command = "impasto bench starry --server gpu-7:8001 --scenario server --sweep rate=10,20,40,60,80"
    return Result("2026-11-20T14:31:07+00:00", command, commit, machine, (model,), tuple(runs), note)


def serving(name: str, of: Load, repeats: tuple[Repeat, ...]) -> Run:
    """A run of our server under Poisson arrivals, as a sweep over rates makes it."""
    settings: dict[str, str | int | float] = {"rate": of.rate} if of.rate else {}
    return Run(name, "impasto", "impasto.v1", "server", of, settings, gate=GATE, repeats=repeats)


def searched(card: str, speed: float) -> Result:
    """A file of one search for the highest rate whose p99 is within 100 ms."""
    draw = random.Random(card)
    trials = []
    for rate in (20.0, 40.0, 80.0, 160.0, 120.0, 100.0):
        p99 = served(rate, speed, 300, draw).latency.p99
        trials.append(Trial(rate, p99, met=p99 is not None and p99 <= 100))
    best = max((trial.rate for trial in trials if trial.met), default=0.0)
    repeats = tuple(served(best, speed, 300, draw) for _ in range(3))
    run = serving("starry server", dataclasses.replace(load(best), latency_limit_ms=100.0), repeats)
    run = dataclasses.replace(run, settings={}, capacity=Capacity(best, 100.0, 99.0, tuple(trials)))
    return dataclasses.replace(result(card, speed, requests=2), runs=(run,))


def kernels(card: str, copied: float, multiplied: float) -> dict[str, Any]:
    """A file of the benchmark of kernels: two kernels that multiply, and two whose operations are not counted."""
    draw, rows = random.Random(card), []
    for kernel, shapes in {
        "modulated_conv": ("4×512×512", "16×512×512", "64×512×512", "256×128×128", "1024×32×32"),
        "modulated_conv_up": ("8×512×512", "64×512×256", "512×64×32"),
        "bias_act": ("64×512", "1024×32"),
        "sampler_step": ("4×128×128",),
    }.items():
        for shape in shapes:
            for batch in (1, 8):
                size, *channels = (int(part) for part in shape.split("×"))
                inputs, outputs = (*channels, channels[0])[:2]
                moved = 2 * batch * size * size * (inputs + outputs) + 18 * inputs * outputs
                operations = 18 * batch * size * size * inputs * outputs if kernel.startswith("modulated") else 0
                floor_ms = max(moved / copied, operations / multiplied) * 1e3
                ms = floor_ms / draw.uniform(0.35, 0.9) + 0.003
                rows.append(
                    {
                        "kernel": kernel,
                        "form": "fused",
                        "shape": shape,
                        "batch": batch,
                        "dtype": "float16",
                        "routed": True,
                        "ms": ms,
                        "floor_ms": floor_ms,
                        "share_of_copy": moved / (ms / 1e3) / copied,
                        "share_of_product": operations / (ms / 1e3) / multiplied,
                        "rivals_ms": {"eager": 2 * ms},
                        "ratios": {"eager": draw.uniform(0.9, 3), "textbook": draw.uniform(1.5, 5)},
                    }
                )
    floor = {"copied": copied, "multiplied": multiplied, "smallest": 0.002}
    machine = {"processor": "AMD EPYC 9354", "commit": "4f2c9d1", "command": "python -m benchmarks.gpu"}
    gpu = {"name": card, "driver_version": "595.21", "capability": "9.0"}
    return {"machine": machine, "gpu": gpu, "floor": floor, "wrong": [], "runs": 25, "rows": rows, "seconds": 71}
