"""MLPerf LoadGen as the generator: its arrivals, its rules and its verdict, on any target.

LoadGen decides when a query is issued and judges the run by its own log. Its rules are those of MLPerf Inference with
the run's length and the latency limit scaled to the machine; the log folder says by how much.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from impasto.bench.drive import Call
from impasto.bench.result import Load, LoadGenVerdict, MixEntry
from impasto.bench.target import Answer, Target
from impasto.bench.traffic import Order
from impasto.errors import BackendUnavailable, ImpastoError, InvalidRequest
from impasto.installing import install_command

LoadGenScenario = Literal["single", "multi", "server", "offline"]
SCENARIOS: dict[LoadGenScenario, str] = {
    "single": "SingleStream",
    "multi": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
SAMPLES = 256
"""Seeds that LoadGen draws from: its data set."""
SUMMARY = "mlperf_log_summary.txt"
RULE_SECONDS = 600.0
"""How long a run of MLPerf Inference takes at least."""
RULE_LATENCY_MS = 20_000.0
"""The Server scenario's limit on p99 for SDXL, the last image generator of MLPerf Inference (to v5.1)."""
README = """\
MLPerf LoadGen's own logs of one run, scenario {scenario}.

Its default rules, scaled to this machine:
- at least {seconds:g} s instead of {rule_seconds:g} s;
{latency}- {samples} samples, which are seeds of pictures, instead of a data set's prompts;
- of Offline's one query at most {in_flight} samples are under way, the rest wait in the client: a server's queue ends.
Percentiles, early stopping and the smallest number of queries are LoadGen's own.
"""


@dataclass(frozen=True)
class LoadGenRun:
    """LoadGen's verdict, and the calls as this harness saw them: due when LoadGen issued them."""

    verdict: LoadGenVerdict
    calls: list[Call]


def run_loadgen(
    target: Target,
    scenario: LoadGenScenario,
    load: Load,
    folder: Path,
    *,
    expected_rate: float,
    in_flight: int = 32,
) -> LoadGenRun:
    """Have LoadGen drive the target with the load's only entry, and write its logs to `folder`.

    `load.rate` is the Server scenario's rate; `expected_rate` what the target is thought to reach, by which LoadGen
    sizes Offline's one query. BackendUnavailable without LoadGen; InvalidRequest for a mix.
    """
    try:
        lg = importlib.import_module("mlperf_loadgen")  # it has no types
    except ImportError as error:
        raise BackendUnavailable(f"MLPerf LoadGen: {error}; remedy: {install_command('bench')}") from error
    if len(load.mix) != 1 or load.seconds is None:
        raise InvalidRequest("mix", f"{len(load.mix)} kinds", "one, and a run's length, with MLPerf LoadGen")
    folder.mkdir(parents=True, exist_ok=True)
    issuer = _Issuer(lg, target, load.mix[0], in_flight if scenario == "offline" else None)
    sut = lg.ConstructSUT(issuer.issue, lambda: None)
    qsl = lg.ConstructQSL(SAMPLES, SAMPLES, lambda indices: None, lambda indices: None)
    outputs = lg.LogOutputSettings()
    outputs.outdir = str(folder)
    outputs.copy_summary_to_stdout = False
    logs = lg.LogSettings()
    logs.log_output = outputs
    logs.enable_trace = False
    try:
        lg.StartTestWithLogSettings(sut, qsl, _settings(lg, scenario, load, expected_rate), logs, "")
    finally:
        issuer.close()
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
    limit = load.latency_limit_ms
    latency = (
        f"- p99 within {limit:g} ms instead of {RULE_LATENCY_MS:g} ms;\n" if limit and scenario == "server" else ""
    )
    (folder / "README.txt").write_text(
        README.format(
            scenario=SCENARIOS[scenario],
            seconds=load.seconds,
            rule_seconds=RULE_SECONDS,
            latency=latency,
            samples=SAMPLES,
            in_flight=in_flight,
        )
    )
    return LoadGenRun(read_summary((folder / SUMMARY).read_text()), issuer.calls)


def read_summary(text: str) -> LoadGenVerdict:
    """The verdict in LoadGen's summary, with its figures and settings by the names that it has for them.

    ImpastoError if there is none.
    """
    pairs = [
        (key.strip(" *"), value.strip()) for line in text.splitlines() for key, colon, value in [line.partition(":")]
    ]
    values = {key: value for key, value in pairs if value}
    if "Result is" not in values:
        raise ImpastoError("MLPerf LoadGen: its summary has no line 'Result is'")
    reasons = tuple(f"{key}: {value}" for key, value in values.items() if value.upper() == "NO")
    advice = tuple(line.strip(" *") for line in text.splitlines() if line.startswith(" * "))
    return LoadGenVerdict(values.pop("Result is"), (*reasons, *advice) if reasons else (), values)


def _settings(lg: Any, scenario: LoadGenScenario, load: Load, expected_rate: float) -> Any:
    """LoadGen's defaults, with length, rate and limit of the load."""
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, SCENARIOS[scenario])
    settings.mode = lg.TestMode.PerformanceOnly
    assert load.seconds is not None
    settings.min_duration_ms = round(load.seconds * 1e3)
    expected_ms = 1e3 / expected_rate
    match scenario:
        case "single":
            settings.single_stream_expected_latency_ns = round(expected_ms * 1e6)
        case "multi":
            per_query = settings.multi_stream_samples_per_query
            settings.multi_stream_expected_latency_ns = round(per_query * expected_ms * 1e6)
        case "server":
            if load.rate is None or load.latency_limit_ms is None:
                raise InvalidRequest("rate", "no rate or no latency limit", "both in the server scenario of LoadGen")
            settings.server_target_qps = load.rate
            settings.server_target_latency_ns = round(load.latency_limit_ms * 1e6)
        case "offline":
            # LoadGen makes the query a tenth longer than this rate needs; a system that is faster would end too soon.
            settings.offline_expected_qps = expected_rate * 1.2
    return settings


class _Issuer:
    """Sends what LoadGen issues, and tells it of every answer, a failed one too: the calls know which failed."""

    def __init__(self, lg: Any, target: Target, entry: MixEntry, in_flight: int | None) -> None:
        self.calls: list[Call] = []
        self._lg = lg
        self._target = target
        self._entry = entry
        self._places = None if in_flight is None else threading.Semaphore(in_flight)
        self._line: SimpleQueue[tuple[int, Call] | None] = SimpleQueue()
        self._sender = threading.Thread(target=self._send_line, name="impasto-bench-loadgen", daemon=True)
        self._sender.start()

    def issue(self, samples: Iterable[Any]) -> None:
        """LoadGen's callback: one query's samples."""
        now = time.perf_counter()
        for sample in samples:
            call = Call(Order(0.0, self._entry, sample.index), now)
            self.calls.append(call)
            if self._places is None:
                self._send(sample.id, call)
            else:
                self._line.put((sample.id, call))

    def close(self) -> None:
        """All has been answered."""
        self._line.put(None)
        self._sender.join()

    def _send_line(self) -> None:
        while (item := self._line.get()) is not None:
            sample_id, call = item
            if self._places is not None:
                self._places.acquire()
                call.due = time.perf_counter()  # it waited for its turn here, which is nobody's latency
            self._send(sample_id, call)

    def _send(self, sample_id: int, call: Call) -> None:
        def done(answer: Answer) -> None:
            call.answered = time.perf_counter()
            call.answer = answer
            if self._places is not None:
                self._places.release()
            self._lg.QuerySamplesComplete([self._lg.QuerySampleResponse(sample_id, 0, 0)])

        call.sent = time.perf_counter()
        self._target.send(call.order, done)
