"""Layer normalisation with scale and shift from a condition: the head of every block of a diffusion transformer.

    y = (x − mean) · (var + eps)^-½ · (1 + scale[n]) + shift[n]        x [N, ..., C], scale and shift [N, C]

mean and var (biased) are those of the last axis. Peebles & Xie 2023, "Scalable Diffusion Models with Transformers"
(adaLN); diffusers' `AdaLayerNormZero` and the like, which have eps 1e-6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from impasto.kernels.arguments import ceil_div, check_contiguous, check_dtype, check_shape, next_power
from impasto.kernels.jit import jit, tl

MAX_CHANNELS = 16384
"""The longest row that a program holds."""


def reference(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Normalise the last axis of x [N, ..., C], then scale by 1 + scale [N, C] and add shift [N, C]."""
    sample = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
    y = functional.layer_norm(x, x.shape[-1:], eps=eps)
    return y * (1.0 + scale.to(x.dtype).reshape(sample)) + shift.to(x.dtype).reshape(sample)


@jit
def _ada_norm_kernel(
    p_x: tl.tensor,  # float32, float16 or bfloat16 [N, rows, channels]
    p_y: tl.tensor,  # as p_x
    p_scale: tl.tensor,  # float32, float16 or bfloat16 [N, channels], samples scale_stride apart
    p_shift: tl.tensor,  # float32, float16 or bfloat16 [N, channels], samples shift_stride apart
    rows: tl.tensor,
    channels: tl.tensor,
    scale_stride: tl.tensor,
    shift_stride: tl.tensor,
    eps: tl.tensor,
    tiles: tl.tensor,  # of a sample's rows
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    n = (tl.program_id(0) // tiles).to(tl.int64)
    o_r = (tl.program_id(0) % tiles) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_c = tl.arange(0, BLOCK_C)
    m_c = o_c < channels
    m_x = (o_r < rows)[:, None] & m_c[None, :]
    o_x = (n * rows + o_r)[:, None] * channels + o_c[None, :]
    b_x = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
    b_scale = tl.load(p_scale + n * scale_stride + o_c, mask=m_c, other=0.0).to(tl.float32)
    b_shift = tl.load(p_shift + n * shift_stride + o_c, mask=m_c, other=0.0).to(tl.float32)
    b_apart = tl.where(m_c[None, :], b_x - (tl.sum(b_x, 1) / channels)[:, None], 0.0)
    b_variance = tl.sum(b_apart * b_apart, 1) / channels
    b_y = b_apart * (1.0 / tl.sqrt_rn(b_variance + eps))[:, None] * (1.0 + b_scale)[None, :] + b_shift[None, :]
    tl.store(p_y + o_x, b_y.to(p_y.dtype.element_ty), mask=m_x)


def configuration(channels: int) -> tuple[int, int, int]:
    """Rows, columns and warps of a program for rows of `channels`: at most 32 values in a thread."""
    block_c = next_power(channels)
    return max(1, 1024 // block_c), block_c, max(4, block_c // 1024)


def ada_norm(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Layer normalisation of x [N, ..., C] over C, times 1 + `scale` [N, C], plus `shift` [N, C], in the dtype of x.

    All are float32, float16 or bfloat16, each for itself. x is contiguous; rows of scale and shift are, and may lie
    apart, as parts of one [N, 6C] do. C is at most MAX_CHANNELS. Raises ValueError for anything else.
    """
    if x.ndim < 2 or x.shape[0] < 1 or not 1 <= x.shape[-1] <= MAX_CHANNELS:
        allowed = f"[N, ..., C] with N from 1 and C from 1 to {MAX_CHANNELS}"
        raise ValueError(f"x: found shape {list(x.shape)}; allowed: {allowed}")
    check_dtype("x", x)
    check_contiguous("x", x)
    samples, channels = x.shape[0], x.shape[-1]
    for name, parameter in (("scale", scale), ("shift", shift)):
        check_dtype(name, parameter)
        check_shape(name, parameter, (samples, channels))
        check_contiguous(f"{name}[0]", parameter[0])
    rows = math.prod(x.shape[1:-1])
    block_r, block_c, num_warps = configuration(channels)
    tiles = ceil_div(rows, block_r)
    y = torch.empty_like(x)
    # fmt: off
    _ada_norm_kernel[(samples * tiles,)](
        x, y, scale, shift, rows, channels, scale.stride(0), shift.stride(0), eps, tiles,
        BLOCK_R=block_r, BLOCK_C=block_c, num_warps=num_warps, enable_fp_fusion=True,
    )
    # fmt: on
    return y
