"""What happens to requests while the engine is busy: an engine that a test holds at a gate, behind a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub
from impasto.api.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from impasto.engine.null import write_null_bundle
from impasto.server.batched import BatchedModel
from impasto.server.server import Server
from tests.support.engines import BatchGate, serving_gated, until
from tests.support.generation import asking, retry_after_ms, status_of
from tests.support.inference import connected, infer_request

NEVER_MS = 3_600_000.0
Call = grpc.aio.UnaryUnaryCall[pb.GenerateRequest, pb.GenerateResponse]


@dataclass(frozen=True)
class Scene:
    """A server whose engine is held: it runs seed 0, and does not end until the gate lets it."""

    server: Server
    channel: grpc.aio.Channel
    gate: BatchGate
    first: Call

    @property
    def model(self) -> BatchedModel:
        return self.server.host.get("null")

    @property
    def stub(self) -> GenerationServiceStub:
        return GenerationServiceStub(self.channel)

    async def queue(self, *seeds: int, seconds: float | None = None, **fields: Any) -> Call:
        """Send a request with a deadline, if any, and wait until its pictures are in the queue."""
        expected = self.model.queue_length + len(seeds)
        call = self.stub.Generate(asking("null", *seeds, **fields), timeout=seconds)
        await until(lambda: self.model.queue_length == expected)
        return call

    def is_free(self) -> bool:
        """Whether nothing waits, and no request is being answered."""
        return self.model.queue_length == 0 and self.model.in_flight == 0


@asynccontextmanager
async def busy(
    models: Path, *, buckets: tuple[int, ...] = (1, 2, 4, 8), size: int = 8, **settings: Any
) -> AsyncIterator[Scene]:
    """The server of the tests."""
    write_null_bundle(models, width=size, height=size)
    gate = BatchGate()
    batching = {"starvation_limit_ms": NEVER_MS, **settings.pop("batching", {})}
    serving = serving_gated(models, "null", gate, buckets=buckets, batching=batching, **settings)
    async with serving as server, connected(server) as channel:
        first = GenerationServiceStub(channel).Generate(asking("null", 0))
        await until(lambda: gate.batches == [[0]])
        yield Scene(server, channel, gate, first)


def seeds_of(reply: pb.GenerateResponse) -> list[int]:
    return [picture.seed for picture in reply.pictures]


async def test_a_full_queue_refuses_at_once_and_says_when_to_try_again(tmp_path: Path) -> None:
    async with busy(tmp_path, batching={"max_queue": 4}) as scene:
        waiting = await scene.queue(1, 2, 3, 4)
        error = await status_of(scene.stub.Generate(asking("null", 5)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "found 4 rows waiting at priority 2, no room for 1 more; allowed is 4" in (error.details() or "")
        assert retry_after_ms(error) >= 1
        assert scene.gate.batches == [[0]]
        assert not scene.first.done()
        scene.gate.open()
        assert seeds_of(await waiting) == [1, 2, 3, 4]
        assert seeds_of(await scene.stub.Generate(asking("null", 5))) == [5]


async def test_a_stream_too_is_refused_by_a_full_queue(tmp_path: Path) -> None:
    async with busy(tmp_path, batching={"max_queue": 1}) as scene:
        await scene.queue(1)
        error = await status_of(anext(aiter(scene.stub.GenerateStream(asking("null", 2)))))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_after_ms(error) >= 1


async def test_a_request_that_fits_only_in_part_is_refused_whole(tmp_path: Path) -> None:
    async with busy(tmp_path, batching={"max_queue": 4}) as scene:
        await scene.queue(1, 2)
        error = await status_of(scene.stub.Generate(asking("null", 3, 4, 5)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert scene.model.queue_length == 2
        await scene.queue(3, 4)


async def test_the_limit_of_the_queue_is_that_of_each_priority(tmp_path: Path) -> None:
    async with busy(tmp_path, batching={"max_queue": 2}) as scene:
        await scene.queue(1, 2, priority=3)
        error = await status_of(scene.stub.Generate(asking("null", 3, priority=3)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        urgent = await scene.queue(4, priority=1)
        scene.gate.open()
        assert seeds_of(await urgent) == [4]


async def test_more_urgent_requests_overtake(tmp_path: Path) -> None:
    async with busy(tmp_path, buckets=(1,)) as scene:
        calls = [await scene.queue(seed, priority=priority) for seed, priority in ((3, 3), (2, 0), (1, 1))]
        scene.gate.open()
        await asyncio.gather(*calls)
        assert scene.gate.batches == [[0], [1], [2], [3]]


async def test_requests_of_a_priority_run_in_the_order_they_came(tmp_path: Path) -> None:
    async with busy(tmp_path, buckets=(1, 2)) as scene:
        calls = [await scene.queue(seed) for seed in (5, 3, 6, 1, 4, 2)]
        scene.gate.open()
        await asyncio.gather(*calls)
        assert scene.gate.batches == [[0], [5, 3], [6, 1], [4, 2]]


async def test_a_request_that_starves_goes_before_a_more_urgent_one(tmp_path: Path) -> None:
    async with busy(tmp_path, buckets=(1,), batching={"starvation_limit_ms": 1.0}) as scene:
        starved = await scene.queue(3, priority=3)
        await asyncio.sleep(0.01)
        urgent = await scene.queue(1, priority=1)
        scene.gate.open()
        await asyncio.gather(starved, urgent)
        assert scene.gate.batches == [[0], [3], [1]]


async def test_a_batch_has_all_that_waits_up_to_the_largest_bucket(tmp_path: Path) -> None:
    async with busy(tmp_path) as scene:
        calls = [await scene.queue(seed) for seed in range(1, 12)]
        scene.gate.open()
        replies = await asyncio.gather(*calls)
        assert scene.gate.batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]]
        assert [list(reply.timing.batch_sizes) for reply in replies] == [[8]] * 8 + [[3]] * 3


async def test_a_request_is_split_over_batches_with_others(tmp_path: Path) -> None:
    async with busy(tmp_path, buckets=(1, 2, 4)) as scene:
        calls = [await scene.queue(1, 2, 3), await scene.queue(4, 5, 6)]
        scene.gate.open()
        replies = await asyncio.gather(*calls)
        assert scene.gate.batches == [[0], [1, 2, 3, 4], [5, 6]]
        assert [list(reply.timing.batch_sizes) for reply in replies] == [[4, 4, 4], [4, 2, 2]]
        assert seeds_of(replies[1]) == [4, 5, 6]


async def test_a_deadline_that_passes_in_the_queue_is_answered_while_the_engine_is_busy(tmp_path: Path) -> None:
    async with busy(tmp_path) as scene:
        patient = await scene.queue(2)
        for seconds in (0.5, 4.0, 32.0):  # the first that are enough to come into the queue
            late, waited = scene.stub.Generate(asking("null", 1), timeout=seconds), False
            while not late.done():
                waited = waited or scene.model.queue_length == 2
                await asyncio.sleep(0.002)
            assert (await status_of(late)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if waited:
                break
        assert waited
        await until(lambda: scene.model.queue_length == 1)
        assert scene.gate.batches == [[0]]
        scene.gate.open()
        await patient
        assert scene.gate.batches == [[0], [2]]


async def test_the_server_itself_answers_a_timeout_that_passes_in_the_queue(tmp_path: Path) -> None:
    async with busy(tmp_path) as scene:
        request = infer_request("null", seed=np.int64([[1]]))
        request.parameters["timeout"].int64_param = 200_000
        error = await status_of(GRPCInferenceServiceStub(scene.channel).ModelInfer(request))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "passed in the queue" in (error.details() or "")
        assert scene.model.queue_length == 0
        assert scene.gate.batches == [[0]]


async def test_what_waits_of_a_cancelled_call_never_runs(tmp_path: Path) -> None:
    async with busy(tmp_path) as scene:
        call = await scene.queue(1, 2, 3)
        call.cancel()
        await until(lambda: scene.model.queue_length == 0)
        assert scene.gate.batches == [[0]]
        after = await scene.queue(4)
        scene.gate.open()
        await asyncio.gather(scene.first, after)
        assert scene.gate.batches == [[0], [4]]
        await until(scene.is_free)


async def test_cancelling_a_call_that_runs_leaves_its_batch_mates_alone(tmp_path: Path) -> None:
    async with busy(tmp_path) as scene:
        cancelled, kept = await scene.queue(1), await scene.queue(2)
        scene.gate.let_through(1)
        await until(lambda: scene.gate.batches == [[0], [1, 2]])
        await scene.first
        cancelled.cancel()
        await until(lambda: scene.model.in_flight == 1)
        scene.gate.open()
        assert seeds_of(await kept) == [2]
        await until(scene.is_free)


async def test_a_client_that_vanishes_mid_stream_frees_what_it_left(tmp_path: Path) -> None:
    async with busy(tmp_path, buckets=(1,)) as scene:
        async with grpc.aio.insecure_channel(scene.server.address) as channel:
            stream = aiter(GenerationServiceStub(channel).GenerateStream(asking("null", 1, 2, 3, 4)))
            assert (await anext(stream)).WhichOneof("event") == "queued"
            scene.gate.let_through(2)
            assert (await anext(stream)).chunk.picture.seed == 1
            await until(lambda: scene.gate.batches == [[0], [1], [2]])
        await until(scene.is_free)
        scene.gate.open()
        assert seeds_of(await scene.stub.Generate(asking("null", 9))) == [9]
        assert scene.gate.batches == [[0], [1], [2], [9]]


async def test_a_client_that_vanishes_while_its_pictures_are_sent_frees_them(tmp_path: Path) -> None:
    async with busy(tmp_path, size=1024, limits={"stream_chunk_kib": 64}) as scene:
        scene.gate.open()
        await scene.first
        # A connection that measures its own speed takes ever more before the caller reads, most on a busy machine.
        slow = [("grpc.http2.bdp_probe", 0)]
        async with grpc.aio.insecure_channel(scene.server.address, slow) as channel:
            stream = aiter(GenerationServiceStub(channel).GenerateStream(asking("null", *range(1, 9))))
            events = [await anext(stream), await anext(stream)]
            assert [event.WhichOneof("event") for event in events] == ["queued", "chunk"]
            assert scene.model.in_flight == 1
        await until(scene.is_free)
        assert seeds_of(await scene.stub.Generate(asking("null", 9))) == [9]


async def test_a_stream_says_first_how_many_go_before_it(tmp_path: Path) -> None:
    async with busy(tmp_path) as scene:
        await scene.queue(1, 2, 3)
        streams, positions = [], []
        for seed, priority in ((4, 0), (5, 1), (6, 3)):
            stream = aiter(scene.stub.GenerateStream(asking("null", seed, priority=priority)))
            event = await anext(stream)
            assert event.WhichOneof("event") == "queued"
            assert event.queued.estimated_wait_ms >= 0
            streams.append(stream)
            positions.append(event.queued.position)
        assert positions == [3, 0, 5]
        scene.gate.open()
        for stream in streams:
            assert [event.WhichOneof("event") async for event in stream] == ["chunk", "done"]
