"""What a benchmark measured: one JSON file of a versioned schema.

A file holds runs, a run holds repeats, and every figure of a repeat is as it was taken: medians and spreads over
repeats are read from there (`Run.spread`), so that a comparison knows the noise. Times are in ms, rates in 1/s, memory
in MiB, power in W, energy in J.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from impasto.bench.histogram import Histogram
from impasto.errors import ImpastoError

SCHEMA = 1
STAGES = ("client", "queue", "execute", "encode", "transport")
"""Of a request: due until sent, waiting in the server, in the engine, encoding, and what is left of its latency."""

Protocol = Literal["impasto.v1", "open-inference", "in-process"]
Scenario = Literal["single", "multi", "server", "offline", "closed"]
Generator = Literal["impasto", "mlperf-loadgen"]
Arrivals = Literal["poisson", "constant", "trace", "at-once", "one-by-one", "closed"]


class ResultError(ImpastoError):
    """A result file that cannot be read: names the file and the field."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver tells of it, clocks and power limit as they were when the benchmark began."""

    name: str
    driver: str
    memory_mib: int
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_limit_w: float | None = None


@dataclass(frozen=True)
class Machine:
    """What the client ran on, and the server too unless the run's settings say otherwise."""

    processor: str
    cores: int
    memory_mib: int
    clock_mhz: float | None
    system: str
    python: str
    packages: dict[str, str]
    gpus: tuple[Gpu, ...] = ()

    @property
    def title(self) -> str:
        """The GPU, or the processor where there is none."""
        return self.gpus[0].name if self.gpus else f"{self.processor}, {self.cores} cores"


@dataclass(frozen=True)
class Model:
    """A model that was measured. `digest` is its bundle's, empty where the server does not tell."""

    name: str
    version: str = ""
    digest: str = ""
    family: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class MixEntry:
    """One kind of request: its share of the traffic is its weight over the sum of all weights.

    `batch` pictures a request; the rest is None where the model's default is asked for. `deadline_ms` from due time.
    """

    model: str
    weight: float = 1.0
    batch: int = 1
    steps: int | None = None
    width: int | None = None
    height: int | None = None
    priority: int = 0
    deadline_ms: float | None = None


@dataclass(frozen=True)
class Load:
    """What was asked: how requests arrive, of which kinds, and for how long.

    `rate` is the offered one in requests/s (None where the server sets the pace), `concurrency` the calls under way of
    a closed loop, `latency_limit_ms` what goodput counts against.
    """

    arrivals: Arrivals
    mix: tuple[MixEntry, ...]
    seconds: float | None = None
    requests: int | None = None
    rate: float | None = None
    concurrency: int | None = None
    latency_limit_ms: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Distribution:
    """Times in ms. Percentiles come from the times themselves, not from the histogram.

    A server that tells only averages of a stage has `mean` alone: then the histogram is empty and percentiles None.
    """

    count: int
    mean: float
    smallest: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    largest: float | None = None
    histogram: Histogram = field(default_factory=Histogram)

    @classmethod
    def of(cls, times_ms: Iterable[float]) -> Distribution:
        """The distribution of times; of none all figures are 0 and None."""
        ordered = sorted(times_ms)
        if not ordered:
            return cls(0, 0.0)
        p50, p90, p95, p99, p99_9 = (ordered[rank(len(ordered), p)] for p in (50, 90, 95, 99, 99.9))
        return cls(
            count=len(ordered),
            mean=statistics.fmean(ordered),
            smallest=ordered[0],
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            p99_9=p99_9,
            largest=ordered[-1],
            histogram=Histogram.of(ordered),
        )


@dataclass(frozen=True)
class GpuUsage:
    """Through NVML while the load ran: the largest memory in use, means of power and clocks, energy a picture."""

    memory_mib: float
    power_w: float | None
    sm_clock_mhz: float | None
    utilisation: float | None
    energy_j_per_image: float | None


@dataclass(frozen=True)
class ServerUsage:
    """What the server's processes took, all of them together.

    `cpu_ms_per_request` is their CPU time, `model_cpu_ms_per_request` the part of it inside the model's graphs (None
    where it cannot be told apart), `rss_mib` their resident memory at the end of the load, in which a page that several
    of them share counts once.
    """

    cpu_ms_per_request: float
    model_cpu_ms_per_request: float | None
    rss_mib: float
    processes: int = 1

    @property
    def overhead_cpu_ms_per_request(self) -> float | None:
        """CPU time apart from the model."""
        model = self.model_cpu_ms_per_request
        return None if model is None else self.cpu_ms_per_request - model


@dataclass(frozen=True)
class Repeat:
    """One measurement of a load.

    `seconds` run from the first due time to the last reply; `sent` = completed + rejected + failed requests, `images`
    those of completed ones; `failures` by status. `client_lag` is the share of all latency that was the client's own.
    `batch_sizes`: executions by pictures in them; `padding`: executions by rows that filled the bucket.
    """

    seconds: float
    sent: int
    completed: int
    rejected: int
    failed: int
    images: int
    images_per_second: float
    latency: Distribution
    client_lag: float
    client_cpu: float
    goodput_per_second: float | None = None
    stages: dict[str, Distribution] = field(default_factory=dict)
    batch_sizes: dict[int, int] = field(default_factory=dict)
    padding: dict[int, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    server: ServerUsage | None = None
    gpu: GpuUsage | None = None


@dataclass(frozen=True)
class Gate:
    """The check before any speed: pictures of `seeds` against the fp32 reference.

    `psnr_db` is the worst of them (at most 200), `tolerance_db` the least that the backend states.
    """

    reference: str
    seeds: tuple[int, ...]
    psnr_db: float
    tolerance_db: float

    @property
    def passed(self) -> bool:
        """Whether the pictures are as close as the backend states."""
        return self.psnr_db >= self.tolerance_db


@dataclass(frozen=True)
class Trial:
    """One rate that was tried on the way to the highest one: the percentile that came of it, and whether it met."""

    rate: float
    latency_ms: float | None
    met: bool


@dataclass(frozen=True)
class Capacity:
    """The highest rate in requests/s at which `percentile` of latencies stays within the limit, by bisection."""

    rate: float
    latency_limit_ms: float
    percentile: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class LoadGenVerdict:
    """What MLPerf LoadGen's own summary says: VALID or INVALID, why not, and the rules as they were scaled."""

    result: str
    reasons: tuple[str, ...]
    settings: dict[str, str]


@dataclass(frozen=True)
class Spread:
    """A figure over repeats: the median, and the smallest and largest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Run:
    """A load on a system, repeated.

    `name` is unique within a file and the same for the same run of another file: runs of two files compare by it.
    `system` is what answered ("impasto", "triton", "ray", "onnxruntime", "diffusers"); `settings` what was swept
    ("backend", "precision", "batch"). Where the gate failed or the client lagged, `refused` says so and there are no
    repeats: no speed is recorded.
    """

    name: str
    system: str
    protocol: Protocol
    scenario: Scenario
    load: Load
    settings: dict[str, str | int | float] = field(default_factory=dict)
    generator: Generator = "impasto"
    gate: Gate | None = None
    repeats: tuple[Repeat, ...] = ()
    refused: str = ""
    capacity: Capacity | None = None
    loadgen: LoadGenVerdict | None = None

    def spread(self, figure: Callable[[Repeat], float | None]) -> Spread | None:
        """A figure's median, smallest and largest value over the repeats: `run.spread(lambda r: r.latency.p99)`."""
        values = [value for value in map(figure, self.repeats) if value is not None]
        return Spread(statistics.median(values), min(values), max(values)) if values else None

    @property
    def latency(self) -> Histogram:
        """The latencies of all repeats."""
        return Histogram.merged(repeat.latency.histogram for repeat in self.repeats)


@dataclass(frozen=True)
class Result:
    """A file: where, with what and by which command it was measured, and the runs.

    `note` is for readers, such as that the machine is made up; `created` is UTC in ISO 8601.
    """

    created: str
    command: str
    commit: str
    machine: Machine
    models: tuple[Model, ...]
    runs: tuple[Run, ...]
    note: str = ""
    schema: int = SCHEMA


def write_result(result: Result, path: Path) -> None:
    """Write the file, whole or not at all: a reader, or a sweep that is resumed, never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(_plain(dataclasses.asdict(result)), indent=1, allow_nan=False) + "\n")
    part.replace(path)


def read_result(path: Path) -> Result:
    """Read a file. ResultError names what is missing or wrong, or the schema that this version does not read."""
    from pydantic import TypeAdapter, ValidationError

    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ResultError(f"{path}: no JSON: {error}") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise ResultError(f"{path}: schema: found {found!r}; allowed is {SCHEMA}, of files that impasto bench wrote")
    try:
        return TypeAdapter(Result).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        field_name = ".".join(str(part) for part in first["loc"])
        raise ResultError(f"{path}: {field_name}: {first['msg']}") from error


def rank(count: int, percent: float) -> int:
    """Index of a percentile among `count` sorted values, by the nearest rank."""
    return min(count - 1, max(0, math.ceil(count * percent / 100) - 1))


def _plain(value: Any) -> Any:
    """Shorter floats, five digits more than any clock has; infinite and NaN ones, which JSON lacks, as None."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
