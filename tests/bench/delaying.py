"""A gRPC server that answers when it is told to, and writes down how long it took: what a harness is measured by."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from impasto.api.impasto.v1 import generation_pb2 as pb

GENERATE = "impasto.v1.GenerationService"


class Delaying:
    """Each call sleeps as `delay` says, and `seconds` has how long it was under way here, by its seed.

    With `stall_at` the whole server stands still once, for `stall` seconds from then on.
    """

    def __init__(self, delay: Callable[[], float], stall_at: float | None = None, stall: float = 0.0) -> None:
        self.seconds: dict[int, float] = {}
        self._delay = delay
        self._stall_at = stall_at
        self._stall = stall
        self._first: float | None = None
        self._reply = pb.GenerateResponse(pictures=[pb.Picture(seed=1)], timing=pb.Timing(queue_ms=1.0, execute_ms=2.0))

    async def generate(self, request: bytes, context: object) -> bytes:
        began = time.perf_counter()
        self._first = began if self._first is None else self._first
        if self._stall_at is not None and began - self._first >= self._stall_at:
            self._stall_at = None
            time.sleep(self._stall)  # noqa: ASYNC251  # nobody gets an answer meanwhile: that is the point
        await asyncio.sleep(self._delay())
        (seed,) = pb.GenerateRequest.FromString(request).seeds
        self.seconds[seed] = time.perf_counter() - began
        return self._reply.SerializeToString()


@contextmanager
def delaying(server: Delaying) -> Iterator[str]:
    """Serve it from a thread; gives the address."""
    told = threading.Event()
    address, end = "", asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        nonlocal address
        listening = grpc.aio.server()
        handlers = {"Generate": grpc.unary_unary_rpc_method_handler(server.generate)}
        listening.add_registered_method_handlers(GENERATE, handlers)
        address = f"127.0.0.1:{listening.add_insecure_port('127.0.0.1:0')}"
        await listening.start()
        told.set()
        await end.wait()
        await listening.stop(None)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    told.wait()
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


def log_uniform(low: float, high: float, seed: int) -> Callable[[], float]:
    """Delays between two seconds, as likely to be in one octave as in another."""
    rng = random.Random(seed)
    return lambda: float(low * (high / low) ** rng.random())
