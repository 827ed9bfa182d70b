"""What `impasto bench` does: the runs of one command, or of a sweep that may have begun earlier, into one result."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from impasto.bench.grpc_target import ImpastoWire, InferenceWire, Wire, open_server
from impasto.bench.in_process import open_in_process
from impasto.bench.machine import commit, machine
from impasto.bench.priority import ahead_of_others
from impasto.bench.result import Load, MixEntry, Model, Result, Run, Scenario, read_result, write_result
from impasto.bench.runner import MULTI_STREAM, Spec, run
from impasto.bench.sweep import OF_THE_SYSTEM, Settings, combinations, parse_axes
from impasto.bench.target import Target
from impasto.bench.traffic import Order, orders, read_mix, read_trace, write_trace
from impasto.errors import InvalidRequest
from impasto.generation import NoiseMode

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    model: str
    server: str | None = None
    protocol: Literal["impasto", "oip"] = "impasto"
    scenario: Scenario = "server"
    rate: float | None = None
    latency_limit_ms: float | None = None
    percentile: float = 99.0
    arrivals: Literal["poisson", "constant"] = "poisson"
    trace: Path | None = None
    save_trace: Path | None = None
    mix: Path | None = None
    batch: int = 1
    steps: int | None = None
    concurrency: int = 32
    seconds: float = 10.0
    warm_up: float = 2.0
    repeats: int = 5
    loadgen: bool = False
    sweep: tuple[str, ...] = ()
    seed: int = 0
    note: str = ""
    models: Path | None = None
    backend: str | None = None
    precision: str | None = None
    device: str = "cpu"
    threads: int | None = None
    noise_mode: NoiseMode | None = None


@dataclass(frozen=True)
class Point:
    """A run to make: what of the system is set for it, and the load."""

    system: Settings
    spec: Spec


def points(options: Options) -> list[Point]:
    """The runs that the options ask for. InvalidRequest for options that do not go together."""
    axes = parse_axes(options.sweep)
    if fixed := [axis for axis in axes if axis in OF_THE_SYSTEM and options.server]:
        raise InvalidRequest("sweep", fixed[0], "with --server, axes of requests: batch, steps, rate, concurrency")
    if options.server and (options.backend or options.precision or options.threads or options.device != "cpu"):
        raise InvalidRequest("server", "backend, precision, device or threads", "none of them: the server has its own")
    if options.trace and (options.mix or options.rate is not None or axes):
        raise InvalidRequest("trace", "a trace beside a mix, a rate or a sweep", "a trace alone")
    trace = tuple(read_trace(options.trace, options.model)) if options.trace else ()
    wanted = [_point(options, values, trace) for values in combinations(axes)]
    if options.save_trace and (len(wanted) > 1 or wanted[0].spec.load.rate is None):
        raise InvalidRequest("save_trace", "a sweep, or no rate", "one run of the server scenario at a rate")
    return wanted


def run_session(
    options: Options,
    out: Path | None,
    *,
    on_run: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda _: None,
) -> Result:
    """Make the runs that `out` does not have yet, and write it after each, so that a later call goes on from there.

    `on_run` gets each run's name as it begins, `progress` the seconds of load behind it (see `Spec.seconds`).
    InvalidRequest if `out` has runs of another commit, machine or model.
    """
    wanted = points(options)
    if options.save_trace:
        write_trace(options.save_trace, orders(wanted[0].spec.load))
    with ExitStack() as stack:
        references = _References(options, stack)
        result = _begun(options, out, references)
        done, passed = {found.name: found for found in result.runs}, 0.0
        for system, group in _by_system(wanted):
            with _target(options, system) as target:
                for point in group:
                    name = point.spec.name(target)
                    on_run(name)
                    if name in done:
                        _require_same(done[name], point.spec, out)
                    else:
                        spec = dataclasses.replace(point.spec, logs=_logs(out, name, stack))
                        found = run(target, references, spec, _after(passed, progress))
                        result = dataclasses.replace(result, runs=(*result.runs, found))
                        if out is not None:
                            write_result(result, out)
                    passed += point.spec.seconds
                    progress(passed)
    return result


def _after(passed: float, progress: Progress) -> Progress:
    """Progress of one run as that of the session, so many seconds into it."""
    return lambda seconds: progress(passed + seconds)


class _References:
    """The fp32 reference of each model, opened when its first picture is asked for and closed with the session."""

    def __init__(self, options: Options, stack: ExitStack) -> None:
        self._options = options
        self._stack = stack
        self._open: dict[str, Target] = {}

    def __call__(self, model: str) -> Target:
        if model not in self._open:
            target = open_in_process(model, models=self._options.models, noise_mode=self._options.noise_mode)
            self._open[model] = self._stack.enter_context(target)
        return self._open[model]


def _point(options: Options, values: Settings, trace: tuple[Order, ...]) -> Point:
    chosen = {name: value for name in OF_THE_SYSTEM if (value := getattr(options, name)) not in (None, "cpu")}
    values = {**chosen, **values}
    system = {name: value for name, value in values.items() if name in OF_THE_SYSTEM}
    given = {name: value for name, value in values.items() if name not in OF_THE_SYSTEM}
    batch = MULTI_STREAM if options.scenario == "multi" and not options.loadgen else options.batch
    entry = MixEntry(options.model, batch=batch, steps=options.steps)
    mix = read_mix(options.mix, options.model) if options.mix else (entry,)
    if trace:
        mix = tuple(dict.fromkeys(order.entry for order in trace))
    for name in ("batch", "steps", "width", "height"):
        if name in given:
            changed: dict[str, Any] = {name: int(given[name])}
            mix = tuple(dataclasses.replace(kind, **changed) for kind in mix)
    rate = float(given.get("rate", options.rate or 0.0)) or None
    if options.scenario == "server" and rate is None and options.latency_limit_ms is None and not trace:
        raise InvalidRequest("rate", "none", "requests/s, or --latency-limit to find the highest rate that meets it")
    if options.scenario != "server" and (rate is not None or trace):
        raise InvalidRequest("rate", "a rate or a trace", f"none: the scenario {options.scenario} sets its own pace")
    if options.loadgen and (trace or options.mix or options.scenario == "closed"):
        raise InvalidRequest("loadgen", "a trace, a mix or the scenario closed", "LoadGen's own scenarios and traffic")
    callers = {"single": 1, "multi": 1, "offline": options.concurrency, "closed": options.concurrency, "server": None}
    concurrency = callers[options.scenario]
    if "concurrency" in given and concurrency is not None:
        concurrency = int(given["concurrency"])
    pace = {"server": "trace" if trace else options.arrivals, "offline": "at-once", "closed": "closed"}
    load = Load(
        arrivals=pace.get(options.scenario, "one-by-one"),  # type: ignore[arg-type]
        mix=mix,
        seconds=None if trace else options.seconds,
        requests=len(trace) or None,
        rate=rate,
        concurrency=concurrency,
        latency_limit_ms=options.latency_limit_ms,
        seed=options.seed,
    )
    spec = Spec(
        options.scenario,
        load,
        repeats=options.repeats,
        warm_up=options.warm_up,
        settings=values,
        generator="mlperf-loadgen" if options.loadgen else "impasto",
        percentile=options.percentile,
        trace=trace,
        gpu=_gpu(options.device),
    )
    return Point(system, spec)


def _by_system(wanted: list[Point]) -> Iterator[tuple[Settings, list[Point]]]:
    """The runs of each system together, so that every engine is opened once."""
    left = list(wanted)
    while left:
        system = left[0].system
        yield system, [point for point in left if point.system == system]
        left = [point for point in left if point.system != system]


@contextmanager
def _target(options: Options, system: Settings) -> Iterator[Target]:
    if options.server:
        noise_mode = options.noise_mode
        wire: Wire = ImpastoWire(noise_mode) if options.protocol == "impasto" else InferenceWire(noise_mode)
        with ahead_of_others(), open_server(options.server, options.model, wire) as server:
            yield server
        return
    threads = system.get("threads")
    with open_in_process(
        options.model,
        models=options.models,
        backend=_word(system.get("backend")),
        precision=_word(system.get("precision")),
        device=str(system.get("device", "cpu")),
        threads=None if threads is None else int(threads),
        noise_mode=options.noise_mode,
    ) as engine:
        yield engine


def _begun(options: Options, out: Path | None, references: _References) -> Result:
    """The result so far: what is in `out` if that is of the same model, commit and machine."""
    model: Model = references(options.model).model(options.model)
    here, now = machine(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    fresh = Result(now, " ".join(["impasto", *sys.argv[1:]]), commit(), here, (model,), (), options.note)
    if out is None or not out.exists():
        return fresh
    found = read_result(out)
    for what, one, other in (
        ("commit", found.commit, fresh.commit),
        ("machine", found.machine.title, here.title),
        ("model", [other.digest[:12] for other in found.models], [model.digest[:12]]),
    ):
        if one != other:
            raise InvalidRequest(f"out {out}: {what}", one, f"{other}, as it is now; remove the file or name another")
    return found


def _require_same(found: Run, wanted: Spec, out: Path | None) -> None:
    """Raise InvalidRequest if a run that is there already was of another length, limit or seed."""
    if dataclasses.replace(found.load, rate=wanted.load.rate) != wanted.load:
        raise InvalidRequest(
            f"out {out}: run {found.name}", found.load, "the same load; remove the file or name another"
        )


def _logs(out: Path | None, name: str, stack: ExitStack) -> Path:
    """Where LoadGen writes: beside the result, or nowhere that stays."""
    if out is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="impasto-bench-")))
    return out.with_name(f"{out.stem}-loadgen") / re.sub(r"[^A-Za-z0-9.=]+", "-", name)


def _gpu(device: str) -> int | None:
    kind, _, index = device.partition(":")
    with contextlib.suppress(ValueError):
        return int(index or 0) if kind == "cuda" else None
    return None


def _word(value: str | int | float | None) -> str | None:
    return None if value is None else str(value)
