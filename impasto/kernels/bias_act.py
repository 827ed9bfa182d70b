"""Bias, leaky ReLU, gain and clamp: the tail of every StyleGAN2 layer.

    y = clamp(lrelu(x + b, 0.2) * gain, -clamp, +clamp)          x, y [N, C, ...], b [C]

with gain √2, or neither leaky ReLU nor gain where the layer is linear (Karras et al. 2020, "Analyzing and Improving the
Image Quality of StyleGAN").
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from impasto.kernels.arguments import (
    FLOATS,
    ceil_div,
    check_contiguous,
    check_dtype,
    check_shape,
    is_channels_last,
    next_power,
)
from impasto.kernels.jit import jit, tl

SLOPE = 0.2
GAIN = math.sqrt(2.0)
BLOCK = 2048
"""Values that one program computes."""
NUM_WARPS = 4


def reference(x: Tensor, bias: Tensor | None, *, linear: bool = False, clamp: float | None = None) -> Tensor:
    """Apply bias [C] over dim 1 of x, leaky ReLU(0.2) times sqrt(2) unless `linear`, then clamp to ±`clamp`."""
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(1, -1, *([1] * (x.ndim - 2)))
    if not linear:
        x = functional.leaky_relu(x, SLOPE) * GAIN
    return x if clamp is None else x.clamp(-clamp, clamp)


@jit
def _bias_act_kernel(
    p_x: tl.tensor,  # float32, float16 or bfloat16 [rows, columns]: [N·C, H·W], or [N·H·W, C] where CHANNELS_LAST
    p_bias: tl.tensor,  # any of these [channels]
    p_out: tl.tensor,  # as x
    rows: tl.tensor,
    columns: tl.tensor,
    channels: tl.tensor,
    negative: tl.tensor,  # factor of values below zero
    positive: tl.tensor,  # factor of all others
    clamp: tl.tensor,
    BIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    tiles = tl.cdiv(columns, COLUMNS)
    first = (tl.program_id(0) // tiles) * ROWS
    o_row = tl.arange(0, ROWS)[:, None]
    o_column = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    o_x = first.to(tl.int64) * columns + (o_row * columns + o_column)
    m_x = (o_row < rows - first) & (o_column < columns)
    b_y = tl.load(p_x + o_x, mask=m_x, other=0.0).to(tl.float32)
    if BIAS:
        if CHANNELS_LAST:
            b_bias = tl.load(p_bias + o_column, mask=o_column < columns, other=0.0)
        else:
            b_bias = tl.load(p_bias + (first + o_row) % channels)
        b_y += b_bias.to(tl.float32)
    b_y *= tl.where(b_y < 0.0, negative, positive)
    b_y = tl.clamp(b_y, -clamp, clamp, propagate_nan=tl.PropagateNan.ALL)
    tl.store(p_out + o_x, b_y.to(p_out.dtype.element_ty), mask=m_x)


def bias_act(x: Tensor, bias: Tensor | None, *, linear: bool = False, clamp: float | None = None) -> Tensor:
    """As `reference`, computed in float32 and rounded once; the result has x's shape, dtype and strides.

    x [N, C, ...] is float32, float16 or bfloat16, contiguous or channels-last; `bias` [C] of any of these dtypes; NaN
    stays NaN. Raises ValueError for other types, shapes or layouts, and for a clamp below zero.
    """
    check_dtype("x", x, FLOATS)
    if x.ndim < 2 or not x.numel():
        raise ValueError(f"x: found shape {list(x.shape)}; allowed: [N, C, ...] with no dimension of 0")
    if clamp is not None and not clamp >= 0.0:
        raise ValueError(f"clamp: found {clamp}; allowed: None, or 0 and more")
    channels = x.shape[1]
    if bias is not None:
        check_dtype("bias", bias, FLOATS)
        check_shape("bias", bias, (channels,))
        check_contiguous("bias", bias)
    channels_last = is_channels_last("x", x)
    columns = channels if channels_last else x[0, 0].numel()
    rows = x.numel() // columns
    column_block = min(BLOCK, next_power(columns))
    row_block = BLOCK // column_block
    out = torch.empty_like(x)
    launch: Any = _bias_act_kernel[(ceil_div(rows, row_block) * ceil_div(columns, column_block),)]
    launch(
        x,
        x if bias is None else bias,
        out,
        rows,
        columns,
        channels,
        1.0 if linear else SLOPE * GAIN,
        1.0 if linear else GAIN,
        math.inf if clamp is None else clamp,
        BIAS=bias is not None,
        CHANNELS_LAST=channels_last,
        ROWS=row_block,
        COLUMNS=column_block,
        num_warps=NUM_WARPS,
    )
    return out
