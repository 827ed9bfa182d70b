"""From pixels to the data of a reply."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from impasto.api.impasto.v1 import generation_pb2 as pb
from impasto.engine.picture import Pixels
from impasto.errors import InvalidRequest
from impasto.images import FileFormat, encode

Data = bytes | memoryview
"""Bytes, or the memory of a C-contiguous array."""

MAX_QUALITY = 100
SMALL = 256 * 256
"""Pixels of a picture that become bytes sooner than another thread is awake."""


class Encoder(Protocol):
    """Makes a picture's data."""

    def ready(self, pixels: Pixels) -> Data | None:
        """The data if it takes no longer than waking another thread, else None. Called where the pixels were made."""

    def encode(self, pixels: Pixels, metadata: Mapping[str, Any]) -> Data:
        """The data. Called from several threads."""


class RawUint8:
    """uint8 [H, W, 3]."""

    def ready(self, pixels: Pixels) -> Data | None:
        return pixels.array.data if pixels.is_uint8 or math.prod(pixels.size) <= SMALL else None

    def encode(self, pixels: Pixels, metadata: Mapping[str, Any]) -> Data:
        return pixels.array.data


class RawFloat32:
    """float32 little-endian [3, H, W], nominally in [-1, 1], not clamped."""

    def ready(self, pixels: Pixels) -> Data | None:
        return None

    def encode(self, pixels: Pixels, metadata: Mapping[str, Any]) -> Data:
        return np.ascontiguousarray(pixels.image_float, dtype="<f4").data


class File:
    """A PNG, JPEG or WebP file that holds its metadata."""

    def __init__(self, format: FileFormat, quality: int) -> None:
        self._format = format
        self._quality = quality

    def ready(self, pixels: Pixels) -> Data | None:
        return None

    def encode(self, pixels: Pixels, metadata: Mapping[str, Any]) -> Data:
        return encode(pixels.array, self._format, metadata, self._quality)


RAW_UINT8 = RawUint8()
RAW_FLOAT32 = RawFloat32()
_FILES: dict[int, FileFormat] = {
    pb.IMAGE_FORMAT_PNG: "png",
    pb.IMAGE_FORMAT_JPEG: "jpeg",
    pb.IMAGE_FORMAT_WEBP: "webp",
}


def encoder_for(format: int, quality: int) -> Encoder:
    """The encoder of an ImageFormat. InvalidRequest if the format or the quality is none."""
    if quality > MAX_QUALITY:
        raise InvalidRequest("quality", quality, f"1 to {MAX_QUALITY}, or 0 for the default")
    if format == pb.IMAGE_FORMAT_RAW_UINT8:
        return RAW_UINT8
    if format == pb.IMAGE_FORMAT_RAW_FLOAT32:
        return RAW_FLOAT32
    if format not in _FILES:
        raise InvalidRequest("format", format, ", ".join(pb.ImageFormat.keys()))
    return File(_FILES[format], quality)


def size_of(data: Data) -> int:
    """Bytes of the data."""
    return data.nbytes if isinstance(data, memoryview) else len(data)
