"""What Prometheus can read from a server.

The figures are counted in plain numbers, on the event loop, and become Prometheus' families when they are asked for:
a request passes a dozen of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
UNKNOWN = "unknown"
"""The label of a model that a caller named and that is not loaded."""


class Histogram:
    """How many values fell between bounds, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True)
class ModelMetrics:
    """One model's figures: seconds of pictures in the queue and in encoding, seconds and rows of batches."""

    queue_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    execute_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    encode_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS))
    padding_rows: int = 0

    def executed(self, pictures: int, padding: int, seconds: float) -> None:
        """A batch of so many pictures has run, and so many rows beside theirs to fill its bucket."""
        self.execute_seconds.observe(seconds)
        self.batch_rows.observe(pictures)
        self.padding_rows += padding


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a model is now: requests accepted and not yet answered, and pictures that wait."""

    model: str
    version: str
    in_flight: int
    queue_length: int


class Metrics(Collector):
    """All figures of a server; `registry` has them for an exporter."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._answered: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._rejected: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._models: defaultdict[tuple[str, str], ModelMetrics] = defaultdict(ModelMetrics)
        self._loads: Callable[[], Iterable[Load]] = tuple

    def of_model(self, name: str, version: str) -> ModelMetrics:
        """A model's figures, which go on if it is loaded again."""
        return self._models[name, version]

    def answered(self, model: str, method: str, status: str) -> None:
        """A call got its status."""
        self._answered[model, method, status] += 1

    def rejected(self, model: str, reason: str) -> None:
        """A call was refused."""
        self._rejected[model, reason] += 1

    def watch(self, loads: Callable[[], Iterable[Load]]) -> None:
        """Read the gauges from `loads` whenever they are asked for."""
        self._loads = loads

    def collect(self) -> Iterable[Metric]:
        yield _counters("requests", "Calls answered", ("model", "method", "status"), self._answered.copy())
        yield _counters("rejections", "Calls refused", ("model", "reason"), self._rejected.copy())
        models = dict(self._models)
        padding = {key: figures.padding_rows for key, figures in models.items()}
        yield _counters("padding_rows", "Rows run to fill a bucket", ("model", "version"), padding)
        for name, meaning in (
            ("queue_seconds", "Time of a picture in the queue"),
            ("execute_seconds", "Time of a batch in the engine"),
            ("encode_seconds", "Time to encode a picture"),
            ("batch_rows", "Pictures in a batch, padding not counted"),
        ):
            yield _histograms(name, meaning, {key: getattr(figures, name) for key, figures in models.items()})
        loads = {(load.model, load.version): load for load in self._loads()}
        in_flight = {key: load.in_flight for key, load in loads.items()}
        yield _gauges("in_flight_requests", "Requests accepted and not yet answered", in_flight)
        queues = {key: load.queue_length for key, load in loads.items()}
        yield _gauges("queue_length", "Pictures that wait for a batch", queues)


def _counters(name: str, meaning: str, labels: tuple[str, ...], values: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(f"impasto_{name}", meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauges(name: str, meaning: str, values: Mapping[tuple[str, str], int]) -> Metric:
    family = GaugeMetricFamily(f"impasto_{name}", meaning, labels=("model", "version"))
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histograms(name: str, meaning: str, values: Mapping[tuple[str, str], Histogram]) -> Metric:
    family = HistogramMetricFamily(f"impasto_{name}", meaning, labels=("model", "version"))
    for key, histogram in values.items():
        bounds = (*map(str, histogram.bounds), "+Inf")
        family.add_metric(key, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
    return family
