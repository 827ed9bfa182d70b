"""The pictures that a request brings: the same in-process and over gRPC."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from impasto.errors import InvalidRequest
from impasto.images import Picture, decode
from impasto.images.pixels import Bytes

PictureLike = Picture | Bytes | bytes | str | Path


def pixels_of(field: str, picture: PictureLike) -> Bytes:
    """A picture, file or array as uint8 [H, W, 3]; a grey array [H, W] too. InvalidRequest, OSError."""
    if isinstance(picture, Picture):
        return picture.array
    if isinstance(picture, str | Path):
        picture = Path(picture).read_bytes()
    if isinstance(picture, bytes):
        try:
            return decode(picture)
        except InvalidRequest as error:
            raise InvalidRequest(field, f"{len(picture)} bytes", "a PNG, JPEG or WebP file") from error
    array = np.asarray(picture)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise InvalidRequest(field, f"{array.dtype} {list(array.shape)}", "uint8 [H, W, 3]")
    return np.ascontiguousarray(array)


def check_pictures(image: Any, image_to: Any, blend: float | None) -> None:
    """InvalidRequest names what no model takes: a second picture or a blend alone, or a blend outside 0 to 1."""
    if image_to is not None and image is None:
        raise InvalidRequest("image_to", "it without an image", "it beside an image")
    if blend is None:
        return
    if image_to is None:
        raise InvalidRequest("blend", "it without a second picture", "it beside image and image_to")
    if not (math.isfinite(blend) and 0.0 <= blend <= 1.0):
        raise InvalidRequest("blend", float(str(np.float32(blend))), "0 to 1")
