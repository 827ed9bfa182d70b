"""A PNG writer for generated pictures: every row through the Average filter, then a fast deflate.

On photographic pictures this takes about a third of the time of an encoder that tries every filter on every row, for
files a twentieth larger, and its bytes depend on nothing but the pixels, the text and zlib.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from impasto.images.pixels import Bytes

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TRUE_COLOUR = 2
_AVERAGE = 3


def encode_png(array: Bytes, keyword: str, text: str) -> bytes:
    """uint8 [H, W, 3] as a PNG file with one ASCII text chunk."""
    height, width, _ = array.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _TRUE_COLOUR, 0, 0, 0)
    deflate = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    body = deflate.compress(_average_filtered(array).data) + deflate.flush()
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"tEXt", keyword.encode("ascii") + b"\0" + text.encode("ascii")),
            _chunk(b"IDAT", body),
            _chunk(b"IEND", b""),
        ]
    )


def _average_filtered(array: Bytes) -> Bytes:
    """Each row as its filter type and x − ⌊(left + above) / 2⌋ mod 256, missing neighbours 0 (PNG, §9.2)."""
    height, width, _ = array.shape
    rows = array.reshape(height, 3 * width)
    left, above = np.zeros_like(rows), np.zeros_like(rows)
    left[:, 3:] = rows[:, :-3]
    above[1:] = rows[:-1]
    filtered = np.empty((height, 1 + 3 * width), np.uint8)
    filtered[:, 0] = _AVERAGE
    # a + b = 2·(a & b) + (a ^ b): the average without leaving 8 bits.
    np.subtract(rows, (left & above) + ((left ^ above) >> 1), out=filtered[:, 1:])
    return filtered


def _chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))])
