"""Group normalisation, then SiLU: the head of every residual block of a diffusion U-Net and its decoder.

    y = silu((x − mean) · (var + eps)^-½ · weight[c] + bias[c])        x [N, C, ...], weight and bias [C]

mean and var (biased) are those of a sample's group of C/groups neighbouring channels (Wu & He 2018, "Group
Normalization"); silu(v) = v·sigmoid(v). All is computed in float32, in three launches, so that one sample fills a card:

1. mean and Σ(x − mean)² of every channel in every chunk of pixels, by Welford's update;
2. the same of every group, by Chan, Golub and LeVeque's combination (1979), which cannot cancel as E[x²] − E[x]² does;
3. the equation.

Chunks and the order of every sum depend on the shape of one sample and its memory layout alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from impasto.kernels.arguments import ceil_div, check_contiguous, check_dtype, check_shape, is_channels_last, next_power
from impasto.kernels.jit import jit, tl

TILE = 2048
"""Elements that a program holds at a time."""
PROGRAMS = 512
"""Programs that one sample should give, several for each multiprocessor of a large card."""
MAX_TILES = 16
"""Tiles of the largest chunk."""


def reference(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, *, eps: float = 1e-5, activate: bool = True
) -> Tensor:
    """Normalise x [N, C, ...] in `groups` groups of channels, scale and shift by weight and bias [C], then SiLU."""
    y = torch.group_norm(x, groups, weight.to(x.dtype), bias.to(x.dtype), eps)
    return functional.silu(y) if activate else y


@jit
def _chunk_kernel(
    p_x: tl.tensor,  # float32, float16 or bfloat16 [N, pixels, channels], by strides
    p_moments: tl.tensor,  # float32 [N, chunks, 2, channels]: mean and Σ(x − mean)²
    pixels: tl.tensor,
    channels: tl.tensor,
    pixel_stride: tl.tensor,
    channel_stride: tl.tensor,
    chunk: tl.tensor,  # pixels of a chunk
    chunks: tl.tensor,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    n = (tl.program_id(0) // chunks).to(tl.int64)
    i = tl.program_id(0) % chunks
    size = tl.minimum(pixels - i * chunk, chunk)
    o_p = tl.arange(0, BLOCK_P)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    p_chunk = p_x + n * pixels * channels + (i * chunk).to(tl.int64) * pixel_stride
    p_tile = p_chunk + o_p[:, None] * pixel_stride + o_c.to(tl.int64)[None, :] * channel_stride

    b_mean = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    b_squares = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(0, size, BLOCK_P):
        m_x = (start + o_p < size)[:, None] & m_c[None, :]
        b_x = tl.load(p_tile, mask=m_x, other=0.0).to(tl.float32)
        b_apart = tl.where(m_x, b_x - b_mean, 0.0)
        b_mean += b_apart * (1.0 / (start // BLOCK_P + 1))
        b_squares += b_apart * (b_x - b_mean)
        p_tile += BLOCK_P * pixel_stride

    b_count = ((size - o_p + BLOCK_P - 1) // BLOCK_P).to(tl.float32)[:, None]
    b_chunk_mean = tl.sum(b_count * b_mean, 0) / size
    b_apart = b_mean - b_chunk_mean[None, :]
    b_chunk_squares = tl.sum(b_squares + b_count * b_apart * b_apart, 0)
    p_moment = p_moments + (n * chunks + i) * 2 * channels + o_c
    tl.store(p_moment, b_chunk_mean, mask=m_c)
    tl.store(p_moment + channels, b_chunk_squares, mask=m_c)


@jit
def _group_kernel(
    p_moments: tl.tensor,  # float32 [N, chunks, 2, channels]
    p_statistics: tl.tensor,  # float32 [N, groups, 2]: mean and (var + eps)^-½
    pixels: tl.tensor,
    channels: tl.tensor,
    groups: tl.tensor,
    width: tl.tensor,  # channels of a group
    chunk: tl.tensor,
    chunks: tl.tensor,
    count: tl.tensor,  # float32: pixels · width
    eps: tl.tensor,
    BLOCK_K: tl.constexpr,
    BLOCK_G: tl.constexpr,
) -> None:
    n = (tl.program_id(0) // groups).to(tl.int64)
    g = tl.program_id(0) % groups
    o_k = tl.arange(0, BLOCK_K)
    o_c = tl.arange(0, BLOCK_G)
    p_first = p_moments + n * chunks * 2 * channels + g * width + o_c[None, :]

    b_sum = tl.zeros([BLOCK_K, BLOCK_G], tl.float32)
    for start in range(0, chunks, BLOCK_K):
        k = (start + o_k)[:, None]
        b_count = tl.minimum(pixels - k * chunk, chunk).to(tl.float32)
        m_k = (k < chunks) & (o_c < width)[None, :]
        b_sum += b_count * tl.load(p_first + k * 2 * channels, mask=m_k, other=0.0)
    mean = tl.sum(tl.sum(b_sum, 1), 0) / count

    b_sum = tl.zeros([BLOCK_K, BLOCK_G], tl.float32)
    for start in range(0, chunks, BLOCK_K):
        k = (start + o_k)[:, None]
        b_count = tl.minimum(pixels - k * chunk, chunk).to(tl.float32)
        m_k = (k < chunks) & (o_c < width)[None, :]
        b_apart = tl.load(p_first + k * 2 * channels, mask=m_k, other=0.0) - mean
        b_squares = tl.load(p_first + (2 * k + 1) * channels, mask=m_k, other=0.0)
        b_sum += tl.where(m_k, b_squares + b_count * b_apart * b_apart, 0.0)
    variance = tl.sum(tl.sum(b_sum, 1), 0) / count
    p_group = p_statistics + (n * groups + g) * 2
    tl.store(p_group, mean)
    tl.store(p_group + 1, 1.0 / tl.sqrt_rn(variance + eps))


@jit
def _apply_kernel(
    p_x: tl.tensor,  # float32, float16 or bfloat16 [N, pixels, channels], by strides
    p_y: tl.tensor,  # as p_x
    p_statistics: tl.tensor,  # float32 [N, groups, 2]
    p_weight: tl.tensor,  # float32, float16 or bfloat16 [channels]
    p_bias: tl.tensor,  # float32, float16 or bfloat16 [channels]
    pixels: tl.tensor,
    channels: tl.tensor,
    groups: tl.tensor,
    width: tl.tensor,
    pixel_stride: tl.tensor,
    channel_stride: tl.tensor,
    tiles: tl.tensor,  # of a sample's pixels
    ACTIVATE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    # Backwards: the cache may still hold what the first launch read last.
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    n = (program // tiles).to(tl.int64)
    o_p = (program % tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    m_x = (o_p < pixels)[:, None] & m_c[None, :]
    p_group = p_statistics + (n * groups + o_c // width) * 2
    b_mean = tl.load(p_group, mask=m_c, other=0.0)
    b_scale = tl.load(p_group + 1, mask=m_c, other=0.0)
    b_scale *= tl.load(p_weight + o_c, mask=m_c, other=0.0).to(tl.float32)
    b_shift = tl.load(p_bias + o_c, mask=m_c, other=0.0).to(tl.float32)

    o_x = n * pixels * channels + o_p.to(tl.int64)[:, None] * pixel_stride + o_c.to(tl.int64)[None, :] * channel_stride
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
    b_y = (b_x - b_mean[None, :]) * b_scale[None, :] + b_shift[None, :]
    if ACTIVATE:
        b_y = b_y * tl.sigmoid(b_y)
    tl.store(p_y + o_x, b_y.to(p_y.dtype.element_ty), mask=m_x)


def tile(pixels: int, channels: int, channels_last: bool) -> tuple[int, int]:
    """Pixels and channels that a program holds at a time: at least 128 bytes in a run, where the shape has them."""
    if channels_last:
        block_c = min(next_power(channels), 64)
        return TILE // block_c, block_c
    block_p = min(next_power(pixels), 512)
    return block_p, TILE // block_p


def chunk_size(pixels: int, channels: int, block_p: int, block_c: int) -> int:
    """Pixels of a chunk: as many tiles, up to MAX_TILES, as leave PROGRAMS programs to one sample."""
    tiles = ceil_div(pixels, block_p) * ceil_div(channels, block_c)
    return block_p * min(MAX_TILES, max(1, tiles // PROGRAMS))


def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, *, eps: float = 1e-5, activate: bool = True
) -> Tensor:
    """Group normalisation and SiLU of x [N, C, ...], contiguous or channels-last; the result is laid out as x.

    x, `weight` [C] and `bias` [C] are float32, float16 or bfloat16, each for itself; `groups` divides C; `activate`
    False leaves out SiLU. Raises ValueError for anything else.
    """
    if x.ndim < 2:
        raise ValueError(f"x: found {x.ndim} dimensions; allowed: 2 or more")
    n, channels = x.shape[:2]
    if groups < 1 or channels % groups:
        raise ValueError(f"groups: found {groups}; allowed: divisors of the {channels} channels")
    for name, parameter in (("weight", weight), ("bias", bias)):
        check_dtype(name, parameter)
        check_shape(name, parameter, (channels,))
        check_contiguous(name, parameter)
    check_dtype("x", x)
    channels_last = is_channels_last("x", x)

    pixels, width = math.prod(x.shape[2:]), channels // groups
    pixel_stride, channel_stride = (channels, 1) if channels_last else (1, pixels)
    block_p, block_c = tile(pixels, channels, channels_last)
    chunk = chunk_size(pixels, channels, block_p, block_c)
    chunks, tiles, columns = ceil_div(pixels, chunk), ceil_div(pixels, block_p), ceil_div(channels, block_c)
    block_g = next_power(width)
    moments = torch.empty(n, chunks, 2, channels, dtype=torch.float32, device=x.device)
    statistics = torch.empty(n, groups, 2, dtype=torch.float32, device=x.device)
    y = torch.empty_like(x)
    # fmt: off
    _chunk_kernel[(n * chunks, columns)](
        x, moments, pixels, channels, pixel_stride, channel_stride, chunk, chunks,
        BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4, enable_fp_fusion=True,
    )
    _group_kernel[(n * groups,)](
        moments, statistics, pixels, channels, groups, width, chunk, chunks, float(pixels * width), eps,
        BLOCK_K=max(1, TILE // block_g), BLOCK_G=block_g, num_warps=8, enable_fp_fusion=True,
    )
    _apply_kernel[(n * tiles, columns)](
        x, y, statistics, weight, bias, pixels, channels, groups, width, pixel_stride, channel_stride, tiles,
        ACTIVATE=activate, BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4, enable_fp_fusion=True,
    )
    # fmt: on
    return y
