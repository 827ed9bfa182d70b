"""Picture files as callers send them."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from impasto.images import encode
from impasto.images.pixels import Bytes


def random_pixels(width: int, height: int, seed: int = 0) -> Bytes:
    """uint8 [height, width, 3], every value anything."""
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def random_png(width: int, height: int, seed: int = 0) -> bytes:
    """Those pixels as a file."""
    return encode(random_pixels(width, height, seed), "png", {})


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes or so whose header tells of that many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, *zip(*parts, strict=True)))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
