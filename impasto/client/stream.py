"""Puts the pictures of a stream together from their chunks."""

from __future__ import annotations

import dataclasses

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.client.messages import read_picture, read_timing
from impasto.errors import InternalError
from impasto.events import Event, Finished, Preview, Queued, Step

MAX_PICTURE_BYTES = 2**31


@dataclasses.dataclass(slots=True)
class _Partial:
    header: pb.Picture
    data: bytearray
    filled: int = 0


class StreamReader:
    """Takes the messages of one stream in order; what a message completes comes out as an event."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._partial: dict[int, _Partial] = {}
        self._finished: set[int] = set()

    def read(self, message: pb.GenerateEvent) -> Event | None:
        """The event of this message; None for a chunk that leaves its picture unfinished, or a kind from the future.

        InternalError if a chunk is out of place or too large, or the stream ends before all pictures are there.
        """
        match message.WhichOneof("event"):
            case "queued":
                return Queued(message.queued.position, message.queued.estimated_wait_ms)
            case "step":
                return Step(message.step.index, message.step.step, message.step.steps)
            case "preview":
                picture = message.preview.picture
                return Preview(message.preview.index, read_picture(picture, bytearray(picture.data)))
            case "chunk":
                return self._chunk(message.chunk)
            case "done":
                self.end()
                return read_timing(message.done.timing)
        return None

    def end(self) -> None:
        """InternalError unless every picture is complete."""
        if len(self._finished) != self._count:
            raise InternalError(f"stream: ended after {len(self._finished)} of {self._count} pictures")

    def _chunk(self, chunk: pb.ImageChunk) -> Finished | None:
        index, data = chunk.index, chunk.data
        if index >= self._count or index in self._finished:
            raise InternalError(f"stream: found a chunk of picture {index}; {self._count} were asked for, each once")
        if index not in self._partial:
            if not chunk.HasField("picture") or not 0 < chunk.total <= MAX_PICTURE_BYTES:
                raise InternalError(f"stream: picture {index} starts without its description or a size in bounds")
            self._partial[index] = _Partial(chunk.picture, bytearray(chunk.total))
        partial = self._partial[index]
        end = partial.filled + len(data)
        if chunk.offset != partial.filled or chunk.total != len(partial.data) or end > len(partial.data):
            raise InternalError(
                f"stream: found bytes {chunk.offset} to {chunk.offset + len(data)} of picture {index}; "
                f"next are those from {partial.filled} on, of {len(partial.data)}"
            )
        partial.data[chunk.offset : end] = data
        partial.filled = end
        if end < len(partial.data):
            return None
        del self._partial[index]
        self._finished.add(index)
        return Finished(index, read_picture(partial.header, partial.data))
