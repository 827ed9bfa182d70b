"""What a step costs beside the model and the sampler's arithmetic: scheduling, bookkeeping, threads, telling callers.

    python -m benchmarks.step_host_time            the demo model starry-ddpm on this CPU

Served in this process, without gRPC: a batch that is always full, and each step's time less that of the model and of
the sampler's step within it. Then a batch of 32 rows of which neither costs anything, on one thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any
from unittest.mock import patch

import typer

from benchmarks.report import show, write
from impasto.denoising import Denoising
from impasto.engine.diffusion import CPU_ROWS_A_CORE, DiffusionEngine
from impasto.engine.picture import PictureRequest
from impasto.engine.registry import open_engine
from impasto.export.bundle import find_bundle, model_directories, open_bundle
from impasto.sampling.step import step
from impasto.scheduling import StepPolicy
from impasto.server.metrics import ModelMetrics
from impasto.server.stepped import SteppedModel

SAMPLERS = ("dpmpp_2m", "euler_a", "unipc", "ddim")
ROWS = 32
STEPS = 150


class Stopwatch:
    """Seconds within some functions, and how often they were called."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            start = perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += perf_counter() - start
                self.calls += 1

        return timed


def main(
    model: str = "starry-ddpm",
    runs: int = 5,
    models: Annotated[Path | None, typer.Option(help="Model directory.")] = None,
) -> None:
    """Both measurements, each the median of RUNS."""
    path = find_bundle(model, model_directories(models))
    rows = [asyncio.run(_share(path, runs)), asyncio.run(_alone(path, runs))]
    show(f"{model}: a step's time beside the model and the sampler", rows)
    print(write("step_host_time", rows, model=model))


async def _share(path: Path, runs: int) -> dict[str, Any]:
    """The real model, its largest batch full of endless rows."""
    engine = _opened(path, None)
    inner, outer = Stopwatch(), Stopwatch()
    engine._sessions.run = inner.around(engine._sessions.run)  # type: ignore[method-assign]
    engine.step = outer.around(engine.step)  # type: ignore[method-assign]
    served = _served(engine)
    found = []
    with (
        patch("impasto.engine.diffusion.step", inner.around(step)),
        served.submit(_requests(engine.buckets[-1]), progress=True),
    ):
        for _ in range(runs):
            await asyncio.sleep(1.0)
            inner.seconds, outer.calls = 0.0, 0
            start = perf_counter()
            await asyncio.sleep(2.0)
            found.append(((perf_counter() - start) / outer.calls, inner.seconds / outer.calls))
    await served.finish()
    wall, work = (1e6 * median(column) for column in zip(*found, strict=True))
    share = 100 * median((total - part) / total for total, part in found)
    return {"batch": f"{engine.buckets[-1]} rows", "step µs": wall, "beside µs": wall - work, "share %": share}


async def _alone(path: Path, runs: int) -> dict[str, Any]:
    """ROWS rows, a model and a sampler that cost nothing, and no other thread."""
    engine = _opened(path, ROWS // CPU_ROWS_A_CORE)
    output = engine._sessions.run("denoiser", [_row_of(engine)])[0]
    engine._sessions.run = lambda graph, rows: [output] * len(rows)  # type: ignore[method-assign]
    served = _served(engine)
    pending: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []

    def later(work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        served._busy = True
        pending.append((work, then))

    served._on_thread = later  # type: ignore[method-assign]
    found = []
    with (
        patch("impasto.engine.diffusion.step", lambda *arguments, **options: None),
        served.submit(_requests(ROWS), progress=True) as job,
    ):
        for _ in range(runs):
            start = perf_counter()
            for _ in range(STEPS):
                work, then = pending.pop()
                result = work()
                served._busy = False
                then(result)
            found.append((perf_counter() - start) / STEPS)
            job._ready.clear()
    return {
        "batch": f"{ROWS} rows, no model",
        "step µs": 1e6 * median(found),
        "beside µs": 1e6 * median(found),
        "share %": 100.0,
    }


def _opened(path: Path, threads: int | None) -> DiffusionEngine:
    engine = open_engine(open_bundle(path), threads=threads)
    assert isinstance(engine, DiffusionEngine)
    engine.warm_up()
    return engine


def _served(engine: DiffusionEngine) -> SteppedModel:
    policy = StepPolicy(buckets=engine.buckets, slots=engine.slots)
    threads = [ThreadPoolExecutor(1) for _ in range(2)]
    return SteppedModel(engine, policy, thread=threads[0], encoders=threads[1], metrics=ModelMetrics())


def _requests(count: int) -> Sequence[PictureRequest]:
    """Rows of several samplers with more steps than a measurement makes."""
    return [PictureRequest(seed, denoising=Denoising(sampler=SAMPLERS[seed % 4], steps=900)) for seed in range(count)]


def _row_of(engine: DiffusionEngine) -> dict[str, Any]:
    """A row that the denoiser takes."""
    slot = 0
    engine.start(slot, _requests(1)[0])
    state = engine._running[slot]
    return {**state.feeds[0], "timestep": state.walk.timesteps[0]}


if __name__ == "__main__":
    typer.run(main)
