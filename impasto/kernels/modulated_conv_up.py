"""Modulated convolution that doubles the size, followed by its epilogue (Karras et al. 2020, §2.2 and appendix B).

    t[n, 2i + k, 2j + l] += W[:, :, k, l]·(x[n, i, j] ⊙ s[n])          t [N, O, 2H+1, 2W+1]
    y[n, :, p, q] = epilogue(Σ_ab g[a]·g[b]·t[n, :, p - 1 + a, q - 1 + b])          g = [1, 3, 3, 1] / 4

Two exact forms (see `modulated_conv`). Folded, for small layers: one convolution with four times the outputs.
Transposed, for large ones: an implicit matrix product for each of the four parities of (row, column) of t, with 4, 2, 2
and 1 taps; then one pass that blurs and applies the epilogue.
"""

from __future__ import annotations

import torch
from torch import Tensor

from impasto.kernels import modulated_conv
from impasto.kernels.epilogue import Epilogue, finish
from impasto.kernels.jit import jit, tl, triton
from impasto.kernels.modulated_conv import PackedWeight, accumulate, check
from impasto.kernels.tiles import power_of_two, tile_of


def form_of(height: int, width: int) -> str:
    """The form for x [N, I, height, width]: "folded" up to 8×8, where launches cost more than products."""
    return "folded" if height * width <= 64 else "transposed"


@jit
def _transposed_kernel(
    x: tl.tensor,  # [N, H, W, I]
    weight: tl.tensor,  # as x [9, O, padded I]
    styles: tl.tensor,  # float32 [N, I]
    out: tl.tensor,  # as x [N, 2·H + 1, 2·W + 1, O]
    height: tl.tensor,
    width: tl.tensor,
    inputs: tl.tensor,
    padded_inputs: tl.tensor,
    outputs: tl.tensor,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(outputs, BLOCK_OUTPUTS)
    tiles = tl.cdiv((height + 1) * (width + 1), BLOCK_PIXELS) * blocks
    o_output = tl.program_id(0) % blocks * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    o_pixel = tl.program_id(0) % tiles // blocks * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    row, column = o_pixel // (width + 1), o_pixel % (width + 1)
    # The parity with the most taps comes first, so that the longest programs start first.
    odd_row, odd_column = tl.program_id(0) // tiles >> 1, tl.program_id(0) // tiles & 1

    # Bit 2·i + j says whether x at (row - i, column - j) lies in the picture.
    inside = tl.zeros([BLOCK_PIXELS], tl.int32)
    for bit in tl.static_range(4):
        tap_row, tap_column = row - bit // 2, column - bit % 2
        here = (tap_row >= 0) & (tap_row < height) & (tap_column >= 0) & (tap_column < width)
        inside |= here.to(tl.int32) << bit

    b_sum = tl.zeros([BLOCK_PIXELS, BLOCK_OUTPUTS], tl.float32)
    steps_of_tap = padded_inputs // BLOCK_INPUTS
    even_column = 1 - odd_column
    p_x = x + (n * height * width + row * width + column) * inputs
    p_weight = weight + o_output * padded_inputs
    for step in range((2 - odd_row) * (2 - odd_column) * steps_of_tap):
        i, j = (step // steps_of_tap) >> even_column, (step // steps_of_tap) & even_column
        tap = (odd_row + 2 * i) * 3 + odd_column + 2 * j
        b_sum = accumulate(
            b_sum,
            p_x - (i * width + j) * inputs,
            (inside >> (2 * i + j)) & 1 != 0,
            p_weight + tap * (outputs * padded_inputs),
            o_output < outputs,
            styles + n * inputs,
            step % steps_of_tap * BLOCK_INPUTS + tl.arange(0, BLOCK_INPUTS),
            inputs,
            PRECISION,
        )

    out_row, out_column = 2 * row + odd_row, 2 * column + odd_column
    m_out = (out_row <= 2 * height) & (out_column <= 2 * width)
    o_out = (n * (2 * height + 1) + out_row) * (2 * width + 1) + out_column
    p_out = out + o_out[:, None] * outputs + o_output[None, :]
    tl.store(p_out, b_sum.to(out.dtype.element_ty), mask=m_out[:, None] & (o_output < outputs)[None, :])


@jit
def _blurred_row(
    p_sums: tl.tensor,  # [C, O] pointers to row 0 of a sample's sums
    row: tl.tensor,
    o_column: tl.tensor,  # [C] their columns
    m_output: tl.tensor,  # [O]
    height: tl.tensor,
    width: tl.tensor,
    outputs: tl.tensor,
) -> tl.tensor:
    """Row `row` of the sums, float32 [C, O], blurred along the row; zero outside the picture."""
    b_row = tl.zeros(p_sums.shape, tl.float32)
    columns = tl.where((row >= 0) & (row < height), width, 0)  # a row outside has none
    for tap in tl.static_range(4):
        column = o_column + tap - 1
        mask = ((column >= 0) & (column < columns))[:, None] & m_output[None, :]
        p_tap = p_sums + (row.to(tl.int64) * width + tap - 1) * outputs
        b_tap = tl.load(p_tap, mask=mask, other=0.0).to(tl.float32)
        b_row += b_tap * (0.25 if tap % 3 == 0 else 0.75)
    return b_row


@jit
def _blur_kernel(
    sums: tl.tensor,  # [N, H + 1, W + 1, O]
    demodulation: tl.tensor,  # this and the next four: see `finish`
    noise: tl.tensor,
    strength: tl.tensor,
    bias: tl.tensor,
    noise_stride: tl.tensor,
    out: tl.tensor,  # as sums [N, H, W, O]
    height: tl.tensor,
    width: tl.tensor,
    outputs: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    LINEAR: tl.constexpr,
    CLAMP: tl.constexpr,
) -> None:
    n = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(outputs, BLOCK_OUTPUTS)
    across = tl.cdiv(width, BLOCK_COLUMNS)
    o_output = tl.program_id(0) % blocks * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    o_column = tl.program_id(0) // blocks % across * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    first = tl.program_id(0) // (blocks * across) * ROWS
    m_output = o_output < outputs
    p_sums = sums + (n * (height + 1) * (width + 1) + o_column)[:, None] * outputs + o_output[None, :]
    p_out = out + (n * height * width + o_column)[:, None] * outputs + o_output[None, :]
    b_0 = _blurred_row(p_sums, first - 1, o_column, m_output, height + 1, width + 1, outputs)
    b_1 = _blurred_row(p_sums, first, o_column, m_output, height + 1, width + 1, outputs)
    b_2 = _blurred_row(p_sums, first + 1, o_column, m_output, height + 1, width + 1, outputs)
    for row in tl.static_range(ROWS):
        b_3 = _blurred_row(p_sums, first + row + 2, o_column, m_output, height + 1, width + 1, outputs)
        b_y = 0.25 * (b_0 + b_3) + 0.75 * (b_1 + b_2)
        b_0, b_1, b_2 = b_1, b_2, b_3
        o_pixel = (first + row) * width + o_column
        pixels = height * width
        b_y = finish(
            b_y, n, o_pixel, o_output, demodulation, noise, strength, bias, noise_stride, pixels, outputs, LINEAR, CLAMP
        )
        m_column = o_column < tl.where(first + row < height, width, 0)
        o_row = (first + row).to(tl.int64) * width * outputs
        tl.store(p_out + o_row, b_y.to(out.dtype.element_ty), mask=m_column[:, None] & m_output[None, :])


def modulated_conv_up(
    x: Tensor, weight: PackedWeight, styles: Tensor, epilogue: Epilogue, *, precision: str = "tf32"
) -> Tensor:
    """x [N, I, H, W] in channels-last memory to [N, O, 2·H, 2·W], in the form that `weight` is packed for.

    The other arguments are those of `modulated_conv.modulated_conv`, and so are the promises and the errors. The
    transposed form keeps t in x's type.
    """
    if weight.up is None:
        raise ValueError('weight: found one packed for up=None; allowed are "transposed" and "folded"')
    if weight.up == "folded":
        return modulated_conv.modulated_conv(x, weight, styles, epilogue, precision=precision)
    check(x, weight, styles, precision)
    n, _, height, width = x.shape
    epilogue.check((n, weight.out_channels, 2 * height, 2 * width))
    return blurred(_transposed(x, weight, styles, precision), epilogue)


def _transposed(x: Tensor, weight: PackedWeight, styles: Tensor, precision: str) -> Tensor:
    """t in channels-last memory [N, O, 2·H + 1, 2·W + 1], in x's type."""
    n, inputs, height, width = x.shape
    outputs = weight.out_channels
    shape = (n, outputs, 2 * height + 1, 2 * width + 1)
    sums = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels = (height + 1) * (width + 1)
    tile = tile_of(pixels, inputs, outputs, x.dtype, precision)
    programs = 4 * triton.cdiv(pixels, tile.pixels) * triton.cdiv(outputs, tile.outputs)
    _transposed_kernel[(programs, n)](
        x,
        weight.taps,
        styles,
        sums,
        height,
        width,
        inputs,
        weight.taps.shape[2],
        outputs,
        BLOCK_PIXELS=tile.pixels,
        BLOCK_OUTPUTS=tile.outputs,
        BLOCK_INPUTS=tile.inputs,
        PRECISION=precision,
        num_warps=tile.warps,
        num_stages=tile.stages,
        enable_fp_fusion=True,
    )
    return sums


def blurred(sums: Tensor, epilogue: Epilogue) -> Tensor:
    """y for t [N, O, H + 1, W + 1] in channels-last memory, in the same and in t's type."""
    n, outputs, height, width = sums.shape[0], sums.shape[1], sums.shape[2] - 1, sums.shape[3] - 1
    out = torch.empty(
        (n, outputs, height, width), dtype=sums.dtype, device=sums.device, memory_format=torch.channels_last
    )
    rows, block_outputs = 8, power_of_two(outputs, 16, 64)
    columns = 512 // block_outputs
    programs = triton.cdiv(height, rows) * triton.cdiv(width, columns) * triton.cdiv(outputs, block_outputs)
    _blur_kernel[(programs, n)](
        sums,
        out=out,
        height=height,
        width=width,
        outputs=outputs,
        ROWS=rows,
        BLOCK_COLUMNS=columns,
        BLOCK_OUTPUTS=block_outputs,
        enable_fp_fusion=True,
        **epilogue.arguments(),
    )
    return out
