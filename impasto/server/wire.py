"""Replies put together by hand, so that a large picture is copied once, into the reply.

A protobuf message is its fields one after the other, in any order; one of bytes or of a message is a tag, the length
as a varint, and the content. So a picture's data can follow its other fields, which protobuf serialises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.server.config import MEBIBYTE
from impasto.server.encoding import Data, size_of

Parts = list[Data]
"""Buffers that are serialised fields when they are joined."""
LARGE = MEBIBYTE
"""Bytes from which a reply is put together on another thread; copying so much would hold up the event loop."""


async def join(parts: Parts) -> bytes:
    """The serialised message."""
    if sum([size_of(part) for part in parts]) < LARGE:
        return b"".join(parts)
    return await asyncio.to_thread(b"".join, parts)


def bytes_field(number: int, *content: Data) -> Parts:
    """A field of bytes, or a nested message, whose content is these buffers."""
    return [_tag(number) + _varint(sum(map(size_of, content))), *content]


def response_parts(pictures: Iterable[tuple[pb.Picture, Data]], timing: pb.Timing) -> Parts:
    """A GenerateResponse."""
    parts: Parts = [pb.GenerateResponse(timing=timing).SerializeToString()]
    for picture, data in pictures:
        size = size_of(data)
        head = picture.SerializeToString() + _PICTURE_DATA + _varint(size)
        parts += (_PICTURES + _varint(len(head) + size) + head, data)
    return parts


def preview_parts(index: int, picture: pb.Picture, data: Data) -> Parts:
    """A GenerateEvent with a preview."""
    whole = (picture.SerializeToString(), *bytes_field(pb.Picture.DATA_FIELD_NUMBER, data))
    preview = (
        pb.Preview(index=index).SerializeToString(),
        *bytes_field(pb.Preview.PICTURE_FIELD_NUMBER, *whole),
    )
    return bytes_field(pb.GenerateEvent.PREVIEW_FIELD_NUMBER, *preview)


def explore_parts(reply: pb.ExploreReply, picture: pb.Picture, data: Data) -> Parts:
    """An ExploreReply with a picture."""
    whole = (picture.SerializeToString(), *bytes_field(pb.Picture.DATA_FIELD_NUMBER, data))
    return [reply.SerializeToString(), *bytes_field(pb.ExploreReply.PICTURE_FIELD_NUMBER, *whole)]


def chunk_event(chunk: pb.ImageChunk, data: Data) -> bytes:
    """A GenerateEvent with a part of a picture."""
    content = (chunk.SerializeToString(), *bytes_field(pb.ImageChunk.DATA_FIELD_NUMBER, data))
    return b"".join(bytes_field(pb.GenerateEvent.CHUNK_FIELD_NUMBER, *content))


def _tag(number: int) -> bytes:
    """The tag of a field of bytes (wire type 2)."""
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    if value <= 0x7F:
        return _SHORT_VARINTS[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SHORT_VARINTS = [bytes([value]) for value in range(0x80)]
_PICTURES = _tag(pb.GenerateResponse.PICTURES_FIELD_NUMBER)
_PICTURE_DATA = _tag(pb.Picture.DATA_FIELD_NUMBER)
