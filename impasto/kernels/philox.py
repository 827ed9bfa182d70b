"""Counter-based normal noise: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    words(seed, step, row, block) = Philox4x32-10(counter = (block, step, row, 0), key = (seed mod 2³², seed div 2³²))
    u = ((word >> 8) + ½) · 2⁻²⁴
    normal[4·block + 0, 1] = √(−2 ln u₀) · (cos 2πu₁, sin 2πu₁), and + 2, 3 from u₂ and u₃

A number depends on nothing but its seed, step, row and index: not on batch, launch shape or device. This is the numpy
form, computed in float64 and rounded to float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HIGH_SHIFT = np.uint64(32)
_CHUNK = 1 << 15


def words(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Ten rounds on counters [4, n] of 32-bit words held in uint64; returns the same shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0 = c0 * MULTIPLIERS[0]
        product1 = c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _HIGH_SHIFT) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> _HIGH_SHIFT) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def normal(seed: int, size: int, *, step: int = 0, row: int = 0) -> NDArray[np.float32]:
    """The first `size` normals [size] of a seed (0 to 2⁶⁴ − 1), step and row (0 to 2³² − 1 each)."""
    blocks = -(-size // 4)
    out = np.empty(blocks * 4, np.float32)
    for start in range(0, blocks, _CHUNK):
        stop = min(start + _CHUNK, blocks)
        counter = np.zeros((4, stop - start), np.uint64)
        counter[0] = np.arange(start, stop, dtype=np.uint64)
        counter[1] = step
        counter[2] = row
        uniform = ((words(counter, (seed & 0xFFFFFFFF, seed >> 32)) >> np.uint64(8)) + 0.5) * 2.0**-24
        radius = np.sqrt(-2.0 * np.log(uniform[0::2]))
        angle = 2.0 * np.pi * uniform[1::2]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        out[4 * start : 4 * stop] = pairs.reshape(4, -1).T.reshape(-1)
    return out[:size]
