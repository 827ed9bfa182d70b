"""How many times better one measurement is than another, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from impasto.bench.result import Repeat, Run, Spread


@dataclass(frozen=True)
class Metric:
    """A figure of a repeat, None where it was not measured; a change of one not `judged` is no regression."""

    name: str
    unit: str
    of: Callable[[Repeat], float | None]
    higher_is_better: bool = False
    judged: bool = True


HEADLINES = (
    Metric("images/s", "", lambda repeat: repeat.images_per_second, higher_is_better=True),
    Metric("p50", "ms", lambda repeat: repeat.latency.p50),
    Metric("p99", "ms", lambda repeat: repeat.latency.p99),
)
METRICS = (
    HEADLINES[0],
    Metric("goodput", "1/s", lambda repeat: repeat.goodput_per_second, higher_is_better=True),
    HEADLINES[1],
    Metric("p90", "ms", lambda repeat: repeat.latency.p90),
    Metric("p95", "ms", lambda repeat: repeat.latency.p95),
    HEADLINES[2],
    Metric("p99.9", "ms", lambda repeat: repeat.latency.p99_9),
    Metric("rejected", "requests", lambda repeat: repeat.rejected),
    Metric("failed", "requests", lambda repeat: repeat.failed),
    Metric("CPU a request", "ms", lambda repeat: repeat.server.cpu_ms_per_request if repeat.server else None),
    Metric(
        "CPU beside the model",
        "ms",
        lambda repeat: repeat.server.overhead_cpu_ms_per_request if repeat.server else None,
    ),
    Metric("RSS", "MiB", lambda repeat: repeat.server.rss_mib if repeat.server else None),
    Metric("GPU memory", "MiB", lambda repeat: repeat.gpu.memory_mib if repeat.gpu else None),
    Metric("GPU power", "W", lambda repeat: repeat.gpu.power_w if repeat.gpu else None, judged=False),
    Metric("energy a picture", "J", lambda repeat: repeat.gpu.energy_j_per_image if repeat.gpu else None),
    Metric("rows that pad", "%", lambda repeat: padding_percent(repeat), judged=False),
    Metric("client's lag", "%", lambda repeat: 100 * repeat.client_lag, judged=False),
)


def ratio(metric: Metric, base: Spread, other: Spread) -> Spread | None:
    """How many times better `other` is than `base`; None where a value is 0 or less.

    The median is that of medians, the range reaches from the closest to the furthest pair of repeats.
    """
    values = (base.median, base.low, base.high, other.median, other.low, other.high)
    if not all(math.isfinite(value) and value > 0 for value in values):
        return None
    if metric.higher_is_better:
        return Spread(other.median / base.median, other.low / base.high, other.high / base.low)
    return Spread(base.median / other.median, base.low / other.high, base.high / other.low)


def spread(run: Run | None, metric: Metric) -> Spread | None:
    """A metric over a run's repeats; None where there are none or it was not measured."""
    return run.spread(metric.of) if run else None


def padding_percent(repeat: Repeat) -> float | None:
    """The share of executed rows that only filled a bucket, in %."""
    pictures, rows = (sum(size * count for size, count in of.items()) for of in (repeat.batch_sizes, repeat.padding))
    return 100 * rows / (pictures + rows) if pictures else None
