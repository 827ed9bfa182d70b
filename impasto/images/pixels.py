"""From a generator's range to bytes and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_GAIN = np.float32(127.5)
_MIDDLE = np.float32(128.0)
_LEAST = np.float32(0.0)
_MOST = np.float32(255.0)


def to_uint8(chw: Floats) -> Bytes:
    """float32 [3, H, W] to uint8 [H, W, 3]: clamp(127.5·x + 128, 0, 255), rounded towards zero; NaN becomes 0."""
    scaled = np.multiply(chw, _GAIN)
    scaled += _MIDDLE
    np.fmax(scaled, _LEAST, out=scaled)  # the number, where the other is NaN
    hwc = np.empty((*chw.shape[1:], len(chw)), np.uint8)
    np.minimum(scaled, _MOST, out=hwc.transpose(2, 0, 1), casting="unsafe")
    return hwc


def to_float(hwc: Bytes) -> Floats:
    """uint8 [H, W, 3] to float32 [3, H, W] in [-1, 1): (x − 128) / 127.5."""
    chw = hwc.transpose(2, 0, 1).astype(np.float32)
    return np.ascontiguousarray((chw - _MIDDLE) / _GAIN)
