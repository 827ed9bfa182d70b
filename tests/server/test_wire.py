"""Messages that were put together by hand are those that protobuf would write."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.server.wire import LARGE, bytes_field, chunk_event, explore_parts, join, preview_parts, response_parts

PICTURES = st.builds(
    pb.Picture,
    seed=st.integers(0, 2**32 - 1),
    format=st.sampled_from(pb.ImageFormat.values()),
    width=st.integers(0, 2**32 - 1),
    metadata=st.text(max_size=200),
)


@given(st.lists(st.tuples(PICTURES, st.binary(max_size=300))), st.lists(st.integers(0, 300)))
def test_response_is_protobufs_own(pictures: list[tuple[pb.Picture, bytes]], sizes: list[int]) -> None:
    timing = pb.Timing(queue_ms=1.5, batch_sizes=sizes)
    joined = asyncio.run(join(response_parts(pictures, timing)))
    expected = pb.GenerateResponse(timing=timing)
    for picture, data in pictures:
        expected.pictures.add().CopyFrom(picture)
        expected.pictures[-1].data = data
    assert pb.GenerateResponse.FromString(joined) == expected


@given(PICTURES, st.integers(0, 2**20), st.binary(max_size=300))
def test_chunk_is_protobufs_own(picture: pb.Picture, offset: int, data: bytes) -> None:
    chunk = pb.ImageChunk(index=3, picture=picture, offset=offset, total=2**40)
    event = pb.GenerateEvent.FromString(chunk_event(chunk, memoryview(data)))
    chunk.data = data
    assert event == pb.GenerateEvent(chunk=chunk)


@given(PICTURES, st.integers(0, 2**32 - 1), st.binary(max_size=300))
def test_preview_is_protobufs_own(picture: pb.Picture, index: int, data: bytes) -> None:
    event = pb.GenerateEvent.FromString(asyncio.run(join(preview_parts(index, picture, memoryview(data)))))
    picture.data = data
    assert event == pb.GenerateEvent(preview=pb.Preview(index=index, picture=picture))


@given(PICTURES, st.integers(0, 2**64 - 1), st.binary(max_size=300))
def test_frame_is_protobufs_own(picture: pb.Picture, number: int, data: bytes) -> None:
    reply = pb.ExploreReply(id=number, skipped=3, latency_ms=1.5)
    made = pb.ExploreReply.FromString(asyncio.run(join(explore_parts(reply, picture, memoryview(data)))))
    picture.data = data
    reply.picture.CopyFrom(picture)
    assert made == reply


def test_array_larger_than_the_loop_copies_is_the_same() -> None:
    array = np.arange(LARGE // 4 + 7, dtype="<f4").reshape(1, -1)
    joined = asyncio.run(join(bytes_field(pb.Picture.DATA_FIELD_NUMBER, array.data)))
    assert pb.Picture.FromString(joined).data == array.tobytes()
