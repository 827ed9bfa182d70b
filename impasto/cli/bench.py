"""`impasto bench`."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal, Self

import typer

from impasto.cli.generate import Noise
from impasto.cli.terminal import Backend, Device, Json, Models, Precision, Threads, console, print_json, print_table

if TYPE_CHECKING:
    from impasto.bench.result import Repeat, Run


class Scenario(enum.StrEnum):
    """How requests come."""

    single = "single"
    multi = "multi"
    server = "server"
    offline = "offline"
    closed = "closed"


def bench(
    model: Annotated[str, typer.Argument(help="A model's name; for a mix, that of requests which name none.")],
    more_axes: Annotated[list[str] | None, typer.Argument(metavar="AXIS=A,B", hidden=True)] = None,
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Load a server; else in this process.")
    ] = None,
    protocol: Annotated[
        Literal["impasto", "oip"], typer.Option(help="With --server: Impasto's own, or the Open Inference Protocol.")
    ] = "impasto",
    scenario: Annotated[
        Scenario,
        typer.Option(
            help="server: arrivals at --rate, whatever is answered; offline: as many as fit; closed: --concurrency "
            "callers; single: one caller; multi: one caller, 8 pictures each."
        ),
    ] = Scenario.server,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Requests/s of the server scenario.")] = None,
    latency_limit: Annotated[
        float | None,
        typer.Option(metavar="MS", help="Goodput counts within it; without --rate, find the highest rate within it."),
    ] = None,
    percentile: Annotated[float, typer.Option(min=1, max=100, help="Of latencies, within --latency-limit.")] = 99.0,
    arrivals: Annotated[Literal["poisson", "constant"], typer.Option(help="Of the server scenario.")] = "poisson",
    trace: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Replay recorded requests.")] = None,
    save_trace: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Write the first repeat's requests, for --trace.")
    ] = None,
    mix: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Kinds of requests by weight.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a request.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Of a diffusion model.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Callers of the closed and offline scenarios.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each repeat.")] = 10.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of load before the first one, not measured.")] = 2.0,
    repeats: Annotated[int, typer.Option(min=1, help="Medians and spreads are over them.")] = 5,
    loadgen: Annotated[bool, typer.Option("--loadgen", help="Have MLPerf LoadGen make the load and judge it.")] = False,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=A,B ..", help="Every combination: batch=1,2,4 precision=fp32,fp16 rate=5,10 .."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the result; a sweep goes on where it stopped.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the traffic.")] = 0,
    noise: Annotated[Noise | None, typer.Option(help="Noise maps: stored, from the seed, or none.")] = None,
    note: Annotated[str, typer.Option(help="For readers of the result.")] = "",
    models: Models = None,
    backend: Backend = None,
    precision: Precision = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Load a server or an engine, and measure rates and latencies; pictures are checked against fp32 first."""
    from impasto.bench.session import Options, points, run_session

    options = Options(
        model,
        server=server,
        protocol=protocol,
        scenario=scenario.value,
        rate=rate,
        latency_limit_ms=latency_limit,
        percentile=percentile,
        arrivals=arrivals,
        trace=trace,
        save_trace=save_trace,
        mix=mix,
        batch=batch,
        steps=steps,
        concurrency=concurrency,
        seconds=seconds,
        warm_up=warm_up,
        repeats=repeats,
        loadgen=loadgen,
        sweep=(*(sweep or ()), *(more_axes or ())),
        seed=seed,
        note=note,
        models=models,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        noise_mode=None if noise is None else noise.value,
    )
    with _Bar(sum(point.spec.seconds for point in points(options))) as bar:
        result = run_session(options, out, on_run=bar.begin, progress=bar.at)
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        print_table(_HEADS, [_row(run) for run in result.runs])
        if out is not None:
            typer.echo(out)
    if any(run.refused for run in result.runs):
        raise typer.Exit(1)


_HEADS = ("run", "images/s", "p50 ms", "p99 ms", "p99.9 ms", "goodput/s", "batch", "CPU ms/request", "remarks")


class _Bar:
    """How far the runs are and how long the rest takes, where somebody watches; else a line for each."""

    def __init__(self, seconds: float) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._terminal = console()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        shown = self._terminal.is_terminal
        self._progress = Progress(*columns, console=self._terminal, transient=True, disable=not shown)
        self._task = self._progress.add_task("", total=seconds)

    def begin(self, name: str) -> None:
        """The run of that name begins."""
        self._progress.update(self._task, description=name)
        if not self._terminal.is_terminal:
            self._terminal.print(name)

    def at(self, seconds: float) -> None:
        """So many seconds of load are behind us."""
        self._progress.update(self._task, completed=seconds)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()


def _row(run: Run) -> list[str]:
    """Medians over the repeats."""

    def cell(figure: Callable[[Repeat], float | None]) -> str:
        spread = run.spread(figure)
        return "-" if spread is None else f"{spread.median:.4g}"

    remarks = [run.refused] if run.refused else []
    if run.capacity is not None and run.capacity.rate:
        limit = f"p{run.capacity.percentile:g} within {run.capacity.latency_limit_ms:g} ms"
        remarks.append(f"{run.capacity.rate:.4g} requests/s meet {limit}")
    if run.loadgen is not None:
        remarks.append(f"LoadGen: {'; '.join((run.loadgen.result, *run.loadgen.reasons))}")
    return [
        run.name,
        cell(lambda repeat: repeat.images_per_second),
        cell(lambda repeat: repeat.latency.p50),
        cell(lambda repeat: repeat.latency.p99),
        cell(lambda repeat: repeat.latency.p99_9),
        cell(lambda repeat: repeat.goodput_per_second),
        cell(_mean_batch),
        cell(lambda repeat: repeat.server.cpu_ms_per_request if repeat.server else None),
        "; ".join(remarks),
    ]


def _mean_batch(repeat: Repeat) -> float | None:
    executions = sum(repeat.batch_sizes.values())
    return sum(size * count for size, count in repeat.batch_sizes.items()) / executions if executions else None
