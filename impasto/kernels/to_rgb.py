"""The features of a StyleGAN2 block to its picture, and the picture so far added at twice its size.

    y[n, o, h, w] = clamp(Σ_i W[o, i]·s[n, i]·x[n, i, h, w] + b[o], ±clamp) + up2(skip)[n, o, h, w]

x [N, I, H, W], W [O, I, 1, 1] with few outputs, s [N, I], b [O], skip [N, O, H/2, W/2]: a modulated 1×1 convolution
without demodulation (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", §2.2 and §4.1) and
`upfirdn.upsample2` with the filter [1, 3, 3, 1], of which two taps an axis meet a sample: 3/4 of the nearest pixel and
1/4 of the one beyond, zero outside. Pictures are float32 whatever x is. With so few outputs the time goes into reading
x, so sums are plain float32 ones and no matrix instruction is used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from impasto.kernels import bias_act, modulated_conv, upfirdn
from impasto.kernels.arguments import ceil_div, check_contiguous, check_dtype, check_shape, is_channels_last, next_power
from impasto.kernels.jit import jit, tl

TILE = 2048
"""Features that a program holds at a time."""


def reference(
    x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor, skip: Tensor | None = None, *, clamp: float | None = None
) -> Tensor:
    """The picture [N, O, H, W], in the dtype of styles; the convolution is computed in that of x."""
    y = modulated_conv.reference(x, weight, styles, demodulate=False)
    y = bias_act.reference(y, bias, linear=True, clamp=clamp).to(styles.dtype)
    return y if skip is None else upfirdn.upsample2(skip, upfirdn.binomial_filter(skip.dtype, skip.device)) + y


@jit
def _to_rgb_kernel(
    p_x: tl.tensor,  # float32, float16 or bfloat16 [N, pixels, inputs], by strides
    p_y: tl.tensor,  # float32 [N, outputs, pixels]
    p_weight: tl.tensor,  # float32 [outputs, inputs]
    p_styles: tl.tensor,  # float32 [N, inputs]
    p_bias: tl.tensor,  # float32 [outputs]
    p_skip: tl.tensor,  # float32 [N, outputs, pixels / 4], or None
    inputs: tl.tensor,
    outputs: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    pixel_stride: tl.tensor,
    input_stride: tl.tensor,
    clamp: tl.tensor,
    tiles: tl.tensor,  # of a sample's pixels
    BLOCK_P: tl.constexpr,
    BLOCK_I: tl.constexpr,
) -> None:
    n = (tl.program_id(0) // tiles).to(tl.int64)
    o_p = (tl.program_id(0) % tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
    o_i = tl.arange(0, BLOCK_I)
    pixels = height * width
    m_p = o_p < pixels
    p_pixel = p_x + n * pixels * inputs + o_p.to(tl.int64)[:, None] * pixel_stride

    # In the skip picture: the nearest pixel, and the one beyond it on the side that the pixel lies on.
    row = width // 2
    near_y, near_x = o_p // width // 2, o_p % width // 2
    beyond_y, beyond_x = near_y + (o_p // width) % 2 * 2 - 1, near_x + (o_p % width) % 2 * 2 - 1
    m_y = m_p & (beyond_y >= 0) & (beyond_y < height // 2)
    m_x = (beyond_x >= 0) & (beyond_x < row)

    # One output after the other: x comes from the cache after the first, and one output's sums fit in registers.
    for o in range(outputs):
        b_sums = tl.zeros([BLOCK_P, BLOCK_I], tl.float32)
        for start in range(0, inputs, BLOCK_I):
            m_i = start + o_i < inputs
            b_weight = tl.load(p_weight + o * inputs + start + o_i, mask=m_i, other=0.0)
            b_weight *= tl.load(p_styles + n * inputs + start + o_i, mask=m_i, other=0.0)
            p_tile = p_pixel + (start + o_i).to(tl.int64)[None, :] * input_stride
            b_x = tl.load(p_tile, mask=m_p[:, None] & m_i[None, :], other=0.0)
            b_sums += b_x.to(tl.float32) * b_weight[None, :]
        b_y = tl.sum(b_sums, 1) + tl.load(p_bias + o)
        b_y = tl.clamp(b_y, -clamp, clamp, propagate_nan=tl.PropagateNan.ALL)
        plane = n * outputs + o
        if p_skip is not None:
            p_near = p_skip + plane * (pixels // 4) + near_y * row
            p_beyond = p_skip + plane * (pixels // 4) + beyond_y * row
            b_near = 0.75 * tl.load(p_near + near_x, mask=m_p, other=0.0)
            b_near += 0.25 * tl.load(p_near + beyond_x, mask=m_p & m_x, other=0.0)
            b_beyond = 0.75 * tl.load(p_beyond + near_x, mask=m_y, other=0.0)
            b_beyond += 0.25 * tl.load(p_beyond + beyond_x, mask=m_y & m_x, other=0.0)
            b_y += 0.75 * b_near + 0.25 * b_beyond
        tl.store(p_y + plane * pixels + o_p, b_y, mask=m_p)


def tile(pixels: int, inputs: int, channels_last: bool) -> tuple[int, int]:
    """Pixels and inputs that a program holds at a time: long runs, and few turns of the loop over inputs."""
    if channels_last:
        block_i = min(next_power(inputs), 128)
        return TILE // block_i, block_i
    block_p = min(next_power(pixels), 128)
    return block_p, TILE // block_p


def to_rgb(
    x: Tensor, weight: Tensor, styles: Tensor, bias: Tensor, skip: Tensor | None = None, *, clamp: float | None = None
) -> Tensor:
    """The picture float32 [N, O, H, W] of features x [N, I, H, W], contiguous or channels-last.

    x is float32, float16 or bfloat16, all else float32 and contiguous: `weight` [O, I, 1, 1], `styles` [N, I] with
    every factor in them, `bias` [O], the picture so far `skip` [N, O, H/2, W/2]; `clamp` bounds the absolute value
    before the skip picture is added. Raises ValueError for anything else.
    """
    if x.ndim != 4:
        raise ValueError(f"x: found {x.ndim} dimensions; allowed: 4")
    n, inputs, height, width = x.shape
    outputs = weight.shape[0]
    if skip is not None and (height % 2 or width % 2):
        raise ValueError(f"x: found {height}×{width} with a skip picture; allowed: even sides")
    check_dtype("x", x)
    channels_last = is_channels_last("x", x)
    shapes = {"weight": (outputs, inputs, 1, 1), "styles": (n, inputs), "bias": (outputs,)}
    parameters = {"weight": weight, "styles": styles, "bias": bias}
    if skip is not None:
        shapes["skip"], parameters["skip"] = (n, outputs, height // 2, width // 2), skip
    for name, parameter in parameters.items():
        check_dtype(name, parameter, (torch.float32,))
        check_shape(name, parameter, shapes[name])
        check_contiguous(name, parameter)

    pixels = height * width
    pixel_stride, input_stride = (inputs, 1) if channels_last else (1, pixels)
    block_p, block_i = tile(pixels, inputs, channels_last)
    tiles = ceil_div(pixels, block_p)
    y = torch.empty(n, outputs, height, width, dtype=torch.float32, device=x.device)
    # fmt: off
    _to_rgb_kernel[(n * tiles,)](
        x, y, weight, styles, bias, skip, inputs, outputs, height, width, pixel_stride, input_stride,
        math.inf if clamp is None else clamp, tiles,
        BLOCK_P=block_p, BLOCK_I=block_i, num_warps=4, enable_fp_fusion=True,
    )
    # fmt: on
    return y
