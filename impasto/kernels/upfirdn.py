"""Resampling with a short filter: insert zeros, pad, convolve, keep every n-th sample.

    y = (pad(up(x)) * flip(f)) [:: down]          x [N, C, H, W], f [K] separable

StyleGAN2's filter is the binomial [1, 3, 3, 1], normalised to sum 1 (Karras et al. 2020, "Analyzing and Improving
the Image Quality of StyleGAN"). `gain` multiplies the whole 2-D filter; up-sampling by 2 wants gain 4 to keep
the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from impasto.kernels.arguments import ceil_div, check_contiguous, check_dtype, check_shape, is_channels_last, next_power
from impasto.kernels.jit import jit, tl

BINOMIAL = (1.0, 3.0, 3.0, 1.0)
TILE = 1024
"""Outputs of a program."""


def binomial_filter(dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """The filter [1, 3, 3, 1] / 8 as a tensor [4]."""
    # Made where it is used: a copy from the host cannot be part of a CUDA graph.
    taps = torch.ones(4, dtype=dtype, device=device)
    taps[1:3] = 3.0
    return taps / 8.0


def reference(
    x: Tensor,
    taps: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    gain: float = 1.0,
) -> Tensor:
    """Resample x [N, C, H, W] with the separable filter `taps` [K] on both axes.

    `padding` is (before, after) in up-sampled pixels, the same on both axes; negative values crop.
    """
    n, channels, height, width = x.shape
    if up > 1:
        stuffed = x.new_zeros(n, channels, height, up, width, up)
        stuffed[:, :, :, 0, :, 0] = x
        x = stuffed.reshape(n, channels, height * up, width * up)
    before, after = padding
    x = functional.pad(x, (before, after, before, after))
    row = (taps.flip(0) * gain**0.5).to(x.dtype)
    x = functional.conv2d(x, row.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    x = functional.conv2d(x, row.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return x[:, :, ::down, ::down]


def upsample2(x: Tensor, taps: Tensor) -> Tensor:
    """Double height and width of x [N, C, H, W]: padding ((K+1)//2, (K-2)//2), gain 4."""
    size = taps.numel()
    return reference(x, taps, up=2, padding=((size + 1) // 2, (size - 2) // 2), gain=4.0)


@jit
def _upfirdn_kernel(
    p_x: tl.tensor,  # float32, float16 or bfloat16 [N, height, width, channels], or channels before height
    p_y: tl.tensor,  # as p_x [N, out_pixels, channels], or channels before pixels
    p_taps: tl.tensor,  # float32 [TAPS]
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    out_width: tl.tensor,
    out_pixels: tl.tensor,
    before: tl.tensor,  # padding
    gain: tl.tensor,
    tiles: tl.tensor,  # of a sample's output pixels
    CHANNELS_LAST: tl.constexpr,
    UP: tl.constexpr,
    DOWN: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    n = (tl.program_id(0) // tiles).to(tl.int64)
    o_p = (tl.program_id(0) % tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = (o_c < channels)[None, :]
    m_p = o_p < out_pixels
    # Where the filter begins in up-sampled pixels, and its first tap that meets a sample and not a stuffed zero.
    begin_y = (o_p // out_width) * DOWN - before
    begin_x = (o_p % out_width) * DOWN - before
    tap_y = (UP - begin_y % UP) % UP
    tap_x = (UP - begin_x % UP) % UP
    first_y = (begin_y + tap_y) // UP
    first_x = (begin_x + tap_x) // UP
    in_pixels = height * width
    p_channel = p_x + n * in_pixels * channels + o_c.to(tl.int64)[None, :] * (1 if CHANNELS_LAST else in_pixels)

    b_y = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for i in range((TAPS + UP - 1) // UP):
        y = first_y + i
        b_tap_y = tl.load(p_taps + TAPS - 1 - (tap_y + i * UP), mask=tap_y + i * UP < TAPS, other=0.0)
        b_row = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        for j in tl.static_range((TAPS + UP - 1) // UP):
            x = first_x + j
            b_tap_x = tl.load(p_taps + TAPS - 1 - (tap_x + j * UP), mask=tap_x + j * UP < TAPS, other=0.0)
            m_x = m_p & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            o_x = (y * width + x).to(tl.int64)[:, None] * (channels if CHANNELS_LAST else 1)
            b_x = tl.load(p_channel + o_x, mask=m_x[:, None] & m_c, other=0.0)
            b_row += b_tap_x[:, None] * b_x.to(tl.float32)
        b_y += b_tap_y[:, None] * b_row
    o_y = o_p.to(tl.int64)[:, None] * (channels if CHANNELS_LAST else 1)
    o_y += n * out_pixels * channels + o_c.to(tl.int64)[None, :] * (1 if CHANNELS_LAST else out_pixels)
    tl.store(p_y + o_y, (b_y * gain).to(p_y.dtype.element_ty), mask=m_p[:, None] & m_c)


def tile(pixels: int, channels: int, channels_last: bool) -> tuple[int, int]:
    """Output pixels and channels of a program: at least 128 bytes in a run, where the shape has them."""
    if channels_last:
        block_c = min(next_power(channels), 64)
        return TILE // block_c, block_c
    block_p = min(next_power(pixels), TILE)
    return block_p, TILE // block_p


def upfirdn(
    x: Tensor,
    taps: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: tuple[int, int] = (0, 0),
    gain: float = 1.0,
) -> Tensor:
    """Resample x [N, C, H, W], contiguous or channels-last, on both axes; the result is laid out as x.

    Means what `reference` means. x is float32, float16 or bfloat16, `taps` [K] float32. Raises ValueError for anything
    else, and where no output would be left.
    """
    if x.ndim != 4:
        raise ValueError(f"x: found {x.ndim} dimensions; allowed: 4")
    check_dtype("x", x)
    check_dtype("taps", taps, (torch.float32,))
    size = taps.numel()
    check_shape("taps", taps, (size,))
    check_contiguous("taps", taps)
    for name, factor in (("up", up), ("down", down)):
        if factor < 1:
            raise ValueError(f"{name}: found {factor}; allowed: 1 or more")
    channels_last = is_channels_last("x", x)
    n, channels, height, width = x.shape
    before, after = padding
    out_height, out_width = ((side * up + before + after - size) // down + 1 for side in (height, width))
    if size < 1 or out_height < 1 or out_width < 1:
        raise ValueError(f"padding: found {padding}, {size} taps at {height}×{width}; allowed: what leaves an output")

    layout = torch.channels_last if channels_last else torch.contiguous_format
    y = torch.empty(n, channels, out_height, out_width, dtype=x.dtype, device=x.device, memory_format=layout)
    out_pixels = out_height * out_width
    block_p, block_c = tile(out_pixels, channels, channels_last)
    tiles = ceil_div(out_pixels, block_p)
    # fmt: off
    _upfirdn_kernel[(n * tiles, ceil_div(channels, block_c))](
        x, y, taps, height, width, channels, out_width, out_pixels, before, gain, tiles, CHANNELS_LAST=channels_last,
        UP=up, DOWN=down, TAPS=size, BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4, enable_fp_fusion=True,
    )
    # fmt: on
    return y
