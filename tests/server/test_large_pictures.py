"""Eight pictures of 1024×1024 float32, 96 MiB, in one reply and as a stream."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.api.impasto.v1.generation_pb2_grpc import GenerationServiceStub as Stub
from impasto.engine.null import GREY, write_null_bundle
from impasto.images.pixels import to_float
from tests.support.inference import connected, serving

SIZE = 1024
SEEDS = list(range(8))
CHUNK = 1024 * 1024
VALUES = to_float(np.full((SIZE, SIZE, 3), GREY, np.uint8))
BYTES = VALUES.astype("<f4").tobytes()


@pytest_asyncio.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Stub]:
    write_null_bundle(tmp_path, "large", SIZE, SIZE)
    async with serving(tmp_path, "large") as server, connected(server) as channel:
        yield Stub(channel)


def request(format: pb.ImageFormat.ValueType = pb.IMAGE_FORMAT_RAW_FLOAT32) -> pb.GenerateRequest:
    return pb.GenerateRequest(model="large", seeds=SEEDS, format=format)


def described(picture: pb.Picture) -> tuple[int, int, int, int]:
    return picture.seed, picture.format, picture.width, picture.height


async def test_eight_float_pictures_arrive_whole_in_one_reply(stub: Stub) -> None:
    reply = await stub.Generate(request())
    assert [described(picture) for picture in reply.pictures] == [
        (seed, pb.IMAGE_FORMAT_RAW_FLOAT32, SIZE, SIZE) for seed in SEEDS
    ]
    assert [len(picture.data) for picture in reply.pictures] == [SIZE * SIZE * 3 * 4] * 8
    assert all(picture.data == BYTES for picture in reply.pictures)
    assert list(reply.timing.batch_sizes) == [8] * 8


async def test_eight_float_pictures_arrive_whole_in_chunks(stub: Stub) -> None:
    events = [event async for event in stub.GenerateStream(request())]
    assert events[0].WhichOneof("event") == "queued"
    assert list(events[-1].done.timing.batch_sizes) == [8] * 8
    assert {event.WhichOneof("event") for event in events[1:-1]} == {"chunk"}
    chunks: dict[int, list[pb.ImageChunk]] = defaultdict(list)
    for event in events[1:-1]:
        chunks[event.chunk.index].append(event.chunk)
    assert sorted(chunks) == SEEDS
    for index, parts in chunks.items():
        assert described(parts[0].picture) == (index, pb.IMAGE_FORMAT_RAW_FLOAT32, SIZE, SIZE)
        assert not parts[0].picture.data
        assert not any(part.HasField("picture") for part in parts[1:])
        assert {part.total for part in parts} == {len(BYTES)}
        assert [part.offset for part in parts] == list(range(0, len(BYTES), CHUNK))
        assert b"".join(part.data for part in parts) == BYTES


async def test_chunks_have_the_size_of_the_configuration_and_the_last_has_the_rest(tmp_path: Path) -> None:
    write_null_bundle(tmp_path, "odd", 100, 33)
    async with serving(tmp_path, "odd", limits={"stream_chunk_kib": 1}) as server, connected(server) as channel:
        call = Stub(channel).GenerateStream(
            pb.GenerateRequest(model="odd", seeds=[5], format=pb.IMAGE_FORMAT_RAW_UINT8)
        )
        parts = [event.chunk async for event in call if event.HasField("chunk")]
    assert [len(part.data) for part in parts] == [1024] * 9 + [100 * 33 * 3 - 9 * 1024]
    assert [part.offset for part in parts] == list(range(0, 9900, 1024))
    assert b"".join(part.data for part in parts) == bytes([GREY]) * 9900


async def test_a_reply_over_the_limit_is_refused_and_its_stream_is_not(tmp_path: Path) -> None:
    write_null_bundle(tmp_path, "large", SIZE, SIZE)
    async with serving(tmp_path, "large", limits={"send_mib": 40}) as server, connected(server) as channel:
        stub = Stub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Generate(request())
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "found '8 pictures'; allowed is at most 3 of this size" in (refused.value.details() or "")
        sizes = [len(event.chunk.data) async for event in stub.GenerateStream(request())]
    assert sum(sizes) == 8 * len(BYTES)
