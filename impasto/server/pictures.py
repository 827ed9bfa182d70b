"""From a request's picture files to pixels."""

from __future__ import annotations

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.engine.sizes import most_pixels
from impasto.errors import InvalidRequest
from impasto.export.bundle import Manifest
from impasto.images import decode
from impasto.images.pixels import Bytes
from impasto.input_pictures import check_pictures
from impasto.server.config import MEBIBYTE

_BYTES_A_PIXEL = 8
"""Of the largest picture files: 16 bits in each of four channels."""


def brings_pictures(message: pb.GenerateRequest) -> bool:
    """Whether there are files to decode."""
    return message.HasField("image") or message.HasField("image_to") or message.denoising.HasField("mask")


def read_pictures(message: pb.GenerateRequest, manifest: Manifest) -> dict[str, Bytes | float]:
    """`image`, `image_to` and `blend`, as far as they are set, as keywords of PictureRequest. InvalidRequest."""
    given: dict[str, Bytes | float] = {}
    for field in ("image", "image_to"):
        if message.HasField(field):
            given[field] = read_picture(field, getattr(message, field), manifest)
    blend = message.blend if message.HasField("blend") else None
    check_pictures(given.get("image"), given.get("image_to"), blend)
    return given if blend is None else given | {"blend": blend}


def read_picture(field: str, file: bytes, manifest: Manifest) -> Bytes:
    """uint8 [H, W, 3] of a file that can be no larger than the model's largest picture. InvalidRequest."""
    most = most_pixels(manifest)
    if len(file) > most * _BYTES_A_PIXEL + MEBIBYTE:
        raise InvalidRequest(field, f"{len(file)} bytes", f"a file of at most {most * _BYTES_A_PIXEL + MEBIBYTE} bytes")
    try:
        return decode(file, most)
    except InvalidRequest as error:
        raise error.renamed(field) from error
