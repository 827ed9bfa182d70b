"""A finished picture, as callers of `generate` get it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from impasto.errors import InvalidRequest
from impasto.images.codec import FileFormat, decode, encode
from impasto.images.pixels import Bytes, Floats, to_uint8

SUFFIXES: dict[str, FileFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
TENSOR_SUFFIX = ".npy"


class Picture:
    """Pixels with the metadata that tells how to make them again: model, version, digest, seed and parameters.

    Made from one of: uint8 [H, W, 3]; float32 [3, H, W], nominally in [-1, 1]; an encoded file and its format.
    """

    __slots__ = ("_array", "encoded", "format", "image_float", "metadata")

    def __init__(
        self,
        metadata: dict[str, Any],
        *,
        array: Bytes | None = None,
        image_float: Floats | None = None,
        encoded: bytes | None = None,
        format: FileFormat | None = None,
    ) -> None:
        self.metadata = metadata
        self.image_float = image_float
        self.encoded = encoded
        self.format = format
        self._array = array

    @property
    def array(self) -> Bytes:
        """uint8 [H, W, 3], row-major, top row first. After JPEG or lossy WebP: as decoded."""
        if self._array is None:
            if self.encoded is not None:
                self._array = decode(self.encoded)
            else:
                assert self.image_float is not None
                self._array = to_uint8(self.image_float)
        return self._array

    @property
    def seed(self) -> int | None:
        """The seed it was made from; None if it was made from z or ws."""
        return self.metadata.get("seed")

    def encode(self, format: FileFormat, quality: int = 0) -> bytes:
        """The picture as a file with its metadata inside; an encoded picture of that format as it is."""
        if self.encoded is not None and self.format == format and not quality:
            return self.encoded
        return encode(self.array, format, self.metadata, quality)

    def save(self, path: str | Path, quality: int = 0) -> Path:
        """Write the file that the suffix names: .png, .jpg, .jpeg, .webp, or .npy for the tensor (float32 if asked so).

        `quality` as in `encode`. InvalidRequest for any other suffix; OSError if the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == TENSOR_SUFFIX:
            path.write_bytes(self._npy())
        elif suffix in SUFFIXES:
            path.write_bytes(self.encode(SUFFIXES[suffix], quality))
        else:
            raise InvalidRequest("path", str(path), f"a file name in {', '.join([*SUFFIXES, TENSOR_SUFFIX])}")
        return path

    def _npy(self) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, self.array if self.image_float is None else self.image_float, allow_pickle=False)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.encode("png")

    def __repr__(self) -> str:
        height, width, _ = self.array.shape
        return f"<Picture {width}×{height} of {self.metadata.get('model')}, seed {self.seed}>"
