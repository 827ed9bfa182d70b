"""Ten thousand requests, one in ten bad and one in ten cancelled: every good one is answered, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.engine.null import GREY, NullEngine
from impasto.engine.picture import PictureRequest
from impasto.export.bundle import open_bundle
from impasto.images import encode
from impasto.server.config import MEBIBYTE
from impasto.server.host import LoadedModel
from tests.support.inference import connected, serving
from tests.support.waiting import until

WARM_UP, REQUESTS, CONCURRENCY = 2_000, 10_000, 64
SEEDS = range(200)
GROWTH = 20 * MEBIBYTE
HANG_SECONDS = 1500.0
RAW, PNG = pb.IMAGE_FORMAT_RAW_UINT8, pb.IMAGE_FORMAT_PNG
STATUS = grpc.StatusCode

BAD: list[tuple[pb.GenerateRequest, STATUS]] = [
    (pb.GenerateRequest(model="no-such-model", seeds=[1]), STATUS.NOT_FOUND),
    (pb.GenerateRequest(model="null"), STATUS.INVALID_ARGUMENT),
    (pb.GenerateRequest(model="null", seeds=[-1]), STATUS.INVALID_ARGUMENT),
    (pb.GenerateRequest(model="null", seeds=[1], count=0), STATUS.INVALID_ARGUMENT),
    (pb.GenerateRequest(model="null", seeds=[1], count=10_000), STATUS.INVALID_ARGUMENT),
    (pb.GenerateRequest(model="null", seeds=[1], psi=float("nan")), STATUS.INVALID_ARGUMENT),
    (pb.GenerateRequest(model="null", seeds=[1], format=99), STATUS.INVALID_ARGUMENT),
    (pb.GenerateRequest(model="null", seeds=[1], priority=9), STATUS.INVALID_ARGUMENT),
    (pb.GenerateRequest(model="null", z=[pb.Latent(values=[0.0] * 4)]), STATUS.INVALID_ARGUMENT),
    (pb.GenerateRequest(model="x" * 5_000, seeds=[1]), STATUS.INVALID_ARGUMENT),
    (pb.GenerateRequest(model="null", seeds=[1], version="9"), STATUS.NOT_FOUND),
]


@dataclass
class Visitors:
    """Callers of one server, and what came of their calls."""

    stub: Any
    pngs: list[bytes]
    """The right file for each seed."""
    random: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)

    async def visit(self, requests: int) -> None:
        """Make so many requests, 8 in 10 good, 1 bad and 1 cancelled, CONCURRENCY of them at a time."""
        kinds = iter(
            [self.random.choices([self._good, self._bad, self._cancelled], [8, 1, 1])[0] for _ in range(requests)]
        )
        async with asyncio.TaskGroup() as visitors:
            for _ in range(CONCURRENCY):
                visitors.create_task(self._visits(kinds))

    async def _visits(self, kinds: Iterator[Callable[[], Awaitable[str]]]) -> None:
        for call in kinds:
            self.outcomes[await call()] += 1

    def _request(self, most: int) -> pb.GenerateRequest:
        seeds = self.random.choices(SEEDS, k=self.random.randint(1, most))
        return pb.GenerateRequest(model="null", seeds=seeds, format=self.random.choice([RAW, PNG]))

    def _check(self, request: pb.GenerateRequest, reply: pb.GenerateResponse) -> None:
        assert [picture.seed for picture in reply.pictures] == list(request.seeds)
        for picture in reply.pictures:
            assert picture.data == (self.pngs[picture.seed] if request.format == PNG else bytes([GREY]) * (64 * 64 * 3))

    async def _good(self) -> str:
        request = self._request(3)
        self._check(request, await self.stub.Generate(request))
        return "good"

    async def _bad(self) -> str:
        request, status = self.random.choice(BAD)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.stub.Generate(request)
        assert refused.value.code() is status
        return "bad"

    async def _cancelled(self) -> str:
        """A request that is cancelled after a while, which may be too late."""
        return await self.random.choice([self._cancelled_call, self._cancelled_stream])()

    async def _cancelled_call(self) -> str:
        request = self._request(8)
        call = self.stub.Generate(request)
        await asyncio.sleep(self.random.choice([0.0, 0.001, 0.005]))
        call.cancel()
        try:
            self._check(request, await call)
        except asyncio.CancelledError:
            return "cancelled"
        return "too late"

    async def _cancelled_stream(self) -> str:
        call = self.stub.GenerateStream(self._request(8))
        for _ in range(self.random.randint(0, 3)):
            await call.read()
        return "cancelled" if call.cancel() else "too late"


@dataclass(frozen=True)
class Footprint:
    """What this process, which is client and server, holds on to."""

    tasks: int
    files: int
    memory: int

    @classmethod
    def now(cls) -> Footprint:
        gc.collect()
        process = psutil.Process()
        return cls(len(asyncio.all_tasks()), process.num_fds(), process.memory_info().rss)


def right_pngs(models: Path) -> list[bytes]:
    """The files that the library itself writes for SEEDS."""
    engine = NullEngine(open_bundle(models / "null" / "1"))
    requests = [PictureRequest(seed) for seed in SEEDS]
    pixels = engine.run(requests)
    return [encode(p.array, "png", engine.describe(r)) for p, r in zip(pixels, requests, strict=True)]


async def settled(model: LoadedModel, tasks: int) -> None:
    """Return when nothing waits or runs, and no more tasks than these are left."""

    async def idle() -> bool:
        return not model.in_flight and not model.queue_length and len(asyncio.all_tasks()) <= tasks

    await until(idle)


@pytest.mark.slow
async def test_ten_thousand_requests_are_answered_and_leave_nothing_behind(null_models: Path) -> None:
    settings: dict[str, Any] = {"batching": {"max_queue": 10_000}}
    async with (
        asyncio.timeout(HANG_SECONDS),
        serving(null_models, "null", **settings) as server,
        connected(server) as channel,
    ):
        model, stub = server.host.get("null"), GenerationServiceStub(channel)
        pngs = right_pngs(null_models)
        await stub.Generate(pb.GenerateRequest(model="null", seeds=[1]))
        idle = len(asyncio.all_tasks())
        await Visitors(stub, pngs, random.Random(1)).visit(WARM_UP)
        await settled(model, idle)
        before = Footprint.now()

        visitors = Visitors(stub, pngs, random.Random(2))
        await visitors.visit(REQUESTS)
        await settled(model, idle)
        after = Footprint.now()

    counted = visitors.outcomes
    assert counted.total() == REQUESTS
    assert counted["good"] > 0.75 * REQUESTS
    assert counted["bad"] > 0.08 * REQUESTS
    assert counted["cancelled"] > 0.04 * REQUESTS
    assert after.tasks <= idle
    assert after.files <= before.files
    assert after.memory - before.memory < GROWTH
