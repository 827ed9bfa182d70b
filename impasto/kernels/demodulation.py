"""The factors that bring a modulated convolution back to unit variance (Karras et al. 2020, §2.2).

    d[n, o] = (Σ_i s[n, i]² · squares[o, i] + 1e-8)^-½          s [N, I], squares [O, I]

A row is summed in one order whatever the batch, which a library's matrix product does not promise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from impasto.kernels import modulated_conv
from impasto.kernels.epilogue import check_float32
from impasto.kernels.jit import jit, tl, triton

reference = modulated_conv.demodulation


@jit
def _demodulation_kernel(
    styles: tl.tensor,  # float32 [N, I]
    squares: tl.tensor,  # float32 [O, I]
    out: tl.tensor,  # float32 [N, O]
    inputs: tl.tensor,
    outputs: tl.tensor,
    EPSILON: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
) -> None:
    n = tl.program_id(1)
    o_output = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    m_output = o_output < outputs
    b_sum = tl.zeros([BLOCK_OUTPUTS, BLOCK_INPUTS], tl.float32)
    for first in range(0, inputs, BLOCK_INPUTS):
        o_input = first + tl.arange(0, BLOCK_INPUTS)
        m_input = o_input < inputs
        p_squares = squares + o_output[:, None] * inputs + o_input[None, :]
        b_squares = tl.load(p_squares, mask=m_output[:, None] & m_input[None, :], other=0.0)
        b_style = tl.load(styles + n * inputs + o_input, mask=m_input, other=0.0)
        b_sum += b_squares * (b_style * b_style)[None, :]
    tl.store(out + n * outputs + o_output, tl.rsqrt(tl.sum(b_sum, axis=1) + EPSILON), mask=m_output)


def demodulate(styles: Tensor, squares: Tensor) -> Tensor:
    """d [N, O] for styles [N, I] and the table of `modulated_conv.squared_weights` [O, I], all float32.

    Raises ValueError for another type, shape or layout.
    """
    outputs, inputs = squares.shape
    n = styles.shape[0]
    check_float32("styles", styles, (n, inputs))
    check_float32("squares", squares, (outputs, inputs))
    out = torch.empty((n, outputs), dtype=torch.float32, device=styles.device)
    grid = (triton.cdiv(outputs, 16), n)
    _demodulation_kernel[grid](
        styles, squares, out, inputs, outputs, modulated_conv.EPSILON, BLOCK_OUTPUTS=16, BLOCK_INPUTS=128
    )
    return out
