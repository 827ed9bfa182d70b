"""Requests of GenerationService and what comes back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterable
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from impasto.api.impasto.v1 import generation_pb2 as pb

RAW = pb.IMAGE_FORMAT_RAW_UINT8
RAW_FLOAT = pb.IMAGE_FORMAT_RAW_FLOAT32


def asking(model: str = "null", *seeds: int, format: int = RAW, **fields: Any) -> pb.GenerateRequest:
    """A request for the pictures of these seeds."""
    return pb.GenerateRequest(model=model, seeds=seeds, format=format, **fields)


def pixels_of(picture: pb.Picture) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a picture in raw uint8."""
    return np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)


async def status_of(call: Any) -> grpc.aio.AioRpcError:
    """The error of a call that must fail."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call went well")


def retry_after_ms(error: grpc.aio.AioRpcError) -> int:
    """The retry delay in the trailing metadata."""
    return int(dict(error.trailing_metadata())["retry-after-ms"])


async def collect(events: AsyncIterable[pb.GenerateEvent]) -> tuple[dict[int, pb.Picture], list[pb.GenerateEvent]]:
    """The pictures of a stream by index, put together from their chunks, and all events without the chunks' data.

    Checks what the protocol promises: a picture's chunks come in order, without gaps, the first with the picture's
    fields, and its size is the total of each chunk.
    """
    pictures: dict[int, pb.Picture] = {}
    data: defaultdict[int, bytearray] = defaultdict(bytearray)
    totals: dict[int, int] = {}
    seen = []
    async for event in events:
        if event.WhichOneof("event") == "chunk":
            chunk = event.chunk
            assert chunk.offset == len(data[chunk.index])
            assert chunk.HasField("picture") == (chunk.index not in pictures)
            if chunk.HasField("picture"):
                pictures[chunk.index] = pb.Picture.FromString(chunk.picture.SerializeToString())
                totals[chunk.index] = chunk.total
            assert chunk.total == totals[chunk.index]
            data[chunk.index] += chunk.data
            event.chunk.ClearField("data")
        seen.append(event)
    for index, picture in pictures.items():
        picture.data = bytes(data[index])
        assert len(picture.data) == totals[index]
    return pictures, seen
