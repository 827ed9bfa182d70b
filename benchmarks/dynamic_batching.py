"""Dynamic batching under open-loop load: Poisson arrivals at 0.5, 0.8, 0.95 and 1.5 of the measured capacity.

    python -m benchmarks.dynamic_batching            the demo model on this CPU

Capacity is what the server makes in a closed loop of 32 callers. Each load then has its own clock: a call leaves when
it is due, whatever the server does, and its latency counts from then. Reported: pictures per second, latencies, the
batches that formed, how fast rejected calls were answered, and the server's memory before and after.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from statistics import mean, median, quantiles
from time import perf_counter
from typing import Any

import grpc
import psutil
import typer

from benchmarks.report import show, write
from benchmarks.serving import serving
from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub

LOADS = (0.5, 0.8, 0.95, 1.5)
CALLERS = 32
MEBIBYTE = 2**20


@dataclasses.dataclass(frozen=True)
class Call:
    """One call: when it was due, how long it took from then, its status, and the rows of its batch."""

    due: float
    seconds: float
    status: grpc.StatusCode
    batch: int


def main(model: str = "starry", seconds: float = 15.0, max_queue: int = 64, seed: int = 1) -> None:
    """Load the server of MODEL for SECONDS at each rate, with a queue of MAX_QUEUE pictures."""
    with serving(model, f"[batching]\nmax_queue = {max_queue}\n") as (address, process):
        rows = asyncio.run(_measure(address, psutil.Process(process), model, seconds, seed))
    show(f"{model}, open-loop Poisson load", rows)
    capacity, *rates = (row["pictures/s"] for row in rows)
    print(f"throughput under overload is {100 * rates[-1] / max(rates):.1f} % of the peak over the loads,")
    print(f"and {100 * rates[-1] / capacity:.1f} % of a closed loop's, where calls come in step with the batches")
    print(write("dynamic_batching", rows, model=model, seconds=seconds, max_queue=max_queue))


async def _measure(
    address: str, process: psutil.Process, model: str, seconds: float, seed: int
) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = GenerationServiceStub(channel)
        await _closed_loop(stub, model, seconds / 3)
        capacity = await _closed_loop(stub, model, seconds / 2)
        rows = [{"load": "closed", "offered/s": capacity, **_row([], 1.0, process, 0)} | {"pictures/s": capacity}]
        for load in LOADS:
            before = process.memory_info().rss
            calls, elapsed = await _open_loop(stub, model, load * capacity, seconds, rng)
            rows.append({"load": f"{load}", "offered/s": load * capacity, **_row(calls, elapsed, process, before)})
            await asyncio.sleep(1.0)
    return rows


async def _closed_loop(stub: Any, model: str, seconds: float) -> float:
    """Pictures per second of CALLERS callers, each with one call under way."""
    end, made = perf_counter() + seconds, 0

    async def caller(index: int) -> None:
        nonlocal made
        while perf_counter() < end:
            await stub.Generate(_request(model, index))
            made += 1

    start = perf_counter()
    await asyncio.gather(*(caller(index) for index in range(CALLERS)))
    return made / (perf_counter() - start)


async def _open_loop(
    stub: Any, model: str, rate: float, seconds: float, rng: random.Random
) -> tuple[list[Call], float]:
    """Calls that leave at Poisson times, and the seconds until the last accepted one was answered."""
    start, due, tasks = perf_counter(), 0.0, []
    while (due := due + rng.expovariate(rate)) < seconds:
        if (wait := start + due - perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(_call(stub, _request(model, rng.randrange(2**32)), start + due)))
    calls = await asyncio.gather(*tasks)
    answered = [call.due + call.seconds for call in calls if call.status is grpc.StatusCode.OK]
    return calls, max(answered) - start


async def _call(stub: Any, request: pb.GenerateRequest, due: float) -> Call:
    left = perf_counter()
    try:
        reply = await stub.Generate(request)
    except grpc.aio.AioRpcError as error:
        # A rejection is timed from when the call left: how late this client was is not the server's doing.
        return Call(due, perf_counter() - left, error.code(), 0)
    return Call(due, perf_counter() - due, grpc.StatusCode.OK, reply.timing.batch_sizes[0])


def _row(calls: list[Call], elapsed: float, process: psutil.Process, before: int) -> dict[str, Any]:
    good = [call.seconds * 1e3 for call in calls if call.status is grpc.StatusCode.OK]
    rejected = [call.seconds * 1e3 for call in calls if call.status is grpc.StatusCode.RESOURCE_EXHAUSTED]
    others = Counter(call.status.name for call in calls) - Counter(OK=len(good), RESOURCE_EXHAUSTED=len(rejected))
    if others:
        raise SystemExit(f"calls failed: {dict(others)}")
    rss = process.memory_info().rss
    return {
        "pictures/s": len(good) / elapsed,
        "p50 ms": median(good) if good else 0.0,
        "p99 ms": quantiles(good, n=100)[98] if len(good) > 1 else 0.0,
        "batch": mean(call.batch for call in calls if call.batch) if good else 0.0,
        "rejected": len(rejected),
        "rejected p50 ms": median(rejected) if rejected else 0.0,
        "rejected p99 ms": quantiles(rejected, n=100)[98] if len(rejected) > 1 else 0.0,
        "RSS MiB": rss // MEBIBYTE,
        "grown MiB": (rss - before) // MEBIBYTE if before else 0,
    }


def _request(model: str, seed: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(model=model, seeds=[seed], format=pb.IMAGE_FORMAT_RAW_UINT8)


if __name__ == "__main__":
    typer.run(main)
