"""Normal noise on the device by the definition in `impasto.kernels.philox` (Philox4x32-10 and Box-Muller).

    out[n, i] = normal(seeds[n], steps[n], rows[n])[i]          seeds, steps, rows [N], out [N, size]

    with word = Philox's output, m = 2·(word >> 8) + 1 and u = m / 2²⁵:
    √(−2 ln u):    m = 2ᵉ·(1 + r), r in [√½ − 1, √2 − 1] exact;  −2 ln u = (25 − e)·2 ln 2 − 2r + r² + r³·G(r)
    cos, sin 2πu:  m = q·2²³ + s, |s| ≤ 2²² exact;  t = s / 2²², the sine and cosine of (π/4)·t, turned by q quarters

Both reductions are exact in integers, so float32 suffices although u has 25 bits. G and the polynomials of sine and
cosine are Chebyshev fits; over all 2²⁴ values of u the radius (up to 5.89) is within 3.6e-7, cosine and sine within
5.3e-8, and so a normal within 1e-6. Every sum is an `fma`: no compiler setting changes a bit. Philox: Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from impasto.kernels import philox
from impasto.kernels.arguments import ceil_div, check_contiguous, check_dtype, check_shape
from impasto.kernels.jit import jit, tl

BLOCK = 256
"""Philox blocks of four numbers that one program makes."""
NUM_WARPS = 4
LARGEST = 2**30


def reference(seeds: Tensor, steps: Tensor, rows: Tensor, size: int) -> Tensor:
    """Normals float32 [N, size] on the CPU, computed in float64; arguments as of `philox_normal`."""
    drawn = [
        torch.from_numpy(philox.normal(seed % 2**64, size, step=step % 2**32, row=row % 2**32))
        for seed, step, row in zip(seeds.tolist(), steps.tolist(), rows.tolist(), strict=True)
    ]
    return torch.stack(drawn)


@jit
def _radius(words: tl.tensor) -> tl.tensor:
    """√(−2 ln u) for uint32 words; the exponent is read from the bits of m / √½ as a float."""
    m = ((words >> 8) * 2 + 1).to(tl.int32)
    e = (m.to(tl.float32).to(tl.int32, bitcast=True) - 0x3F3504F3) >> 23
    r = (m - (1 << e)).to(tl.float32) * ((127 - e) << 23).to(tl.float32, bitcast=True)
    g = tl.fma(r, 0.16203117, -0.25424615)
    g = tl.fma(g, r, 0.25944477)
    g = tl.fma(g, r, -0.2840435)
    g = tl.fma(g, r, 0.33284494)
    g = tl.fma(g, r, -0.40002936)
    g = tl.fma(g, r, 0.50000596)
    g = tl.fma(g, r, -0.66666657)
    square = r * r
    logarithm = tl.fma(g * r, square, square)
    logarithm = tl.fma(r, -2.0, logarithm)
    halvings = (25 - e).to(tl.float32)
    logarithm = tl.fma(halvings, -3.8093084e-09, logarithm)  # 2 ln 2 = 1.3862944 − 3.8e-9
    logarithm = tl.fma(halvings, 1.3862944, logarithm)
    return tl.sqrt_rn(logarithm)


@jit
def _cosine_and_sine(words: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """cos 2πu and sin 2πu for uint32 words."""
    m = ((words >> 8) * 2 + 1).to(tl.int32)
    quarter = (m + 0x400000) >> 23
    t = (m - (quarter << 23)).to(tl.float32) * (1.0 / 0x400000)
    square = t * t
    sine = tl.fma(square, -3.6109224e-05, 0.00249022)
    sine = tl.fma(sine, square, -0.0807455)
    sine = tl.fma(sine, square, -2.1855694e-08)  # π/4 = 0.7853982 − 2.2e-8
    sine = tl.fma(t, 0.7853982, t * sine)
    cosine = tl.fma(square, 3.5026505e-06, -0.00032588287)
    cosine = tl.fma(cosine, square, 0.01585429)
    cosine = tl.fma(cosine, square, -0.30842513)
    cosine = tl.fma(cosine, square, 1.0)
    odd = (quarter & 1) == 1
    x = tl.where(odd, sine, cosine).to(tl.int32, bitcast=True) ^ (((quarter + 1) & 2) << 30)
    y = tl.where(odd, cosine, sine).to(tl.int32, bitcast=True) ^ ((quarter & 2) << 30)
    return x.to(tl.float32, bitcast=True), y.to(tl.float32, bitcast=True)


@jit
def normals(w0: tl.tensor, w1: tl.tensor, w2: tl.tensor, w3: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    """The SIZE = 4·n normals, in their order, of the four words [n] of n blocks."""
    radius = _radius(tl.join(w0, w2))
    cosine, sine = _cosine_and_sine(tl.join(w1, w3))
    # tl.join appends an axis of two: [block, pair, number of the pair].
    return tl.reshape(tl.join(radius * cosine, radius * sine), [SIZE])


@jit
def _philox_normal_kernel(
    p_seeds: tl.tensor,  # int64 [N]
    p_steps: tl.tensor,  # int32 or int64 [N]
    p_rows: tl.tensor,  # int32 or int64 [N]
    p_out: tl.tensor,  # float32 [N, size], or int32 [N, size] where the words are wanted
    size: tl.tensor,
    WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    tiles = tl.cdiv(size, 4 * BLOCK)
    n = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    seed = tl.load(p_seeds + n).to(tl.uint64, bitcast=True)
    step = tl.load(p_steps + n).to(tl.uint32)
    row = tl.load(p_rows + n).to(tl.uint32)
    block = (tile * BLOCK + tl.arange(0, BLOCK)).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox_impl(block, step, row, block * 0, seed.to(tl.uint32), (seed >> 32).to(tl.uint32))

    if WORDS:
        words = tl.join(tl.join(w0, w2), tl.join(w1, w3)).to(tl.int32, bitcast=True)
        numbers = tl.reshape(words, [4 * BLOCK])
    else:
        numbers = normals(w0, w1, w2, w3, 4 * BLOCK)
    o_out = tile * (4 * BLOCK) + tl.arange(0, 4 * BLOCK)
    tl.store(p_out + n.to(tl.int64) * size + o_out, numbers, mask=o_out < size)


def philox_normal(seeds: Tensor, steps: Tensor, rows: Tensor, size: int) -> Tensor:
    """The first `size` normals of each row's own stream: float32 [N, size], on the device of `seeds`.

    `seeds` int64 [N], read as unsigned (0 to 2⁶⁴ − 1); `steps` and `rows` int32 or int64 [N], modulo 2³². A number
    depends on nothing but its seed, step, row and index, and is within 1e-6 of `philox.normal`.
    Raises ValueError where an argument has another type or shape.
    """
    return _launch(seeds, steps, rows, size, torch.float32)


def philox_words(seeds: Tensor, steps: Tensor, rows: Tensor, size: int) -> Tensor:
    """The 32-bit words that `philox_normal` makes its numbers of, four to four: their bits as int32 [N, size]."""
    return _launch(seeds, steps, rows, size, torch.int32)


def _launch(seeds: Tensor, steps: Tensor, rows: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    check_dtype("seeds", seeds, (torch.int64,))
    if seeds.ndim != 1 or not seeds.numel():
        raise ValueError(f"seeds: found shape {list(seeds.shape)}; allowed: [N], N at least 1")
    for name, values in (("seeds", seeds), ("steps", steps), ("rows", rows)):
        check_dtype(name, values, (torch.int64, torch.int32))
        check_shape(name, values, tuple(seeds.shape))
        check_contiguous(name, values)
    if not 1 <= size <= LARGEST:
        raise ValueError(f"size: found {size}; allowed: 1 to {LARGEST}")
    out = torch.empty((seeds.numel(), size), dtype=dtype, device=seeds.device)
    launch: Any = _philox_normal_kernel[(seeds.numel() * ceil_div(size, 4 * BLOCK),)]
    launch(seeds, steps, rows, out, size, WORDS=dtype == torch.int32, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return out
