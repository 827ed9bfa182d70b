"""What Prometheus can read from a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """One model's series."""

    queue_seconds: Histogram
    execute_seconds: Histogram
    encode_seconds: Histogram
    batch_rows: Histogram
    padding_rows: Counter

    def executed(self, rows: int, bucket: int, seconds: float) -> None:
        """A batch of so many rows has run in that bucket."""
        self.execute_seconds.observe(seconds)
        self.batch_rows.observe(rows)
        if rows < bucket:
            self.padding_rows.inc(bucket - rows)


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a model is now: requests accepted and not yet answered, and pictures that wait."""

    model: str
    version: str
    in_flight: int
    queue_length: int


class Metrics:
    """All series of a server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ("model", "version")
        self._requests = self._counter("requests", "Calls answered", ("model", "method", "status"))
        self._rejections = self._counter("rejections", "Calls refused", ("model", "reason"))
        self._padding = self._counter("padding_rows", "Rows run to fill a bucket", model)
        self._queue = self._histogram("queue_seconds", "Time of a picture in the queue", model, SECONDS)
        self._execute = self._histogram("execute_seconds", "Time of a batch in the engine", model, SECONDS)
        self._encode = self._histogram("encode_seconds", "Time to encode a picture", model, SECONDS)
        self._batch = self._histogram("batch_rows", "Pictures in a batch, padding not counted", model, ROWS)
        self._answered: dict[tuple[str, str, str], Counter] = {}

    def of_model(self, name: str, version: str) -> ModelMetrics:
        """A model's series; the same ones if it is loaded again."""
        return ModelMetrics(
            self._queue.labels(name, version),
            self._execute.labels(name, version),
            self._encode.labels(name, version),
            self._batch.labels(name, version),
            self._padding.labels(name, version),
        )

    def answered(self, model: str, method: str, status: str) -> None:
        """A call got its status."""
        key = (model, method, status)
        counter = self._answered.get(key)
        if counter is None:
            counter = self._answered[key] = self._requests.labels(*key)
        counter.inc()

    def rejected(self, model: str, reason: str) -> None:
        """A call was refused."""
        self._rejections.labels(model, reason).inc()

    def watch(self, loads: Callable[[], Iterable[Load]]) -> None:
        """Read the gauges from `loads` whenever they are asked for."""
        self.registry.register(_Gauges(loads))

    def _counter(self, name: str, meaning: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"impasto_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"impasto_{name}", meaning, labels, buckets=buckets, registry=self.registry)


class _Gauges(Collector):
    def __init__(self, loads: Callable[[], Iterable[Load]]) -> None:
        self._loads = loads

    def collect(self) -> Iterable[Metric]:
        labels = ("model", "version")
        in_flight = GaugeMetricFamily(
            "impasto_in_flight_requests", "Requests accepted, not yet answered", labels=labels
        )
        queue = GaugeMetricFamily("impasto_queue_length", "Pictures that wait for a batch", labels=labels)
        for load in self._loads():
            in_flight.add_metric((load.model, load.version), load.in_flight)
            queue.add_metric((load.model, load.version), load.queue_length)
        return (in_flight, queue)
