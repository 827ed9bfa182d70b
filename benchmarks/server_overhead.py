"""What the server itself costs: the `null` model against a bare grpc.aio server that returns the same bytes.

    python -m benchmarks.server_overhead

The bare server answers every call with one ready-made reply, so that it parses nothing, queues nothing and copies
nothing. Each server has its process; one client asks both in turns, in a closed loop, raw pictures, and checks that
the replies are equal before any time is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import grpc
import typer

from benchmarks.report import show, write
from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.engine.null import write_null_bundle
from impasto.server.config import load_config
from impasto.server.server import run

GENERATE = "/impasto.v1.GenerationService/Generate"
SIDES = (64, 512)
CONCURRENCIES = (1, 8, 32)
WANTED_THROUGHPUT, WANTED_P50 = 0.6, 1.6
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def main(rounds: int = 5, seconds: float = 2.0) -> None:
    """Take `rounds` rounds of `seconds` of each server at every size and concurrency; medians are compared."""
    rows = asyncio.run(_measure_all(rounds, seconds))
    show("null model against a bare grpc.aio server", rows)
    print(write("server_overhead", rows, rounds=rounds, seconds=seconds))


async def _measure_all(rounds: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            write_null_bundle(Path(folder), f"null{side}", side, side)
        with _process(_serve_impasto, folder) as address:
            for side in SIDES:
                request = pb.GenerateRequest(model=f"null{side}", seeds=[7], format=pb.IMAGE_FORMAT_RAW_UINT8)
                reply = await _reply(address, request.SerializeToString())
                with _process(_serve_bare, reply.SerializeToString()) as bare:
                    rows += [await _compare(address, bare, request, side, c, rounds, seconds) for c in CONCURRENCIES]
    return rows


async def _compare(
    impasto: str, bare: str, request: pb.GenerateRequest, side: int, concurrency: int, rounds: int, seconds: float
) -> dict[str, Any]:
    payload = request.SerializeToString()
    ours, theirs = await _reply(impasto, payload), await _reply(bare, payload)
    if ours.pictures != theirs.pictures:
        raise SystemExit("the two servers do not give the same picture; no time is taken")
    latencies: dict[str, list[list[float]]] = {impasto: [], bare: []}
    for _ in range(rounds):
        for address, taken in latencies.items():
            taken.append(await _closed_loop(address, payload, concurrency, seconds))
    rate = {address: median(len(taken) / seconds for taken in rounds_) for address, rounds_ in latencies.items()}
    p50 = {address: median(median(taken) for taken in rounds_) for address, rounds_ in latencies.items()}
    p99 = {address: median(quantiles(taken, n=100)[98] for taken in rounds_) for address, rounds_ in latencies.items()}
    return {
        "side": side,
        "concurrency": concurrency,
        "impasto/s": rate[impasto],
        "bare/s": rate[bare],
        "throughput": rate[impasto] / rate[bare],
        f"≥ {WANTED_THROUGHPUT}": rate[impasto] / rate[bare] >= WANTED_THROUGHPUT,
        "impasto p50 ms": p50[impasto] * 1e3,
        "bare p50 ms": p50[bare] * 1e3,
        "p50": p50[impasto] / p50[bare],
        f"≤ {WANTED_P50}": p50[impasto] / p50[bare] <= WANTED_P50,
        "impasto p99 ms": p99[impasto] * 1e3,
        "bare p99 ms": p99[bare] * 1e3,
    }


async def _closed_loop(address: str, payload: bytes, concurrency: int, seconds: float) -> list[float]:
    """Seconds of every call of `concurrency` callers, each with one call under way."""
    taken: list[float] = []
    async with _caller(address) as call:
        for _ in range(3):
            await asyncio.gather(*(call(payload) for _ in range(concurrency)))
        end = perf_counter() + seconds

        async def caller() -> None:
            while (start := perf_counter()) < end:
                await call(payload)
                taken.append(perf_counter() - start)

        await asyncio.gather(*(caller() for _ in range(concurrency)))
    return taken


async def _reply(address: str, payload: bytes) -> pb.GenerateResponse:
    async with _caller(address) as call:
        return pb.GenerateResponse.FromString(await call(payload))


@contextlib.asynccontextmanager
async def _caller(address: str) -> AsyncIterator[Any]:
    """The bytes of a Generate call: neither server's reply is parsed while the clock runs."""
    async with grpc.aio.insecure_channel(address, OPTIONS) as channel:
        yield channel.unary_unary(GENERATE)


@contextlib.contextmanager
def _process(target: Any, argument: Any) -> Iterator[str]:
    """Run `target(argument, report)` in a process of its own; the address that it reports."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(argument, sender), daemon=True)
    process.start()
    try:
        yield receiver.recv()
    finally:
        process.terminate()
        process.join()


def _serve_impasto(models: str, report: Any) -> None:
    names = tuple(f"null{side}" for side in SIDES)
    overrides = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0", "models": (models,), "load": names}
    run(load_config(None, overrides), on_ready=lambda server: report.send(server.address))


def _serve_bare(reply: bytes, report: Any) -> None:
    async def generate(request: bytes, context: object) -> bytes:
        return reply

    async def run() -> None:
        server = grpc.aio.server(options=OPTIONS)
        service, _, method = GENERATE[1:].partition("/")
        handlers: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(generate)}
        server.add_registered_method_handlers(service, handlers)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        report.send(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    asyncio.run(run())


if __name__ == "__main__":
    typer.run(main)
