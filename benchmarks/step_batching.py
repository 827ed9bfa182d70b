"""Step-level against request-level batching: the same server, model, arrivals and buckets, one after the other.

    python -m benchmarks.step_batching            the demo model starry-ddpm on this CPU

Requests of 4, 20 and 50 steps arrive at Poisson times, at a share of what the server makes when it is always full. Each
call has its own clock, from when it was due. Both ways get the same arrivals, in turns, several times. First checked:
that both make the same picture of a seed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Annotated, Any

import grpc
import typer

from benchmarks.report import show, write
from benchmarks.serving import serving
from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub

MIX = {4: 0.6, 20: 0.25, 50: 0.15}
"""Share of the requests that have so many steps."""
SHORT = min(MIX)
WAYS = {"step by step": "true", "request by request": "false"}
CALLERS = 16


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A request: seconds from the start until it is due, its steps and its seed."""

    due: float
    steps: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Load:
    """What came of one run: latency of each arrival, and the seconds until the last was answered."""

    arrivals: list[Arrival]
    latencies: list[float]
    elapsed: float

    def of(self, steps: int) -> list[float]:
        """Latencies in ms of the requests of so many steps."""
        pairs = zip(self.arrivals, self.latencies, strict=True)
        return [1e3 * seconds for arrival, seconds in pairs if arrival.steps == steps]


def main(
    model: str = "starry-ddpm",
    load: float = 0.85,
    seconds: float = 60.0,
    rounds: int = 3,
    seed: int = 1,
    models: Annotated[Path | None, typer.Option(help="Model directory.")] = None,
) -> None:
    """Offer LOAD of the capacity for SECONDS, ROUNDS times each way."""
    runs: dict[str, list[Load]] = {way: [] for way in WAYS}
    pictures = {}
    capacity = 0.0
    for number in range(rounds):
        for way, steps in WAYS.items():
            with serving(model, f"[batching]\nsteps = {steps}\nmax_queue = 10000\n", models) as (address, _):
                pictures[way], capacity, run = asyncio.run(
                    _visit(address, model, capacity, load, seconds, seed + number)
                )
            runs[way].append(run)
    if len(set(pictures.values())) != 1:
        raise SystemExit("both ways must make the same picture")
    rows = [_row(way, loads) for way, loads in runs.items()]
    show(f"{model}, {load:.0%} of the capacity", rows)
    ratio = rows[1][f"{SHORT} steps p95 ms"] / rows[0][f"{SHORT} steps p95 ms"]
    print(f"p95 of the {SHORT}-step requests: {ratio:.2f} times lower step by step")
    print(f"throughput: {rows[0]['pictures/s'] / rows[1]['pictures/s']:.3f} times that of request by request")
    print(write("step_batching", rows, model=model, load=load, seconds=seconds, capacity=capacity, mix=MIX))


async def _visit(
    address: str, model: str, capacity: float, load: float, seconds: float, seed: int
) -> tuple[bytes, float, Load]:
    """The picture of seed 0, the capacity in model calls per second (measured unless given), and one run."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = GenerationServiceStub(channel)
        picture = (await stub.Generate(_request(model, 20, 0))).pictures[0].data
        capacity = capacity or await _capacity(stub, model, seconds / 4)
        rate = load * capacity / sum(steps * share for steps, share in MIX.items())
        return picture, capacity, await _run(stub, model, _arrivals(rate, seconds, random.Random(seed)))


async def _capacity(stub: Any, model: str, seconds: float) -> float:
    """Model calls per second of a server that always has more than it can run."""
    end, calls = perf_counter() + seconds, 0

    async def caller(index: int) -> None:
        nonlocal calls
        while perf_counter() < end:
            await stub.Generate(_request(model, 20, index))
            calls += 20

    start = perf_counter()
    await asyncio.gather(*(caller(index) for index in range(CALLERS)))
    return calls / (perf_counter() - start)


def _arrivals(rate: float, seconds: float, chance: random.Random) -> list[Arrival]:
    arrivals, due = [], 0.0
    while (due := due + chance.expovariate(rate)) < seconds:
        steps = chance.choices(list(MIX), list(MIX.values()))[0]
        arrivals.append(Arrival(due, steps, chance.randrange(2**32)))
    return arrivals


async def _run(stub: Any, model: str, arrivals: list[Arrival]) -> Load:
    start = perf_counter()

    async def call(arrival: Arrival) -> float:
        await asyncio.sleep(max(0.0, start + arrival.due - perf_counter()))
        await stub.Generate(_request(model, arrival.steps, arrival.seed))
        return perf_counter() - start - arrival.due

    latencies = await asyncio.gather(*(call(arrival) for arrival in arrivals))
    return Load(arrivals, latencies, perf_counter() - start)


def _request(model: str, steps: int, seed: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        model=model, seeds=[seed], format=pb.IMAGE_FORMAT_RAW_UINT8, denoising=pb.Denoising(steps=steps)
    )


def _row(way: str, loads: list[Load]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "batching": way,
        "pictures/s": sum(len(load.arrivals) for load in loads) / sum(load.elapsed for load in loads),
    }
    for steps in MIX:
        latencies = [latency for load in loads for latency in load.of(steps)]
        row[f"{steps} steps p50 ms"] = median(latencies)
        row[f"{steps} steps p95 ms"] = quantiles(latencies, n=20)[18]
    return row


if __name__ == "__main__":
    typer.run(main)
