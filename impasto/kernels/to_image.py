"""A generator's floats to pixels: one pass that scales, clamps, rounds, interleaves the channels and looks for NaN.

    out[n, h, w, c] = round(clamp(scale·x[n, c, h, w] + offset, low, high)), NaN becomes 0

    out       scale    offset   low      high    round
    uint8     127.5    128      0        255     towards zero
    uint16    32767.5  32768    0        65535   towards zero
    float16   1        0        −65504   65504   to nearest

x is nominally in [-1, 1]; float16 keeps what lies beyond. The product and the sum are each rounded to float32, so that
bytes are those of `impasto.images.pixels.to_uint8`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from impasto.kernels.arguments import FLOATS, ceil_div, check_dtype, is_channels_last
from impasto.kernels.jit import jit, tl

RANGES = {
    torch.uint8: (127.5, 128.0, 0.0, 255.0),
    torch.uint16: (32767.5, 32768.0, 0.0, 65535.0),
    torch.float16: (1.0, 0.0, -65504.0, 65504.0),
}
"""Scale, offset, low and high by the type of the pixels."""
NUM_WARPS = 4
LARGEST = 2**30


def block(channels: int) -> int:
    """Pixels that one program converts: several channels, written apart, cost registers."""
    return 2048 if channels == 1 else 512


def reference(x: Tensor, dtype: torch.dtype = torch.uint8) -> tuple[Tensor, Tensor]:
    """Pixels [N, H, W, C] of x [N, C, H, W], and int32 [N]: 1 where a picture holds NaN, else 0."""
    scale, offset, low, high = RANGES[dtype]
    pixels = (x.float() * scale + offset).clamp(low, high).nan_to_num(nan=0.0)
    return pixels.permute(0, 2, 3, 1).contiguous().to(dtype), x.isnan().flatten(1).any(dim=1).int()


@jit
def _to_image_kernel(
    p_x: tl.tensor,  # float32, float16 or bfloat16 [N, CHANNELS, pixels]
    p_out: tl.tensor,  # uint8, uint16 or float16 [N, pixels, CHANNELS]
    p_flags: tl.tensor,  # int32 [N], zeros
    pixels: tl.tensor,
    scale: tl.tensor,
    offset: tl.tensor,
    low: tl.tensor,
    high: tl.tensor,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    tiles = tl.cdiv(pixels, BLOCK)
    n = tl.program_id(0) // tiles
    o_pixel = (tl.program_id(0) % tiles) * BLOCK + tl.arange(0, BLOCK)
    m_pixel = o_pixel < pixels
    p_x += n.to(tl.int64) * pixels * CHANNELS
    p_out += n.to(tl.int64) * pixels * CHANNELS
    b_found = tl.zeros([BLOCK], tl.int32)
    for channel in range(CHANNELS):
        b_x = tl.load(p_x + channel * pixels + o_pixel, mask=m_pixel, other=0.0).to(tl.float32)
        b_nan = b_x != b_x
        b_found |= b_nan.to(tl.int32)
        # A product by itself: x·scale + offset would be contracted to one rounding.
        b_y = tl.fma(b_x, scale, 0.0) + offset
        b_y = tl.where(b_nan, 0.0, tl.minimum(tl.maximum(b_y, low), high))
        tl.store(p_out + o_pixel * CHANNELS + channel, b_y.to(p_out.dtype.element_ty), mask=m_pixel)
    tl.store(p_flags + n, 1, mask=tl.max(b_found, axis=0) > 0)


def to_image(x: Tensor, dtype: torch.dtype = torch.uint8) -> tuple[Tensor, Tensor]:
    """Pixels [N, H, W, C] of x [N, C, H, W], and int32 [N] on x's device: 1 where a picture holds NaN, else 0.

    x is float32, float16 or bfloat16, contiguous or channels-last; `dtype` is uint8, uint16 or float16.
    Raises ValueError for any other type or layout.
    """
    check_dtype("x", x, FLOATS)
    if dtype not in RANGES:
        raise ValueError(f"dtype: found {dtype}; allowed: {', '.join(map(str, RANGES))}")
    if x.ndim != 4 or not 0 < x.numel() <= x.shape[0] * LARGEST:
        raise ValueError(f"x: found shape {list(x.shape)}; allowed: [N, C, H, W] with 1 to {LARGEST} values a picture")
    n, channels, height, width = x.shape
    out = torch.empty((n, height, width, channels), dtype=dtype, device=x.device)
    flags = torch.zeros(n, dtype=torch.int32, device=x.device)
    pixels = height * width
    if is_channels_last("x", x):
        # The values lie in order already, as those of a picture with one channel.
        pixels, channels = pixels * channels, 1
    size = block(channels)
    launch: Any = _to_image_kernel[(n * ceil_div(pixels, size),)]
    launch(x, out, flags, pixels, *RANGES[dtype], CHANNELS=channels, BLOCK=size, num_warps=NUM_WARPS)
    return out, flags
